//! Facts about access lists, and the list compared with a plain walk through its rules.

use super::*;
use crate::sample;
use proptest::prelude::*;

fn rule(action: Action, networks: &[&str], protocol: Protocol, ports: &[RangeInclusive<u16>]) -> Rule {
    Rule {
        action,
        networks: networks.iter().map(|net| net.parse().expect("a network")).collect(),
        protocol,
        ports: ports.to_vec(),
    }
}

fn allow(networks: &[&str], protocol: Protocol, ports: &[RangeInclusive<u16>]) -> Rule {
    rule(Action::Allow, networks, protocol, ports)
}

fn deny(networks: &[&str], protocol: Protocol, ports: &[RangeInclusive<u16>]) -> Rule {
    rule(Action::Deny, networks, protocol, ports)
}

fn v4(from: [u8; 4], to: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = sample::v4(protocol, &[], 0, payload);
    packet[12..16].copy_from_slice(&from);
    packet[16..20].copy_from_slice(&to);
    packet
}

const CLIENT: [u8; 4] = [10, 78, 0, 2];

/// TCP or UDP between a port 40,000 of the client and a port of another host.
fn up(to: [u8; 4], protocol: u8, port: u16) -> Vec<u8> {
    v4(
        CLIENT,
        to,
        protocol,
        &[&40_000_u16.to_be_bytes()[..], &port.to_be_bytes(), &[0; 16]].concat(),
    )
}

fn down(from: [u8; 4], protocol: u8, port: u16) -> Vec<u8> {
    v4(
        from,
        CLIENT,
        protocol,
        &[&port.to_be_bytes()[..], &40_000_u16.to_be_bytes(), &[0; 16]].concat(),
    )
}

fn permits(list: &AccessList, packet: &[u8], towards: Towards) -> bool {
    list.permits(&IpPacket::parse(packet).expect("a packet"), towards)
}

const WEB: [u8; 4] = [10, 77, 0, 10];

/// The web server alone, by HTTPS and ping.
fn web() -> AccessList {
    let rules = [
        allow(&["10.77.0.10/32"], Protocol::Tcp, &[443..=443]),
        allow(&["10.77.0.10/32"], Protocol::Icmp, &[]),
    ];
    AccessList::compile(&rules, Action::Deny)
}

#[test]
fn only_what_is_allowed_passes_and_only_its_answers_come_back() {
    let list = web();
    assert!(permits(&list, &up(WEB, TCP, 443), Towards::Network));
    assert!(permits(&list, &down(WEB, TCP, 443), Towards::Client));
    for (protocol, port) in [(TCP, 444), (TCP, 80), (UDP, 443), (47, 443)] {
        assert!(
            !permits(&list, &up(WEB, protocol, port), Towards::Network),
            "{protocol} {port}"
        );
        assert!(
            !permits(&list, &down(WEB, protocol, port), Towards::Client),
            "{protocol} {port}"
        );
    }
    assert!(!permits(&list, &up([10, 77, 0, 11], TCP, 443), Towards::Network));
    assert!(!permits(&list, &down([10, 77, 0, 11], TCP, 443), Towards::Client));
    let echo = v4(CLIENT, WEB, ICMP, &[8, 0, 0, 0, 0, 1, 0, 1]);
    assert!(permits(&list, &echo, Towards::Network));
    let stranger = v4(CLIENT, [10, 77, 0, 11], ICMP, &[8, 0, 0, 0, 0, 1, 0, 1]);
    assert!(!permits(&list, &stranger, Towards::Network));
}

#[test]
fn the_first_rule_that_fits_decides() {
    let rules = [
        allow(&["10.77.0.10/32"], Protocol::Any, &[]),
        deny(&["10.77.0.0/24"], Protocol::Tcp, &[25..=25]),
        deny(&["10.77.0.128/25"], Protocol::Any, &[]),
    ];
    let list = AccessList::compile(&rules, Action::Allow);
    assert!(permits(&list, &up(WEB, TCP, 25), Towards::Network));
    assert!(!permits(&list, &up([10, 77, 0, 11], TCP, 25), Towards::Network));
    assert!(permits(&list, &up([10, 77, 0, 11], TCP, 26), Towards::Network));
    assert!(!permits(&list, &up([10, 77, 0, 200], UDP, 26), Towards::Network));
    assert!(permits(&list, &up([10, 77, 1, 200], UDP, 26), Towards::Network));
    assert!(permits(&list, &up([255, 255, 255, 254], UDP, 26), Towards::Network));
}

