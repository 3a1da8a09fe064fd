//! `[on_demand]` of the client: a tunnel that waits for traffic, and networks in which there is none.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::document::Document;
use crate::section::Section;
use crate::{Pin, names};

/// `[on_demand]`, and the rules of `[[on_demand.rule]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnDemand {
    /// Put device, addresses and routes on the host at the start, and connect when a program sends something.
    pub enabled: bool,
    /// How long no program uses a tunnel until its connection is let go. 1 s to 7 d; default 5 min; `None` (0) never.
    pub idle: Option<Duration>,
    /// Packets that are held while a connection is made. 1 to 4096; default 64.
    pub hold_packets: u32,
    /// Bytes of them. 2 KiB to 16 MiB; default 128 KiB.
    pub hold_bytes: u32,
    /// The first one that matches says what is done in a network; with or without `enabled`.
    pub rules: Vec<NetworkRule>,
}

/// `[[on_demand.rule]]`: what is done in a network. All conditions must hold; one without any holds everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRule {
    /// Its name in the log, or its number.
    pub name: String,
    /// What is done.
    pub action: RuleAction,
    /// The interface that leads to everywhere has such a name, where `*` stands for any characters; empty for any.
    pub interfaces: Vec<String>,
    /// This host's address there is in one of these; empty for any.
    pub networks: Vec<IpNet>,
    /// A server that is reached there.
    pub probe: Option<Probe>,
}

/// What is done in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleAction {
    /// The tunnel is there, on demand if that is configured.
    Connect,
    /// Neither session nor routes, until the network changes or a person says otherwise.
    StayDown,
    /// What was before goes on.
    Ignore,
}

/// A server that proves by its key that this is the network in which it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Where it speaks TLS.
    pub address: SocketAddr,
    /// Its public key must match one; 1 to 16.
    pub pins: Vec<Pin>,
}

impl NetworkRule {
    /// Whether the conditions hold that can be looked up: which interface leads to everywhere, and this host's addresses there.
    pub fn matches(&self, interface: &str, addresses: &[IpAddr]) -> bool {
        let named = self.interfaces.is_empty() || self.interfaces.iter().any(|pattern| fits(pattern, interface));
        let within = |net: &IpNet| addresses.iter().any(|address| net.contains(address));
        named && (self.networks.is_empty() || self.networks.iter().any(within))
    }
}

/// Rules of one file; each may cost a connection at a change of the network.
const MAX_RULES: usize = 64;

/// The longest name of a rule: it stands in a line of the log.
const MAX_NAME_BYTES: usize = 64;

/// Entries of one list of a rule.
const MAX_ENTRIES: usize = 16;

const WEEK_S: f64 = 604_800.0;

/// Reads both.
pub(crate) fn read(document: &Document<'_>) -> OnDemand {
    let section = document.section("on_demand");
    let enabled = section.boolean("enabled", false);
    let idle = section.default_seconds_or_zero("idle_s", 300.0, 1.0..=WEEK_S);
    let hold_packets = section.integer("hold_packets", 64, 1..=4096);
    let hold_bytes = section.integer("hold_bytes", 131_072, 2048..=16_777_216);
    let listed = document.list_in(&section, ("rule", "on_demand.rule"), MAX_RULES);
    let rules = listed
        .iter()
        .enumerate()
        .filter_map(|(at, one)| rule(at + 1, one))
        .collect();
    OnDemand {
        enabled,
        idle,
        hold_packets,
        hold_bytes,
        rules,
    }
}

fn rule(number: usize, section: &Section<'_, '_>) -> Option<NetworkRule> {
    let name = section.optional("name", "at most 64 bytes on one line", |text| {
        names::line(text, MAX_NAME_BYTES)
    });
    let actions = [
        ("connect", RuleAction::Connect),
        ("stay_down", RuleAction::StayDown),
        ("ignore", RuleAction::Ignore),
    ];
    let action = section.choice("action", "connect", &actions);
    let interfaces = section.list(
        "interfaces",
        &[],
        MAX_ENTRIES,
        "names of interfaces, with * for any characters",
        pattern,
    );
    let networks = section.list("networks", &[], MAX_ENTRIES, "networks, as in 192.0.2.0/24", |text| {
        text.parse().map_err(|_| "is not a network".to_owned())
    });
    let address = section.optional("probe", "an address and a port, as in 192.0.2.1:443", |text| {
        text.parse::<SocketAddr>()
            .map_err(|_| "is not an address with a port".to_owned())
    });
    let pins: Vec<Pin> = section.list(
        "pins",
        &[],
        MAX_ENTRIES,
        "pins: sha256: and then hex or base64",
        str::parse,
    );
    if address.is_some() && pins.is_empty() {
        section.missing("pins", "without the key of the server anybody could pretend to be it");
    } else if address.is_none() && !pins.is_empty() {
        section.missing("probe", "the server whose key this is");
    }
    Some(NetworkRule {
        name: name.unwrap_or_else(|| number.to_string()),
        action: action?,
        interfaces,
        networks,
        probe: address.map(|address| Probe { address, pins }),
    })
}

/// The longest pattern is an interface name with a few stars.
const MAX_PATTERN_BYTES: usize = 32;

fn pattern(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'*');
    match text.bytes().all(good) && text.len() <= MAX_PATTERN_BYTES {
        true => Ok(text.to_owned()),
        false => Err("is no interface name, nor one with *".into()),
    }
}

/// Whether a name fits a pattern in which `*` stands for any characters, or none.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((begin, rest)) => name
            .strip_prefix(begin)
            .is_some_and(|name| (0..=name.len()).any(|at| name.is_char_boundary(at) && fits(rest, &name[at..]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, fit) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("wlan*", "wlan0", true),
            ("wlan*", "wlan", true),
            ("wl*p*s0", "wlx2p3s0", true),
            ("*", "anything", true),
            ("en*", "wlan0", false),
            ("*0", "eth1", false),
        ] {
            assert_eq!(fits(pattern, name), fit, "{pattern} {name}");
        }
    }

    #[test]
    fn all_conditions_of_a_rule_must_hold() {
        let rule = NetworkRule {
            name: "office".into(),
            action: RuleAction::StayDown,
            interfaces: vec!["eth*".into()],
            networks: vec!["192.0.2.0/24".parse().expect("net")],
            probe: None,
        };
        let there: IpAddr = [192, 0, 2, 7].into();
        assert!(rule.matches("eth0", &[there]));
        assert!(!rule.matches("wlan0", &[there]) && !rule.matches("eth0", &[[198, 51, 100, 7].into()]));
        let everywhere = NetworkRule {
            interfaces: Vec::new(),
            networks: Vec::new(),
            ..rule
        };
        assert!(everywhere.matches("wlan0", &[]));
    }
}
