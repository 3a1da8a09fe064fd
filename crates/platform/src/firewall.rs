//! The host's packet filter: whole tables put in place, and taken away, in one transaction each.
//!
//! ```text
//!   plan::nft (text, pure) --> Nft::load --> nft -f - --> kernel: all of it, or nothing
//! ```
//! What a table is to hold is said by whoever knows ([`plan`] for a client, the gateway's own settings for a gateway). Here is only the way to the
//! kernel, and the names under which each table of ours is found again: [`Table`].

use std::fmt;
use std::time::Duration;

pub use crate::os::firewall::Nft;

use crate::slot::Slot;

/// How long one transaction may take. Measured for 1,000 rules: some 50 ms on an idle machine. Past this the program hangs, and is killed.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What a table of a tunnel is for. Each is a table of its own, so that each can be replaced and removed without the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Lets nothing from elsewhere in to the addresses of the tunnel. Lives as long as the device.
    Guard,
    /// Lets nothing out beside the tunnel. Lives as its policy says, also without a process.
    Lockdown,
    /// Marks the flows that enter the tunnel. Lives as long as the device.
    Flows,
}

/// The name of a table in the family `inet`: of one slot, so that two tunnels never touch each other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// What it is for.
    pub purpose: Purpose,
    /// Whose it is.
    pub slot: Slot,
}

impl Table {
    /// Whether a table of the family `inet` with this name is one of ours, and which.
    pub fn named(name: &str) -> Option<Self> {
        let (purpose, number) = name.strip_prefix("marmot_")?.rsplit_once('_')?;
        let purpose = match purpose {
            "guard" => Purpose::Guard,
            "lockdown" => Purpose::Lockdown,
            "flows" => Purpose::Flows,
            _ => return None,
        };
        let slot = Slot::new(number.parse().ok()?)?;
        let table = Self { purpose, slot };
        (table.to_string() == name).then_some(table)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let purpose = match self.purpose {
            Purpose::Guard => "guard",
            Purpose::Lockdown => "lockdown",
            Purpose::Flows => "flows",
        };
        write!(f, "marmot_{purpose}_{}", self.slot)
    }
}

/// A named counter of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name.
    pub name: String,
    /// Packets since the table was loaded.
    pub packets: u64,
    /// Their bytes, with IP headers.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_found_by_its_name_and_no_other_is() {
        let slot = Slot::new(7).expect("a slot");
        for purpose in [Purpose::Guard, Purpose::Lockdown, Purpose::Flows] {
            let table = Table { purpose, slot };
            assert_eq!(Table::named(&table.to_string()), Some(table));
        }
        for other in [
            "filter",
            "marmot_guard",
            "marmot_guard_64",
            "marmot_guard_07",
            "marmot_nat_1",
            "marmot_guard_-1",
        ] {
            assert_eq!(Table::named(other), None, "{other}");
        }
    }
}