#[test]
fn a_rule_without_networks_is_for_both_families() {
    let list = AccessList::compile(&[allow(&[], Protocol::Any, &[53..=53])], Action::Deny);
    let v6 = |protocol, port: u16| sample::v6(protocol, &[&[0x9c, 0x40][..], &port.to_be_bytes(), &[0; 16]].concat());
    for protocol in [TCP, UDP] {
        assert!(permits(&list, &up(WEB, protocol, 53), Towards::Network));
        assert!(permits(&list, &v6(protocol, 53), Towards::Network));
        assert!(!permits(&list, &v6(protocol, 54), Towards::Network));
    }
    assert!(!permits(&list, &v6(ICMPV6, 53), Towards::Network), "it has no port");
}

#[test]
fn a_fragment_without_ports_passes_only_where_ports_do_not_matter() {
    let later = |protocol, to: [u8; 4]| {
        let mut packet = v4(CLIENT, to, protocol, &[0; 32]);
        packet[7] = 4;
        packet
    };
    let list = web();
    assert!(!permits(&list, &later(TCP, WEB), Towards::Network));
    assert!(permits(&list, &later(ICMP, WEB), Towards::Network));
    let rules = [
        deny(&[], Protocol::Tcp, &[25..=25]),
        allow(&[], Protocol::Udp, &[1..=u16::MAX, 0..=0]),
    ];
    let list = AccessList::compile(&rules, Action::Allow);
    assert!(
        !permits(&list, &later(TCP, WEB), Towards::Network),
        "it could be of port 25"
    );
    assert!(
        permits(&list, &later(UDP, WEB), Towards::Network),
        "every port is allowed"
    );
    // The beginning has ports, unless it is shorter than that.
    let mut first = up(WEB, TCP, 443);
    first[6] = 0x20;
    assert!(permits(&web(), &first, Towards::Network));
    let mut tiny = v4(CLIENT, WEB, TCP, &[0x9c, 0x40, 1]);
    tiny[6] = 0x20;
    assert!(!permits(&web(), &tiny, Towards::Network));
}

#[test]
fn what_does_not_go_where_its_header_says_does_not_pass() {
    let rules = [allow(&[], Protocol::Tcp, &[443..=443])];
    let list = AccessList::compile(&rules, Action::Allow);
    let tcp = [&40_000_u16.to_be_bytes()[..], &443_u16.to_be_bytes(), &[0; 16]].concat();
    let options = |options: &[u8]| permits(&list, &sample::v4(TCP, options, 0, &tcp), Towards::Network);
    assert!(options(&[7, 4, 4, 0]), "a record of the route is harmless");
    assert!(options(&[1, 1, 0, 131]), "behind the end there is nothing");
    for kind in [131, 137] {
        assert!(!options(&[kind, 7, 4, 10, 77, 0, 11, 0]));
        assert!(!options(&[1, kind, 7, 4, 10, 77, 0, 11]));
    }
    assert!(!options(&[7, 0, 0, 0]), "nobody knows where it ends");
    let routed = |left| {
        let mut payload = vec![TCP, 2, 0, left, 0, 0, 0, 0];
        payload.extend([0; 16]);
        payload.extend(&tcp);
        permits(&list, &sample::v6(43, &payload), Towards::Network)
    };
    assert!(routed(0));
    assert!(!routed(1));
}

#[test]
fn an_icmp_error_passes_with_the_packet_that_it_quotes() {
    let list = web();
    let router = [192, 0, 2, 77];
    let error = |from, to, kind: u8, quoted: &[u8]| {
        v4(
            from,
            to,
            ICMP,
            &[&[kind, 4, 0, 0, 0, 0, 5, 0][..], &quoted[..28]].concat(),
        )
    };
    let sent = up(WEB, TCP, 443);
    assert!(permits(&list, &error(router, CLIENT, 3, &sent), Towards::Client));
    assert!(permits(&list, &error(router, CLIENT, 11, &sent), Towards::Client));
    assert!(
        !permits(&list, &error(router, CLIENT, 8, &sent), Towards::Client),
        "no error"
    );
    assert!(!permits(
        &list,
        &error(router, CLIENT, 3, &up(WEB, TCP, 80)),
        Towards::Client
    ));
    assert!(
        !permits(&list, &error(router, [10, 78, 0, 3], 3, &sent), Towards::Client),
        "of another"
    );
    // The client about what it got.
    let got = down(WEB, TCP, 443);
    let only_tcp = AccessList::compile(&[allow(&["10.77.0.10/32"], Protocol::Tcp, &[443..=443])], Action::Deny);
    assert!(permits(&only_tcp, &error(CLIENT, WEB, 3, &got), Towards::Network));
    assert!(!permits(
        &only_tcp,
        &error(CLIENT, WEB, 3, &down(WEB, TCP, 80)),
        Towards::Network
    ));
    assert!(!permits(
        &only_tcp,
        &error(CLIENT, [10, 77, 0, 11], 3, &got),
        Towards::Network
    ));
    assert!(!permits(
        &only_tcp,
        &error([10, 78, 0, 9], WEB, 3, &got),
        Towards::Network
    ));
    // Cut off within the quote.
    assert!(!permits(
        &only_tcp,
        &v4(router, CLIENT, ICMP, &[3, 4, 0, 0, 0, 0, 5, 0, 0x45]),
        Towards::Client
    ));
}

