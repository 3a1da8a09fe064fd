//! Scripts as the kernel gets them, and what holds for all of them.

use proptest::arbitrary::any as arbitrary;
use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;

fn owner() -> (Vec<IpNet>, &'static str) {
    let addresses = ["10.78.0.2/32", "fd00:78::2/128"];
    (
        addresses.iter().map(|net| net.parse().expect("a net")).collect(),
        "mm-work",
    )
}

fn any(action: Action) -> FlowRule {
    FlowRule {
        action,
        networks: Vec::new(),
        ports: Vec::new(),
        protocol: None,
        cgroup: None,
        uid: None,
    }
}

fn flows(default: Action, rules: Vec<FlowRule>) -> Flows {
    Flows {
        default,
        rules,
        inside: "marmot-work-inside".to_owned(),
        outside: "marmot-work-outside".to_owned(),
    }
}

fn script(flows: &Flows, groups: Option<&Groups>, counts: &BTreeMap<String, (u64, u64)>) -> String {
    let (addresses, interface) = owner();
    let owner = Owner {
        slot: 3,
        interface,
        addresses: &addresses,
    };
    flows.script(owner, groups, counts)
}

fn children(names: &[&str]) -> BTreeMap<String, u64> {
    names
        .iter()
        .zip(1..)
        .map(|(name, number)| ((*name).to_owned(), number))
        .collect()
}

/// A machine with systemd.
fn groups() -> Groups {
    Groups {
        root: "unified/".to_owned(),
        children: BTreeMap::from([
            (String::new(), children(&["init.scope", "system.slice"])),
            ("system.slice".to_owned(), children(&["cron.service", "web.service"])),
        ]),
    }
}

fn service(name: &str) -> FlowRule {
    FlowRule {
        cgroup: Some(format!("system.slice/{name}")),
        ..any(Action::Tunnel)
    }
}

#[test]
fn the_table_of_chosen_flows() {
    let rules = vec![
        FlowRule {
            networks: ["10.0.0.0/9", "10.128.0.0/9", "2001:db8::/32"]
                .iter()
                .map(|net| net.parse().expect("a net"))
                .collect(),
            ports: vec![(8000, 8999), (443, 443), (8500, 9000)],
            protocol: Some(Protocol::Tcp),
            ..any(Action::Direct)
        },
        service("web.service"),
        FlowRule {
            ports: vec![(53, 53)],
            uid: Some(1000),
            ..any(Action::Tunnel)
        },
        FlowRule {
            ports: (1..=9).map(|port| (port * 10, port * 10)).collect(),
            networks: vec!["0.0.0.0/0".parse().expect("a net")],
            protocol: Some(Protocol::Udp),
            ..any(Action::Tunnel)
        },
    ];
    let counts = BTreeMap::from([("rule2".to_owned(), (7, 420))]);
    let found = script(&flows(Action::Direct, rules), Some(&groups()), &counts);
    let expected = include_str!("chosen.nft");
    assert_eq!(found, expected, "\n--- found:\n{found}---");
}

#[test]
fn a_rule_is_told_in_a_few_words() {
    let rule = FlowRule {
        networks: vec!["10.0.0.0/8".parse().expect("a net")],
        ports: vec![(443, 443), (8000, 8999)],
        protocol: Some(Protocol::Tcp),
        uid: Some(1000),
        ..service("web.service")
    };
    assert_eq!(
        rule.to_string(),
        "user 1000 group system.slice/web.service tcp port 443,8000-8999 to 10.0.0.0/8"
    );
}

#[test]
fn the_table_beside_a_tunnel_for_the_rest() {
    let rules = vec![FlowRule {
        networks: vec!["0.0.0.0/0".parse().expect("a net")],
        protocol: Some(Protocol::Udp),
        ..any(Action::Direct)
    }];
    let found = script(&flows(Action::Tunnel, rules), None, &BTreeMap::new());
    let expected = include_str!("rest.nft");
    assert_eq!(found, expected, "\n--- found:\n{found}---");
}

