//! Who may depend on whom.
//!
//! ```text
//!                  marmot
//!                 /      \
//!            client      gateway         shells: own the loop, carry out effects
//!       use any of the crates below, never each other
//!
//!   lifecycle   session   channel   platform   config
//!         \    /  |   \     |       /  |  \
//!          now  packet  wire      now packet plan
//!
//!   session --> dtls --> now                                  api (the local socket, both ends; a leaf)
//!   housekeeping --> platform --> ledger --> now, plan
//! ```

use crate::Finding;

/// What one of our crates may use, and why not more.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The crate.
    pub name: &'static str,
    /// No sockets, files, threads, clocks, environment or global state inside.
    pub pure: bool,
    /// The crates of ours that it may use.
    pub may_use: &'static [&'static str],
    /// Why it may use no others.
    pub because: &'static str,
}

const LEAF: &str = "a leaf can be read, tested and fuzzed alone";
const SHELL: &str =
    "the two shells share what lies below them, never each other, so that either can be built and run alone";
const ROOMS: &[&str] = &[
    "now",
    "packet",
    "wire",
    "plan",
    "dtls",
    "lifecycle",
    "session",
    "config",
    "platform",
    "channel",
    "ledger",
    "housekeeping",
    "api",
];

/// The rules, from the leaves up.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "now", pure: true, may_use: &[], because: LEAF },
    Rule { name: "packet", pure: true, may_use: &[], because: LEAF },
    Rule { name: "wire", pure: true, may_use: &[], because: LEAF },
    Rule { name: "plan", pure: true, may_use: &[], because: LEAF },
    Rule { name: "config", pure: true, may_use: &[], because: "a configuration is text in, values out; who uses the values converts them" },
    Rule { name: "lifecycle", pure: true, may_use: &["now"], because: "the life of a tunnel knows nothing of wires and packets, so that a night of sleep runs in a millisecond" },
    Rule { name: "ledger", pure: true, may_use: &["now", "plan"], because: "what is owed is decided without a disk, so that a crash at every write runs in a millisecond" },
    Rule { name: "dtls", pure: true, may_use: &["now"], because: "datagrams and deadlines are all a handshake needs; who the peer is and what its packets mean is for the session" },
    Rule { name: "session", pure: true, may_use: &["now", "packet", "wire", "dtls"], because: "a session decides what is said to the peer; what the host does about it is for the shells" },
    Rule { name: "platform", pure: false, may_use: &["now", "packet", "plan", "ledger"], because: "the operating system carries out plans and is the ledger's disk; it knows no protocol" },
    Rule { name: "housekeeping", pure: false, may_use: &["now", "ledger", "platform"], because: "chores are the same for both shells, and need no tunnel" },
    Rule { name: "api", pure: false, may_use: &[], because: "a leaf: whoever speaks to a daemon needs nothing else of it" },
    Rule { name: "channel", pure: false, may_use: &["wire"], because: "the channel moves frames; what they mean is for the session" },
    Rule { name: "client", pure: false, may_use: ROOMS, because: SHELL },
    Rule { name: "gateway", pure: false, may_use: ROOMS, because: SHELL },
    Rule { name: "marmot", pure: false, may_use: &["client", "gateway", "config", "platform", "plan", "packet", "wire", "now", "api", "housekeeping"], because: "the binary starts the shells and shows what they do; sessions and channels are theirs" },
];

/// Libraries that only compute: what a pure crate may use of others' crates. Read one for sockets, files, threads,
/// clocks, environment and randomness before it is added here.
// aws-lc-rs has randomness too, which stays an argument: only its ciphers, hashes and comparisons are used.
const PURE_LIBRARIES: &[&str] = &[
    "aws-lc-rs",
    "base64",
    "bytes",
    "crc32c",
    "hex",
    "httparse",
    "ipnet",
    "percent-encoding",
    "quick-xml",
    "serde",
    "serde_json",
    "serde_path_to_error",
    "strsim",
    "thiserror",
    "toml",
    "zeroize",
];

/// Libraries that touch the operating system: `platform` only.
const SYSTEM_LIBRARIES: &[&str] = &[
    "libc",
    "netlink-packet-route",
    "nix",
    "objc2-core-foundation",
    "objc2-io-kit",
    "quinn-udp",
    "rtnetlink",
    "rustix",
    "sd-notify",
    "signal-hook",
    "signal-hook-tokio",
    "tun-rs",
    "windows-sys",
    "zbus",
];

