//! Scripts of lockdowns, to the letter.

use super::*;
use crate::Route;

const PLACE: Place<'_> = Place {
    table: "marmot_lockdown_3",
    tunnel: "work",
    interface: "mm-work",
    mark: 0x6d61_0003,
    marks: (0x6d61_0000, 0xffff_ffc0),
    flows: (0x6d62_0000, 0xffff_0000),
};

fn openings() -> Openings {
    let mut openings = Openings::default();
    for (address, protocol) in [
        ("198.51.100.1:443", Transport::Tcp),
        ("198.51.100.1:4443", Transport::Udp),
        ("[2001:db8::1]:443", Transport::Tcp),
    ] {
        openings
            .gateways
            .insert((address.parse().expect("an address"), protocol));
    }
    openings
}

#[test]
fn a_lockdown_without_exceptions_is_this() {
    let script = Lockdown::default().script(&PLACE, &openings());
    let expected = include_str!("strict.nft");
    assert_eq!(script, expected, "{script}");
}

#[test]
fn a_lockdown_with_exceptions_is_this() {
    let lockdown = Lockdown {
        always: true,
        allow_lan: true,
        interfaces: vec!["mm-home".to_owned(), "virbr0".to_owned()],
    };
    let mut openings = openings();
    openings.resolvers.insert([192, 0, 2, 53].into());
    openings.inside = vec!["10.77.0.0/24".parse().expect("a network")];
    let script = lockdown.script(&PLACE, &openings);
    let expected = include_str!("lenient.nft");
    assert_eq!(script, expected, "{script}");
}

#[test]
fn what_is_open_is_replaced_as_a_whole() {
    let script = Lockdown::opening("marmot_lockdown_3", &openings());
    let lines: Vec<_> = script.lines().collect();
    assert_eq!(lines.len(), 8 + 2, "every set is flushed, and two are filled: {script}");
    assert_eq!(lines[0], "flush set inet marmot_lockdown_3 gateways4");
    assert_eq!(
        lines[1],
        "add element inet marmot_lockdown_3 gateways4 { 198.51.100.1 . tcp . 443, 198.51.100.1 . udp . 4443 }"
    );
}

#[test]
fn the_networks_of_a_plan_are_kept_off_the_local_network() {
    let route = |net: &str, kind| Route {
        net: net.parse().expect("a network"),
        kind,
    };
    let plan = NetworkPlan {
        routes: vec![
            route("0.0.0.0/0", RouteKind::Tunnel),
            route("10.0.0.0/8", RouteKind::Tunnel),
            route("10.77.0.0/24", RouteKind::Tunnel),
            route("10.9.0.0/24", RouteKind::Throw),
            route("203.0.113.0/24", RouteKind::Throw),
        ],
        ..NetworkPlan::default()
    };
    let mut openings = openings();
    openings.follow(&plan);
    let words = |nets: &[IpNet]| joined(nets.iter().copied());
    assert_eq!(
        words(&openings.inside),
        "10.0.0.0/8",
        "overlapping networks are one set to nft"
    );
    assert_eq!(
        words(&openings.outside),
        "10.9.0.0/24",
        "a public network is not opened by the gateway's word"
    );
}
