//! Flow rules: which flows of this host enter the tunnel, and the nftables script that says so to the kernel.
//!
//! ```text
//!   output (route)   marmot's own, lo ------------------------------------------------> as they are
//!                    decided before (ct mark) --> inside | outside | default
//!                    not a unicast address, neighbour discovery, an answer ------------> as they are
//!                    a control group that is not known yet ----------------------------> dropped
//!                    marmot run, rule 1, rule 2, ... (first match) --> ct mark --> inside | outside
//!                    no match --> ct mark --> default
//!   inside           count, mark 0x6d620000+N: the policy rule of the slot looks it up in the tunnel's table, or refuses it
//!   outside          count, mark 0x6d610040+N: past every tunnel of Marmot
//!   postrouting      what was sent elsewhere after its source was chosen gets the address of where it goes
//! ```
//! The connection keeps the decision in its conntrack mark: family, slot (6 bits) and number of the rule (10 bits). So each packet is
//! counted under its rule, and a rule costs nothing but for the first packet of a connection.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Rules of one tunnel; their number has 10 bits in the mark of a connection, and the last few are taken.
pub const MAX_RULES: usize = 1000;

/// Marks of flows that a rule sends into the tunnel: this and the slot ("mb").
pub const INSIDE: u32 = 0x6d62_0000;

/// Marks of flows that a rule sends past all tunnels: this and the slot. In the family of Marmot's own sockets, behind the 64 slots.
pub const OUTSIDE: u32 = 0x6d61_0040;

/// The bits of both that count. The others are left to whoever else marks packets (0x4000 and 0x8000 are Kubernetes').
pub const MARK_MASK: u32 = 0xffff_00ff;

/// Marmot's own sockets, and what goes past all tunnels.
const OWN: (u32, u32) = (0x6d61_0000, 0xffff_0000);

/// What a connection keeps: these, the slot at bit 10, and the number of the rule.
const KEPT_INSIDE: u32 = 0x6d62_0000;
const KEPT_OUTSIDE: u32 = 0x6d63_0000;
const KEPT_DEFAULT: u32 = 0x6d64_0000;
const KEPT_MASK: u32 = 0xffff_fc00;

/// Numbers of what is no rule of the configuration.
const RUN_INSIDE: u32 = 1001;
const RUN_OUTSIDE: u32 = 1002;
const BOUND: u32 = 1003;

/// Lines into which a rule is split at most. A set in a line of its own is worth it beyond: the kernel takes three times as long for a
/// line with a set (measured with 1,000 rules: 150 ms of its time with a set in each, 40 ms without).
const MAX_SPLIT: usize = 8;

/// Names of their counters.
const COUNTED: [(u32, &str); 2] = [(RUN_INSIDE, "run_inside"), (RUN_OUTSIDE, "run_outside")];

/// The counter of flows that no rule matched.
pub const DEFAULT_COUNTER: &str = "default";

/// The counter of packets of control groups that appeared a moment ago.
pub const HELD_COUNTER: &str = "held";

/// Where a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Into the tunnel.
    Tunnel,
    /// Past it.
    Direct,
}

/// A protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One rule: all that is set must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRule {
    /// What becomes of a flow that matches.
    pub action: Action,
    /// Where it goes to; empty is anywhere.
    pub networks: Vec<IpNet>,
    /// Its port there, first and last; empty is any.
    pub ports: Vec<(u16, u16)>,
    /// Its protocol; with ports, none is TCP and UDP.
    pub protocol: Option<Protocol>,
    /// The control group of its socket, or one above it: the path from the root of the hierarchy, without a slash before it.
    pub cgroup: Option<String>,
    /// The number of the user whose socket it is.
    pub uid: Option<u32>,
}

