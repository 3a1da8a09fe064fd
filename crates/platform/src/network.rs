//! Addresses, routes and rules of this host: putting a plan on it, and taking exactly that off again.
//!
//! ```text
//!   apply                                                      release
//!   1 MTU                           4 link up                  1 rules of the slot (traffic goes the old way again)
//!   2 no automatic IPv6 addresses   5 routes of the table      2 link down (takes the device's routes along)
//!   3 addresses                     6 rules, last              3 what is left in the slot's table (throw routes)
//! ```
//! Nothing of the main table is touched. Everything carries the protocol number [`crate::slot::PROTOCOL`] and lies in the
//! slot's table and rule priorities, so that [`Network::sweep`] finds what a killed process left behind.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::PlatformError;

pub use crate::os::network::{Network, forward_ipv4_from, forwarding_enabled, ipv6_available, strict_reverse_path};

/// A network that an interface of this host reaches without a gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectedNetwork {
    /// Name of the interface.
    pub interface: String,
    /// The network.
    pub net: IpNet,
}

/// Proof that the host was restored, with what could not be removed. Made by [`Network::release`], [`Network::sweep`],
/// [`Network::undo`] and [`crate::firewall::Nft::clear`]; and by [`Restored::unfinished`], which proves the contrary.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Restored {
    residue: Vec<String>,
    removed: Vec<String>,
}

impl Restored {
    pub(crate) fn new(removed: Vec<String>, residue: Vec<String>) -> Self {
        Self { residue, removed }
    }

    /// For a caller that must answer before the work is done: nothing is known to be removed, and `what` is named as left
    /// behind ("rules and link of marmot0: still being removed").
    pub fn unfinished(what: impl Into<String>) -> Self {
        Self {
            residue: vec![what.into()],
            removed: Vec::new(),
        }
    }

    /// The same with more that is still there.
    pub fn and_residue(mut self, more: impl IntoIterator<Item = String>) -> Self {
        self.residue.extend(more);
        self
    }

    /// With something else that had to go: `what`, if it was there, or why it is there still.
    pub fn and_removed(mut self, what: impl Into<String>, removed: Result<bool, PlatformError>) -> Self {
        match removed {
            Ok(true) => self.removed.push(what.into()),
            Ok(false) => {}
            Err(error) => self.residue.push(format!("{}: {error}", what.into())),
        }
        self
    }

    /// For a host on which nothing was to be restored.
    pub const fn nothing() -> Self {
        Self {
            residue: Vec::new(),
            removed: Vec::new(),
        }
    }

    /// Both, as one.
    pub fn and(mut self, other: Self) -> Self {
        self.residue.extend(other.residue);
        self.removed.extend(other.removed);
        self
    }

    /// Whether nothing was left behind.
    pub fn is_complete(&self) -> bool {
        self.residue.is_empty()
    }

    /// What is still on the host and why, one sentence each.
    pub fn residue(&self) -> &[String] {
        &self.residue
    }

    /// What was removed, in the words of [`HostState`].
    pub fn removed(&self) -> &[String] {
        &self.removed
    }
}

/// Where the kernel would send a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Name of the outgoing interface.
    pub interface: String,
    /// The routing table that decided.
    pub table: u32,
    /// The source address a socket would get, if the kernel says.
    pub source: Option<IpAddr>,
    /// The next hop, if there is one.
    pub gateway: Option<IpAddr>,
}

/// Links, addresses, routes of all tables, rules and packet filter of this host, one line each, without anything that changes by itself
/// (counters, lifetimes, carrier). Two states are equal if and only if the host is configured alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostState {
    lines: BTreeSet<String>,
}

impl HostState {
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "only Linux changes the network yet")
    )]
    pub(crate) fn new(lines: BTreeSet<String>) -> Self {
        Self { lines }
    }

    /// The lines in order.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// What changed from this state to `later`: `- line` for what is gone, `+ line` for what is new. Empty if equal.
    pub fn changes(&self, later: &Self) -> Vec<String> {
        let gone = self.lines.difference(&later.lines).map(|line| format!("- {line}"));
        let new = later.lines.difference(&self.lines).map(|line| format!("+ {line}"));
        gone.chain(new).collect()
    }
}

impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}
