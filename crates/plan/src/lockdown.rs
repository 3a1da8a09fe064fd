//! The lockdown: what may leave this host while packets are to go through the tunnel or nowhere.
//!
//! ```text
//!   output ------+                         +-- lo, the tunnel, interfaces that are allowed
//!   forward -----+--> permitted -- accept--+-- our mark AND a gateway's address, protocol and port; marks of other tunnels
//!   postrouting -+        |                +-- if allowed: private and link-local networks, but for those of the tunnel
//!                         |                +-- of this host alone, not of what it forwards: DHCP, neighbour discovery
//!                         +-- else: refused (output, forward), dropped (postrouting)
//! ```
//! `output` and `forward` refuse, so that programs hear it at once; `postrouting` has the last word. It sees the interface that a
//! packet really takes: `output` knows only that of the first look-up, which is another one when a rule marks the packet and it is
//! routed again. Nothing asks for the state of connections: one from before the lockdown is cut like any other. No destination
//! is an exception by itself: what nobody marked does not even reach the gateway beside the tunnel.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::NetworkPlan;
use crate::local::private_networks;
use crate::network::RouteKind;

/// Gateways that are open at a time: an attempt tries 16 addresses, each over TCP and UDP, beside the ones of the connection that lives.
pub const MAX_OPENINGS: usize = 64;

/// Addresses that are not a network's, and part of being in a local one: link-local and administrative multicast, broadcast
/// (RFC 5771, RFC 919, RFC 4291).
const LOCAL_GROUPS: [&str; 3] = ["224.0.0.0/24", "255.255.255.255/32", "ff02::/16"];

/// What of a lockdown the user decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lockdown {
    /// It stays when the tunnel is stopped.
    #[serde(default)]
    pub always: bool,
    /// Private and link-local networks stay reachable.
    #[serde(default)]
    pub allow_lan: bool,
    /// Interfaces, beside the tunnel's own, that everything may leave by.
    #[serde(default)]
    pub interfaces: Vec<String>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// The control channel.
    Tcp,
    /// The data channel.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// What the tunnel's own sockets may reach at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Openings {
    /// Gateways.
    pub gateways: BTreeSet<(SocketAddr, Transport)>,
    /// Name servers, while they are asked for the gateway.
    pub resolvers: BTreeSet<IpAddr>,
    /// Networks of the tunnel: never reached over the local network, whatever is allowed.
    pub inside: Vec<IpNet>,
    /// Networks that the tunnel leaves to the host.
    pub outside: Vec<IpNet>,
}

impl Openings {
    /// Takes over which networks are the tunnel's.
    pub fn follow(&mut self, plan: &NetworkPlan) {
        let of = |kind| {
            let routes = plan.routes.iter().filter(move |route| route.kind == kind);
            // The default route is no network of the tunnel's: under it, what is private is local.
            routes.map(|route| route.net).filter(|net| net.prefix_len() > 0)
        };
        self.inside = IpNet::aggregate(&of(RouteKind::Tunnel).collect());
        let private = |net: &IpNet| private_networks().any(|private| private.contains(net));
        self.outside = IpNet::aggregate(&of(RouteKind::Throw).filter(private).collect());
    }
}

/// Under which names and numbers a lockdown is put in place.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The table, in the family `inet`.
    pub table: &'a str,
    /// The tunnel: `[a-z0-9-]`.
    pub tunnel: &'a str,
    /// The tunnel's interface.
    pub interface: &'a str,
    /// Mark of the tunnel's own sockets.
    pub mark: u32,
    /// What the marks of all tunnels' sockets have in common, and the bits of it that count.
    pub marks: (u32, u32),
    /// The same of flows that rules have chosen for a tunnel.
    pub flows: (u32, u32),
}

/// The name of the chain, always empty, that says whose table it is.
pub const OWNER: &str = "of_";