#[test]
fn a_group_that_comes_back_is_known_by_its_new_number() {
    let flows = flows(Action::Direct, vec![service("web.service")]);
    let mut groups = groups();
    let with = flows.groups_script(3, &groups);
    assert!(
        with.contains("add element inet marmot_flows_3 g2 { \"unified/system.slice/web.service\" }\n"),
        "{with}"
    );
    groups
        .children
        .get_mut("system.slice")
        .expect("there")
        .remove("web.service");
    let without = flows.groups_script(3, &groups);
    assert!(
        without.contains("flush set inet marmot_flows_3 g2\nflush set"),
        "{without}"
    );
    assert!(!without.contains("web.service"));
}

#[test]
fn parents_are_watched_up_to_the_root() {
    let flows = flows(Action::Direct, vec![service("web.service"), service("cron.service")]);
    assert_eq!(flows.parents().into_iter().collect::<Vec<_>>(), ["", "system.slice"]);
    assert!(flows.needs_groups());
}

#[test]
fn only_what_can_be_quoted_is_named() {
    for name in ["a.service", "a\\x2db", "a b", "ä"] {
        assert!(can_be_named(name), "{name}");
    }
    for name in ["", "a\"b", "a\nb", "a*"] {
        assert!(!can_be_named(name), "{name}");
    }
}

#[test]
fn a_record_keeps_what_undoing_needs_and_no_rules() {
    let flows = flows(Action::Direct, vec![service("web.service"); 1000]);
    let record = serde_json::to_string(&flows).expect("written");
    assert_eq!(record, r#"{"default":"direct"}"#);
    let read: Flows = serde_json::from_str(&record).expect("read");
    assert_eq!((read.default, read.rules.len()), (Action::Direct, 0));
}

fn a_rule() -> impl Strategy<Value = FlowRule> {
    let net = (arbitrary::<u32>(), 0u8..=32).prop_map(|(bits, length)| {
        let net = Ipv4Net::new(bits.into(), length).expect("a length");
        IpNet::V4(net.trunc())
    });
    let port = (1u16.., 0u16..100).prop_map(|(first, more)| (first, first.saturating_add(more)));
    (
        proptest::bool::ANY,
        proptest::collection::vec(net, 0..4),
        proptest::collection::vec(port, 0..6),
        proptest::option::of(prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]),
        proptest::option::of("[a-c](/[a-c]){0,3}"),
        proptest::option::of(0u32..5),
    )
        .prop_map(|(tunnel, networks, ports, protocol, cgroup, uid)| FlowRule {
            action: if tunnel { Action::Tunnel } else { Action::Direct },
            networks,
            ports,
            protocol,
            cgroup,
            uid,
        })
}

proptest! {
    #[test]
    fn ports_are_merged_without_loss_or_overlap(ports in proptest::collection::vec((1u16..2000, 0u16..50), 0..20), probe in 1u16..2100) {
        let ports: Vec<_> = ports.into_iter().map(|(first, more)| (first, first + more)).collect();
        let merged = merged(&ports);
        let holds = |ports: &[(u16, u16)]| ports.iter().any(|(first, last)| (*first..=*last).contains(&probe));
        prop_assert_eq!(holds(&ports), holds(&merged));
        prop_assert!(merged.windows(2).all(|pair| u32::from(pair[0].1) + 1 < u32::from(pair[1].0)));
    }

    #[test]
    fn whatever_a_script_names_it_has(rules in proptest::collection::vec(a_rule(), 0..12), tunnel in arbitrary::<bool>()) {
        let default = if tunnel { Action::Tunnel } else { Action::Direct };
        let flows = flows(default, rules);
        let script = script(&flows, Some(&groups()), &BTreeMap::new());
        prop_assert_eq!(script.matches('{').count(), script.matches('}').count());
        let words: Vec<&str> = script.split_whitespace().collect();
        for pair in words.windows(2) {
            if let Some(set) = pair[1].strip_prefix('@') {
                prop_assert!(script.contains(&format!("set {set} {{")) || script.contains(&format!("map {set} {{")), "{}", set);
            }
            if pair[0] == "goto" {
                prop_assert!(["inside", "outside"].contains(&pair[1]));
            }
        }
        // In their order, and each connection keeps its own number.
        let places: Vec<_> = flows
            .rules
            .iter()
            .zip(1u32..)
            .map(|(rule, number)| script.find(&format!("ct mark set {:#x} goto", kept(family(rule.action), 3, number))))
            .collect();
        prop_assert!(places.iter().all(Option::is_some));
        prop_assert!(places.is_sorted());
    }
}