#[test]
fn extension_headers_that_lead_nowhere_pass_only_where_everything_does() {
    let endless = sample::v6(0, &[0; 8 * 20]);
    let cut_off = sample::v6(60, &[6, 1, 0, 0, 0, 0, 0, 0]);
    let open = AccessList::compile(&[], Action::Allow);
    assert!(
        !permits(&open, &endless, Towards::Network),
        "there may be a source route"
    );
    assert!(permits(&open, &cut_off, Towards::Network));
    let list = AccessList::compile(&[deny(&[], Protocol::Udp, &[9..=9])], Action::Allow);
    assert!(!permits(&list, &cut_off, Towards::Network));
}

/// What the rules say of one packet, by walking through them.
fn plainly(rules: &[Rule], default: Action, peer: IpAddr, protocol: u8, port: u16) -> bool {
    let fits = |rule: &&Rule| {
        let network = rule.networks.is_empty() || rule.networks.iter().any(|net| net.contains(&peer));
        let right = match rule.protocol {
            Protocol::Any => rule.ports.is_empty() || matches!(protocol, TCP | UDP),
            Protocol::Tcp => protocol == TCP,
            Protocol::Udp => protocol == UDP,
            Protocol::Icmp => protocol == ICMP,
        };
        network && right && (rule.ports.is_empty() || rule.ports.iter().any(|range| range.contains(&port)))
    };
    rules.iter().find(fits).map_or(default, |rule| rule.action) == Action::Allow
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![Just(Action::Allow), Just(Action::Deny)]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let net = (0..8_u8, 0..8_u8, 20..=32_u8).prop_map(|(c, d, length)| {
        let net = IpNet::new([10, 77, c, d].into(), length).expect("a prefix");
        net.trunc()
    });
    let protocols = prop_oneof![
        Just(Protocol::Any),
        Just(Protocol::Tcp),
        Just(Protocol::Udp),
        Just(Protocol::Icmp)
    ];
    let range = (0..12_u16, 0..4_u16).prop_map(|(start, more)| start..=start + more);
    let networks = prop::collection::vec(net, 0..3);
    let ports = prop::collection::vec(range, 0..3);
    (any_action(), networks, protocols, ports).prop_map(|(action, networks, protocol, ports)| Rule {
        action,
        networks,
        ports: if protocol == Protocol::Icmp { Vec::new() } else { ports },
        protocol,
    })
}

proptest! {
    #[test]
    fn a_compiled_list_says_what_its_rules_say(
        rules in prop::collection::vec(any_rule(), 0..12), default in any_action(),
        c in 0..9_u8, d in 0..9_u8, port in 0..18_u16,
    ) {
        let list = AccessList::compile(&rules, default);
        let peer = [10, 77, c, d];
        for protocol in [TCP, UDP, ICMP, 47] {
            let expected = plainly(&rules, default, peer.into(), protocol, port);
            prop_assert_eq!(permits(&list, &up(peer, protocol, port), Towards::Network), expected);
            if protocol != ICMP {
                prop_assert_eq!(permits(&list, &down(peer, protocol, port), Towards::Client), expected);
            }
        }
    }

    #[test]
    fn no_packet_panics(bytes in prop::collection::vec(any::<u8>(), 0..128), first in prop_oneof![Just(0x45_u8), Just(0x4f), Just(0x60)]) {
        let mut bytes = bytes;
        if bytes.len() >= 20 {
            bytes[0] = first;
            let length = u16::try_from(bytes.len()).expect("short");
            if first == 0x60 {
                bytes[4..6].copy_from_slice(&length.saturating_sub(40).to_be_bytes());
            } else {
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
            }
        }
        if let Ok(packet) = IpPacket::parse(&bytes) {
            let list = web();
            let _ = (list.permits(&packet, Towards::Network), list.permits(&packet, Towards::Client));
        }
    }
}