impl Lockdown {
    /// The script for nft that puts the lockdown in place, of whatever is in its place already: one transaction, in which nothing
    /// slips through.
    pub fn script(&self, place: &Place<'_>, openings: &Openings) -> String {
        let Place {
            table,
            tunnel,
            interface,
            mark,
            marks: (family, mask),
            flows: (flows, flows_mask),
        } = *place;
        let interfaces = self.interfaces.iter().map(String::as_str);
        let interfaces = quoted(["lo", interface].into_iter().chain(interfaces));
        let mut sets = String::new();
        for set in sets_of(openings) {
            let elements = set.elements();
            let elements = if elements.is_empty() {
                String::new()
            } else {
                format!("\n\t\telements = {{ {elements} }}")
            };
            _ = writeln!(sets, "\tset {} {{\n\t\t{}{elements}\n\t}}", set.name, set.kind);
        }
        let lan = if self.allow_lan { lan() } else { Lan::default() };
        let Lan { out, input } = lan;
        format!(
            "add table inet {table}
delete table inet {table}
table inet {table} {{
\tchain {OWNER}{tunnel} {{
\t}}
\tcounter lookups {{
\t}}
\tcounter refused {{
\t}}
\tcounter caught {{
\t}}
{sets}\tchain own {{
\t\tip daddr . meta l4proto . th dport @gateways4 accept
\t\tip6 daddr . meta l4proto . th dport @gateways6 accept
\t\tip daddr @resolvers4 udp dport 53 counter name lookups accept
\t\tip6 daddr @resolvers6 udp dport 53 counter name lookups accept
\t}}
\tchain permitted {{
\t\toifname {{ {interfaces} }} accept
\t\tmeta mark {mark:#x} jump own
\t\tmeta mark & {mask:#x} == {family:#x} meta mark != {mark:#x} accept
{out}\t}}
\tchain host {{
\t\tmeta nfproto ipv4 udp sport 68 udp dport 67 accept
\t\tip6 daddr {{ ff02::1:2, fe80::/10 }} udp sport 546 udp dport 547 accept
\t\ticmpv6 type {{ nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert }} ip6 hoplimit 255 accept
\t\ticmpv6 type mld2-listener-report ip6 hoplimit 1 ip6 daddr ff02::16 accept
\t\tjump permitted
\t}}
\tchain output {{
\t\ttype filter hook output priority filter; policy drop;
\t\tmeta mark & {flows_mask:#x} == {flows:#x} accept
\t\tjump host
\t\tcounter name refused
\t\tmeta l4proto tcp reject with tcp reset
\t\treject with icmpx type admin-prohibited
\t}}
\tchain forward {{
\t\ttype filter hook forward priority filter; policy drop;
\t\tjump permitted
\t\tcounter name refused
\t\treject with icmpx type admin-prohibited
\t}}
\tchain postrouting {{
\t\ttype filter hook postrouting priority 300; policy drop;
\t\tjump host
\t\tcounter name caught
\t}}
\tchain input {{
\t\ttype filter hook input priority filter; policy accept;
\t\tiifname {{ {interfaces} }} accept
{input}\t\ttcp flags & (fin | syn | rst | ack) == syn drop
\t}}
}}
"
        )
    }

    /// The script that replaces what is open in a lockdown that is in place.
    pub fn opening(table: &str, openings: &Openings) -> String {
        let mut script = String::new();
        for set in sets_of(openings) {
            let (name, elements) = (set.name, set.elements());
            _ = writeln!(script, "flush set inet {table} {name}");
            if !elements.is_empty() {
                _ = writeln!(script, "add element inet {table} {name} {{ {elements} }}");
            }
        }
        script
    }
}

#[derive(Default)]
struct Lan {
    out: String,
    input: String,
}

fn lan() -> Lan {
    let of = |v4: bool| {
        let groups = LOCAL_GROUPS.iter().filter_map(|net| net.parse().ok());
        let nets = private_networks().chain(groups);
        let nets: Vec<_> = nets.filter(|net| net.addr().is_ipv4() == v4).collect();
        joined(nets)
    };
    let (v4, v6) = (of(true), of(false));
    Lan {
        out: format!(
            "\t\tip daddr @outside4 accept
\t\tip6 daddr @outside6 accept
\t\tip daddr @inside4 return
\t\tip6 daddr @inside6 return
\t\tip daddr {{ {v4} }} accept
\t\tip6 daddr {{ {v6} }} accept
"
        ),
        input: format!("\t\tip saddr {{ {v4} }} accept\n\t\tip6 saddr {{ {v6} }} accept\n"),
    }
}

struct Set {
    name: &'static str,
    kind: &'static str,
    elements: Vec<String>,
}

impl Set {
    fn elements(&self) -> String {
        self.elements.join(", ")
    }
}

fn sets_of(openings: &Openings) -> [Set; 8] {
    let gateways = |v4: bool| {
        let of = openings
            .gateways
            .iter()
            .filter(move |(address, _)| address.is_ipv4() == v4);
        of.map(|(address, protocol)| format!("{} . {protocol} . {}", address.ip(), address.port()))
            .collect()
    };
    let resolvers = |v4: bool| {
        let of = openings.resolvers.iter().filter(move |address| address.is_ipv4() == v4);
        of.map(ToString::to_string).collect()
    };
    let nets = |nets: &[IpNet], v4: bool| {
        let of = nets.iter().filter(move |net| net.addr().is_ipv4() == v4);
        of.map(ToString::to_string).collect()
    };
    let set = |name, kind, elements| Set { name, kind, elements };
    [
        set(
            "gateways4",
            "type ipv4_addr . inet_proto . inet_service",
            gateways(true),
        ),
        set(
            "gateways6",
            "type ipv6_addr . inet_proto . inet_service",
            gateways(false),
        ),
        set("resolvers4", "type ipv4_addr", resolvers(true)),
        set("resolvers6", "type ipv6_addr", resolvers(false)),
        set(
            "inside4",
            "type ipv4_addr; flags interval",
            nets(&openings.inside, true),
        ),
        set(
            "inside6",
            "type ipv6_addr; flags interval",
            nets(&openings.inside, false),
        ),
        set(
            "outside4",
            "type ipv4_addr; flags interval",
            nets(&openings.outside, true),
        ),
        set(
            "outside6",
            "type ipv6_addr; flags interval",
            nets(&openings.outside, false),
        ),
    ]
}

/// Names of interfaces as nft reads them, each once.
pub(crate) fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: BTreeSet<_> = names.collect();
    joined(names.iter().map(|name| format!("\"{name}\"")))
}

/// Elements of a set.
pub(crate) fn joined<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(", ")
}

#[cfg(test)]
mod tests;
