//! `[[network.acl]]` and `[[group.acl]]`: rules about what clients may talk to, checked one by one and against each other.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::document::Document;
use crate::routes;
use crate::section::Section;

/// Rules of one list.
pub(crate) const MAX_RULES: usize = 1000;

/// Networks of one rule.
const MAX_NETWORKS: usize = 256;

/// Ranges of ports of one rule.
const MAX_PORTS: usize = 64;

/// Networks in all rules that hold for one client. They are compiled while packets wait: a fraction of a second for as many.
pub(crate) const MAX_NETWORKS_IN_ALL: usize = 2000;

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessAction {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
}

/// What a rule is for, beside networks and ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessProtocol {
    /// All there are; with ports TCP and UDP.
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
}

/// One rule about what clients may talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// What it does.
    pub action: AccessAction,
    /// Networks of the other end, at most 256; empty means all.
    pub networks: Vec<IpNet>,
    /// Its protocol; default any.
    pub protocol: AccessProtocol,
    /// Ports of the other end, at most 64 ranges; empty means all.
    pub ports: Vec<RangeInclusive<u16>>,
}

const ACTIONS: [(&str, AccessAction); 2] = [("allow", AccessAction::Allow), ("deny", AccessAction::Deny)];

impl AccessRule {
    /// Whether it fits whatever `other` fits.
    fn covers(&self, other: &Self) -> bool {
        let networks = self.networks.is_empty()
            || !other.networks.is_empty()
                && other
                    .networks
                    .iter()
                    .all(|net| self.networks.iter().any(|own| own.contains(net)));
        let protocol = match (self.protocol, other.protocol) {
            (AccessProtocol::Any, AccessProtocol::Icmp) => self.ports.is_empty(),
            (AccessProtocol::Any, AccessProtocol::Any) => self.ports.is_empty() || !other.ports.is_empty(),
            (AccessProtocol::Any, _) => true,
            (own, other) => own == other,
        };
        let within = |range: &RangeInclusive<u16>| {
            let own = self.ports.iter();
            own.clone()
                .any(|own| own.contains(range.start()) && own.contains(range.end()))
        };
        let ports = self.ports.is_empty() || !other.ports.is_empty() && other.ports.iter().all(within);
        networks && protocol && ports
    }

    /// Whether it fits a datagram to this port of this host.
    fn fits_udp(&self, host: IpAddr, port: u16) -> bool {
        let network = self.networks.is_empty() || self.networks.iter().any(|net| net.contains(&host));
        let protocol = matches!(self.protocol, AccessProtocol::Any | AccessProtocol::Udp);
        network && protocol && (self.ports.is_empty() || self.ports.iter().any(|range| range.contains(&port)))
    }
}

/// Whether a datagram to this port of this host passes rules of which the first that fits decides.
pub(crate) fn passes_udp<'a>(
    mut rules: impl Iterator<Item = &'a AccessRule>,
    default: AccessAction,
    (host, port): (IpAddr, u16),
) -> bool {
    let first = rules.find(|rule| rule.fits_udp(host, port));
    first.map_or(default, |rule| rule.action) == AccessAction::Allow
}

/// The action of this name.
pub(crate) fn action(text: &str) -> Result<AccessAction, String> {
    let found = ACTIONS.iter().find(|(word, _)| *word == text);
    found
        .map(|(_, action)| *action)
        .ok_or_else(|| "is no action".to_string())
}

/// What becomes of a packet that no rule fits.
pub(crate) fn default_action(section: &Section<'_, '_>) -> Option<AccessAction> {
    section.choice("acl_default", "allow", &ACTIONS)
}

/// The rules `[[section.acl]]`, which the list of keys calls `each`.
pub(crate) fn rules<'d>(
    document: &'d Document<'_>,
    section: &Section<'d, '_>,
    each: &'static str,
    families: (bool, bool),
) -> Vec<AccessRule> {
    let mut read: Vec<AccessRule> = Vec::new();
    for section in document.list_in(section, ("acl", each), MAX_RULES) {
        let Some(rule) = rule(&section, families) else {
            continue;
        };
        if let Some(earlier) = read.iter().position(|earlier| earlier.covers(&rule)) {
            let message = format!(
                "has no effect: rule {} of the list fits whatever this one fits, and comes first",
                earlier + 1
            );
            section.wrong_section_with(message, "the first rule that fits decides; put the narrower one first");
        }
        read.push(rule);
    }
    read
}

