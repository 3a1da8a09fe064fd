//! A packet of a client, looked up in the access rules of its group.

use std::hint::black_box;

use packet::access::{Action, Protocol, Rule, Towards};
use packet::{AccessList, IpPacket};

/// One packet in this many rules: nine of ten for networks beside each other, the rest for ports of all.
pub fn access(rules: u16) -> impl FnMut() {
    let rules: Vec<Rule> = (0..rules).map(rule).collect();
    let list = AccessList::compile(&rules, Action::Deny);
    let mut bytes = vec![0; 60];
    bytes[..4].copy_from_slice(&[0x45, 0, 0, 60]);
    bytes[9] = 6;
    // To a host of the first network, by a port that no other rule names.
    bytes[12..20].copy_from_slice(&[10, 78, 0, 2, 10, 0, 1, 10]);
    bytes[20..24].copy_from_slice(&[0x9c, 0x40, 0x01, 0xbb]);
    move || {
        let packet = IpPacket::parse(black_box(&bytes)).expect("a packet");
        assert!(black_box(&list).permits(&packet, Towards::Network));
    }
}

fn rule(number: u16) -> Rule {
    let [high, low] = number.to_be_bytes();
    let ports = number.is_multiple_of(10);
    Rule {
        action: if ports { Action::Deny } else { Action::Allow },
        networks: match ports {
            true => Vec::new(),
            false => vec![format!("10.{high}.{low}.0/24").parse().expect("a network")],
        },
        protocol: Protocol::Tcp,
        ports: if ports {
            vec![number + 1000..=number + 1004]
        } else {
            Vec::new()
        },
    }
}