/// The test library that builds namespaces. It may be a dev-dependency of whatever is not pure.
const LAB: &str = "lab";

/// One line of a `[dependencies]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The package that depends.
    pub from: String,
    /// The package it depends on.
    pub to: String,
    /// Whether that is a package of this workspace.
    pub ours: bool,
    /// Whether only tests, examples and benches use it.
    pub dev: bool,
}

/// The rule of a crate of ours.
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name)
}

/// Crates that have no rule; `members` are the packages in `crates/`.
pub fn unruled(members: &[String]) -> Vec<Finding> {
    members
        .iter()
        .filter(|name| rule(name).is_none())
        .map(|name| {
            Finding::new(
                format!("crates/{name}"),
                "has no line in tidy's RULES: a new crate starts with the decision what it may use (docs/decisions)",
            )
        })
        .collect()
}

/// Edges that the rules forbid.
pub fn wrong_way(edges: &[Edge]) -> Vec<Finding> {
    edges.iter().filter_map(judge).collect()
}

fn judge(edge: &Edge) -> Option<Finding> {
    let rule = rule(&edge.from)?;
    let to = edge.to.as_str();
    let refusal = if edge.ours {
        let lab = edge.dev && !rule.pure && to == LAB;
        (!lab && !rule.may_use.contains(&to)).then_some(rule.because)
    } else if edge.dev {
        None
    } else if rule.pure && !PURE_LIBRARIES.contains(&to) {
        Some(
            "a pure crate is only as pure as what it uses; if this library only computes, add it to tidy's PURE_LIBRARIES",
        )
    } else if rule.name != "platform" && SYSTEM_LIBRARIES.contains(&to) {
        Some("only `platform` speaks to the operating system; give it a function there")
    } else {
        None
    };
    refusal.map(|because| {
        Finding::new(
            format!("crates/{}/Cargo.toml", edge.from),
            format!("`{}` may not depend on `{to}`: {because}", edge.from),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: &str, to: &str, ours: bool, dev: bool) -> Edge {
        Edge {
            from: from.to_owned(),
            to: to.to_owned(),
            ours,
            dev,
        }
    }

    #[test]
    fn a_session_that_reaches_for_the_platform_is_found_with_the_reason() {
        let found = wrong_way(&[edge("session", "platform", true, false)]);
        assert_eq!(found.len(), 1);
        assert!(found[0].why.contains("what the host does about it"), "{}", found[0]);
    }

    #[test]
    fn the_shells_may_not_use_each_other_not_even_in_tests() {
        let edges = [
            edge("client", "gateway", true, false),
            edge("gateway", "client", true, true),
        ];
        assert_eq!(wrong_way(&edges).len(), 2);
    }

    #[test]
    fn a_runtime_in_a_pure_crate_is_found_but_not_in_its_tests() {
        let edges = [
            edge("wire", "tokio", false, false),
            edge("wire", "proptest", false, true),
            edge("client", "tokio", false, false),
        ];
        assert_eq!(wrong_way(&edges).len(), 1);
    }

    #[test]
    fn libc_outside_platform_is_found() {
        let edges = [
            edge("client", "libc", false, false),
            edge("platform", "libc", false, false),
        ];
        assert_eq!(wrong_way(&edges).len(), 1);
    }

    #[test]
    fn the_lab_is_for_the_tests_of_crates_that_are_not_pure() {
        let edges = [
            edge("platform", "lab", true, true),
            edge("platform", "lab", true, false),
            edge("wire", "lab", true, true),
        ];
        assert_eq!(wrong_way(&edges).len(), 2);
    }

    #[test]
    fn a_crate_without_a_rule_is_found() {
        let found = unruled(&["now".to_owned(), "attic".to_owned()]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "crates/attic");
    }

    #[test]
    fn the_rules_themselves_have_no_cycle_and_pure_crates_use_pure_crates_only() {
        for (at, one) in RULES.iter().enumerate() {
            for used in one.may_use {
                let below = RULES.iter().position(|other| other.name == *used);
                assert!(below.is_some_and(|below| below < at), "{} -> {used}", one.name);
                assert!(!one.pure || rule(used).is_some_and(|used| used.pure));
            }
        }
    }
}