fn rule(section: &Section<'_, '_>, (ipv4, ipv6): (bool, bool)) -> Option<AccessRule> {
    let action = section.required("action", "\"allow\", \"deny\"", action);
    let what = "networks, such as 10.0.0.0/8";
    let networks = section.list("networks", &[], MAX_NETWORKS, what, routes::network);
    let words = [
        ("any", AccessProtocol::Any),
        ("tcp", AccessProtocol::Tcp),
        ("udp", AccessProtocol::Udp),
        ("icmp", AccessProtocol::Icmp),
    ];
    let protocol = section.choice("protocol", "any", &words);
    let ports = section.list(
        "ports",
        &[],
        MAX_PORTS,
        "ports or ranges, such as 443 or 8000-8999",
        ports,
    );
    routes::report_covered(section, "networks", &networks);
    if section.length("networks") == Some(networks.len()) {
        for (index, net) in networks.iter().enumerate() {
            let (served, family) = match net {
                IpNet::V4(_) => (ipv4, "ipv4"),
                IpNet::V6(_) => (ipv6, "ipv6"),
            };
            if !served {
                let message = format!("{net} is out of reach of clients without pool.{family}");
                section.wrong_item("networks", index, message, None);
            }
        }
    }
    if protocol == Some(AccessProtocol::Icmp) && !ports.is_empty() {
        section.wrong(
            "ports",
            "ICMP has no ports",
            Some("remove them, or set protocol to \"tcp\" or \"udp\"".into()),
        );
    }
    // A list with a mistake in it must not become one without limits.
    let whole = |key, read: usize| section.length(key).is_none_or(|length| length == read);
    if !whole("networks", networks.len()) || !whole("ports", ports.len()) {
        return None;
    }
    Some(AccessRule {
        action: action?,
        networks,
        protocol: protocol?,
        ports,
    })
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        (Some(first), Some(last)) => Err(format!("ends before it begins; the range is {last}-{first}")),
        _ => Err("is no port from 1 to 65535, nor a range of them".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(networks: &[&str], protocol: AccessProtocol, ports: &[&str]) -> AccessRule {
        AccessRule {
            action: AccessAction::Allow,
            networks: networks.iter().map(|net| net.parse().expect("a network")).collect(),
            protocol,
            ports: ports.iter().map(|text| super::ports(text).expect("ports")).collect(),
        }
    }

    #[test]
    fn ports_are_numbers_and_ranges() {
        assert_eq!(ports("443"), Ok(443..=443));
        assert_eq!(ports("8000 - 8999"), Ok(8000..=8999));
        assert!(ports("9000-8000").is_err_and(|why| why.contains("8000-9000")));
        for wrong in ["0", "65536", "-1", "http", "1-2-3", "1-", ""] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rule_covers_another_only_in_all_respects() {
        use AccessProtocol::{Any, Icmp, Tcp, Udp};
        let wide = rule(&["10.0.0.0/8"], Any, &[]);
        for narrow in [
            rule(&["10.1.0.0/16"], Any, &[]),
            rule(&["10.1.0.0/16", "10.0.0.0/8"], Tcp, &["443"]),
            rule(&["10.0.0.0/8"], Icmp, &[]),
        ] {
            assert!(wide.covers(&narrow), "{narrow:?}");
        }
        for other in [rule(&[], Any, &[]), rule(&["10.0.0.0/8", "11.0.0.0/8"], Any, &[])] {
            assert!(!wide.covers(&other), "{other:?}");
        }
        let web = rule(&[], Any, &["80", "8000-8999"]);
        assert!(web.covers(&rule(&["10.0.0.0/8"], Tcp, &["80", "8080-8090"])));
        assert!(!web.covers(&rule(&[], Tcp, &["8080-9000"])));
        assert!(!web.covers(&rule(&[], Tcp, &[])));
        assert!(!web.covers(&rule(&[], Icmp, &[])), "ICMP has no ports");
        assert!(!web.covers(&rule(&[], Any, &[])));
        assert!(!rule(&[], Tcp, &[]).covers(&rule(&[], Udp, &[])));
        assert!(!rule(&[], Tcp, &[]).covers(&rule(&[], Any, &["80"])));
    }
}