/// Which flows enter the tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// What becomes of flows that no rule matches.
    pub default: Action,
    /// The rules, at most [`MAX_RULES`]. Not in a record: they are not needed to take the table off the host, and a record is small.
    #[serde(skip)]
    pub rules: Vec<FlowRule>,
    /// The control group whose programs are inside, whatever the rules say (`marmot run`). Not in a record.
    #[serde(skip)]
    pub inside: String,
    /// The control group whose programs are outside. Not in a record.
    #[serde(skip)]
    pub outside: String,
}

/// Whose table it is.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The number of the slot.
    pub slot: u8,
    /// The tunnel's device.
    pub interface: &'a str,
    /// The tunnel's addresses.
    pub addresses: &'a [IpNet],
}

/// The control groups that are there, as far as the rules need them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// The way from nft's idea of the hierarchy (/sys/fs/cgroup) to where it is: empty, or with a slash at its end.
    pub root: String,
    /// For each parent that exists, the root as the empty path: its children, and the number of each. A number is never used again.
    pub children: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Groups {
    fn exists(&self, path: &str) -> bool {
        let (parent, name) = split(path);
        self.children
            .get(parent)
            .is_some_and(|children| children.contains_key(name))
    }

    fn quoted(&self, path: &str) -> String {
        format!("\"{}{path}\"", self.root)
    }
}

/// Whether nft takes a control group of this name between quotes. One that it does not take is never known, and so held.
pub fn can_be_named(child: &str) -> bool {
    !child.is_empty() && child.bytes().all(|byte| byte >= b' ' && byte != 0x7f && byte != b'"') && !child.ends_with('*')
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn level(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

impl Flows {
    /// Whether a rule asks for a control group.
    pub fn needs_groups(&self) -> bool {
        self.rules.iter().any(|rule| rule.cgroup.is_some())
    }

    /// Control groups that rules match, in order.
    fn matched(&self) -> BTreeSet<&str> {
        let of_rules = self.rules.iter().filter_map(|rule| rule.cgroup.as_deref());
        let of_run = [self.inside.as_str(), self.outside.as_str()];
        of_rules.chain(of_run).filter(|path| !path.is_empty()).collect()
    }

    /// Control groups in which one that a rule matches may appear, the root (the empty path) included.
    pub fn parents(&self) -> BTreeSet<&str> {
        let mut parents = BTreeSet::new();
        for path in self.matched() {
            let mut above = path;
            while !above.is_empty() {
                above = split(above).0;
                parents.insert(above);
            }
        }
        parents
    }

    /// The whole table, in place of the one that is there. Without `groups` nothing is asked of control groups. `counts` are the packets
    /// and bytes that the counters begin with.
    pub fn script(&self, owner: Owner<'_>, groups: Option<&Groups>, counts: &BTreeMap<String, (u64, u64)>) -> String {
        let name = table(owner.slot);
        // One that is not there cannot be deleted, and one that is there can be added.
        let mut text = format!("add table inet {name}\ndelete table inet {name}\ntable inet {name} {{\n");
        let mut line = |line: &str| {
            text += line;
            text.push('\n');
        };
        let counters = self.counters();
        for (counter, _) in &counters {
            let (packets, bytes) = counts.get(counter).copied().unwrap_or_default();
            line(&format!("counter {counter} {{ packets {packets} bytes {bytes} }}"));
        }
        let kept: Vec<_> = counters
            .iter()
            .filter_map(|(counter, number)| {
                let (family, number) = (*number)?;
                Some(format!("{:#x} : \"{counter}\"", kept(family, owner.slot, number)))
            })
            .collect();
        line("map counted {\ntype mark : counter");
        if !kept.is_empty() {
            line(&format!("elements = {{ {} }}", kept.join(", ")));
        }
        line("}");
        if let Some(groups) = groups {
            for (set, elements) in self.sets(groups) {
                line(&format!("set {set} {{\ntype cgroupsv2"));
                if !elements.is_empty() {
                    line(&format!("elements = {{ {} }}", elements.join(", ")));
                }
                line("}");
            }
        }
        self.output(owner, groups.is_some(), &mut line);
        line("}");
        text
    }

    /// The control groups that are there now, in the table that is there already: one transaction.
    pub fn groups_script(&self, slot: u8, groups: &Groups) -> String {
        let name = table(slot);
        let mut text = String::new();
        for (set, elements) in self.sets(groups) {
            let _ = writeln!(text, "flush set inet {name} {set}");
            if !elements.is_empty() {
                let _ = writeln!(text, "add element inet {name} {set} {{ {} }}", elements.join(", "));
            }
        }
        text
    }

    /// The name of the counter of a rule, counted from 1.
    pub fn counter(number: usize) -> String {
        format!("rule{number}")
    }

    /// Counters, with family and number of the connections that are counted there.
    fn counters(&self) -> Vec<(String, Option<(u32, u32)>)> {
        let rules = self.rules.iter().zip(1u32..).map(|(rule, number)| {
            let name = Self::counter(number as usize);
            (name, Some((family(rule.action), number)))
        });
        let run = COUNTED.map(|(number, name)| {
            let family = if number == RUN_INSIDE {
                KEPT_INSIDE
            } else {
                KEPT_OUTSIDE
            };
            (name.to_owned(), Some((family, number)))
        });
        let rest = [DEFAULT_COUNTER, HELD_COUNTER].map(|name| (name.to_owned(), None));
        rules.chain(run).chain(rest).collect()
    }

    /// Sets of control groups: `g` what rules match, `p` parents, `k` their known children; numbered in the order of the paths.
    fn sets(&self, groups: &Groups) -> Vec<(String, Vec<String>)> {
        let own =
            |path: &str| -> Vec<String> { groups.exists(path).then(|| groups.quoted(path)).into_iter().collect() };
        let matched = self.matched().into_iter().enumerate();
        let mut sets: Vec<_> = matched.map(|(n, path)| (format!("g{n}"), own(path))).collect();
        for (n, parent) in self.parents().into_iter().enumerate() {
            if !parent.is_empty() {
                sets.push((format!("p{n}"), own(parent)));
            }
            let below = |child: &String| match parent {
                "" => groups.quoted(child),
                parent => groups.quoted(&format!("{parent}/{child}")),
            };
            let children = groups.children.get(parent);
            let known = children.into_iter().flat_map(|children| children.keys().map(below));
            sets.push((format!("k{n}"), known.collect()));
        }
        sets
    }

    fn output(&self, owner: Owner<'_>, groups: bool, line: &mut impl FnMut(&str)) {
        let slot = owner.slot;
        let (inside, outside) = (INSIDE + u32::from(slot), OUTSIDE + u32::from(slot));
        let kept_mark = |family| format!("ct mark and {KEPT_MASK:#x} == {:#x}", kept(family, slot, 0));
        for (chain, mark) in [("inside", inside), ("outside", outside)] {
            line(&format!("chain {chain} {{"));
            line("counter name ct mark map @counted");
            line(&format!("meta mark set meta mark and {:#x} or {mark:#x}", !MARK_MASK));
            line("}");
        }
        line("chain output {\ntype route hook output priority mangle; policy accept;");
        line(&format!("meta mark and {:#x} == {:#x} accept", OWN.1, OWN.0));
        line("oifname \"lo\" accept");
        line(&format!("{} goto inside", kept_mark(KEPT_INSIDE)));
        line(&format!("{} goto outside", kept_mark(KEPT_OUTSIDE)));
        line(&format!(
            "{} counter name \"{DEFAULT_COUNTER}\" accept",
            kept_mark(KEPT_DEFAULT)
        ));
        line(&format!("meta mark and 0xffff0000 == {INSIDE:#x} accept"));
        line("fib daddr type { local, broadcast, anycast, multicast } accept");
        line("ip daddr 169.254.0.0/16 accept");
        line("ip6 daddr fe80::/10 accept");
        line("icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept");
        if self.default == Action::Direct {
            // Who takes the tunnel's own address has chosen the tunnel, and so has who asked through it.
            for own in own_sources(owner.addresses) {
                line(&format!("{own} {}", self.decide(owner, Action::Tunnel, BOUND)));
            }
        }
        line("ct direction reply accept");
        if groups {
            for (n, parent) in self.parents().into_iter().enumerate() {
                let above = match level(parent) {
                    0 => String::new(),
                    level => format!("socket cgroupv2 level {level} @p{n} "),
                };
                line(&format!(
                    "{above}socket cgroupv2 level {} != @k{n} counter name \"{HELD_COUNTER}\" drop",
                    level(parent) + 1
                ));
            }
        }
        let matched: BTreeMap<_, _> = self.matched().into_iter().zip(0usize..).collect();
        let of_group = |path: &str| -> Option<String> {
            let set = matched.get(path).filter(|_| groups)?;
            Some(format!("socket cgroupv2 level {} @g{set} ", level(path)))
        };
        for (path, action, number) in [
            (&self.inside, Action::Tunnel, RUN_INSIDE),
            (&self.outside, Action::Direct, RUN_OUTSIDE),
        ] {
            if let Some(group) = of_group(path) {
                line(&format!("{group}{}", self.decide(owner, action, number)));
            }
        }
        for (rule, number) in self.rules.iter().zip(1u32..) {
            let group = rule.cgroup.as_deref().map(of_group);
            let Some(group) = group.unwrap_or(Some(String::new())) else {
                continue;
            };
            let decided = self.decide(owner, rule.action, number);
            for alternative in rule.alternatives() {
                line(&format!("{group}{alternative}{decided}"));
            }
        }
        // Somebody else's mark of a connection stays; then it is decided anew each time, in the same way.
        line(&format!("ct mark 0 ct mark set {:#x}", kept(KEPT_DEFAULT, slot, 0)));
        line(&format!("counter name \"{DEFAULT_COUNTER}\""));
        line("}");

        line("chain postrouting {\ntype nat hook postrouting priority srcnat; policy accept;");
        let interface = owner.interface;
        line(&format!(
            "oifname \"{interface}\" meta mark and {MARK_MASK:#x} == {inside:#x} masquerade"
        ));
        for own in own_sources(owner.addresses) {
            line(&format!(
                "oifname != \"{interface}\" meta mark and {MARK_MASK:#x} == {outside:#x} {own} masquerade"
            ));
        }
        line("}");
    }

    /// The end of a rule: the connection keeps it.
    fn decide(&self, owner: Owner<'_>, action: Action, number: u32) -> String {
        let chain = match action {
            Action::Tunnel => "inside",
            Action::Direct => "outside",
        };
        format!(
            "ct mark set {:#x} goto {chain}",
            kept(family(action), owner.slot, number)
        )
    }
}

/// In the words of the configuration: `user 1000 group system.slice/web.service tcp 443 to 10.0.0.0/8`
impl fmt::Display for FlowRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        words.extend(self.uid.map(|uid| format!("user {uid}")));
        words.extend(self.cgroup.as_ref().map(|group| format!("group {group}")));
        words.extend(self.protocol.map(|protocol| match protocol {
            Protocol::Tcp => "tcp".to_owned(),
            Protocol::Udp => "udp".to_owned(),
        }));
        if !self.ports.is_empty() {
            words.push(format!("port {}", port_words(&self.ports).join(",")));
        }
        if !self.networks.is_empty() {
            let networks: Vec<_> = self.networks.iter().map(IpNet::to_string).collect();
            words.push(format!("to {}", networks.join(",")));
        }
        f.write_str(&words.join(" "))
    }
}

impl FlowRule {
    /// What must match beside the control group, one of these: few lines without sets, or fewer with.
    fn alternatives(&self) -> Vec<String> {
        let uid = self.uid.map_or_else(String::new, |uid| format!("meta skuid {uid} "));
        let ports = merged(&self.ports);
        let protocols: &[&str] = match (self.protocol, ports.is_empty()) {
            (Some(Protocol::Tcp), _) => &["meta l4proto tcp "],
            (Some(Protocol::Udp), _) => &["meta l4proto udp "],
            (None, false) => &["meta l4proto tcp ", "meta l4proto udp "],
            (None, true) => &[""],
        };
        let words = port_words(&ports);
        let split = protocols.len() * words.len().max(1) * self.networks.len().max(1) <= MAX_SPLIT;
        let ports = one_of("th dport", words, split);
        let destinations = destinations(&self.networks, split);
        let mut lines = Vec::new();
        for protocol in protocols {
            for port in &ports {
                lines.extend(destinations.iter().map(|to| format!("{uid}{protocol}{port}{to}")));
            }
        }
        lines
    }
}

fn table(slot: u8) -> String {
    format!("marmot_flows_{slot}")
}

fn family(action: Action) -> u32 {
    match action {
        Action::Tunnel => KEPT_INSIDE,
        Action::Direct => KEPT_OUTSIDE,
    }
}

/// What a connection keeps of a decision.
fn kept(family: u32, slot: u8, number: u32) -> u32 {
    family | u32::from(slot) << 10 | number
}

/// A match for each of the tunnel's addresses: there are two at most.
fn own_sources(addresses: &[IpNet]) -> Vec<String> {
    let source = |net: &IpNet| match net.addr() {
        IpAddr::V4(address) => format!("ip saddr {address}"),
        IpAddr::V6(address) => format!("ip6 saddr {address}"),
    };
    addresses.iter().map(source).collect()
}

/// Matches of which one must hold; one that always does if there are no networks.
fn destinations(networks: &[IpNet], split: bool) -> Vec<String> {
    if networks.is_empty() {
        return vec![String::new()];
    }
    let (v4, v6) = families(networks);
    let v4: Vec<_> = Ipv4Net::aggregate(&v4).iter().map(Ipv4Net::to_string).collect();
    let v6: Vec<_> = Ipv6Net::aggregate(&v6).iter().map(Ipv6Net::to_string).collect();
    let of_family = |family, protocol, words: Vec<String>| match words.as_slice() {
        [] => Vec::new(),
        [word] if word.ends_with("/0") => vec![format!("meta nfproto {protocol} ")],
        [_, ..] => one_of(&format!("{family} daddr"), words, split),
    };
    let mut matches = of_family("ip", "ipv4", v4);
    matches.extend(of_family("ip6", "ipv6", v6));
    matches
}

fn families(nets: &[IpNet]) -> (Vec<Ipv4Net>, Vec<Ipv6Net>) {
    let v4 = nets.iter().filter_map(|net| match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    });
    let v6 = nets.iter().filter_map(|net| match net {
        IpNet::V6(net) => Some(*net),
        IpNet::V4(_) => None,
    });
    (v4.collect(), v6.collect())
}

/// Ports in order, without overlaps, which nft refuses in a set.
fn merged(ports: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut sorted = ports.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in sorted {
        match merged.last_mut() {
            Some(before) if u32::from(first) <= u32::from(before.1) + 1 => before.1 = before.1.max(last),
            Some(_) | None => merged.push((first, last)),
        }
    }
    merged
}

fn port_words(ports: &[(u16, u16)]) -> Vec<String> {
    let words = ports.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    words.collect()
}

/// `key` is one of these words, or whatever if there are none: a match for each, or one with a set.
fn one_of(key: &str, words: Vec<String>, split: bool) -> Vec<String> {
    match words.as_slice() {
        [] => vec![String::new()],
        [word] => vec![format!("{key} {word} ")],
        words if split => words.iter().map(|word| format!("{key} {word} ")).collect(),
        words => vec![format!("{key} {{ {} }} ", words.join(", "))],
    }
}

#[cfg(test)]
mod tests;
