//! What it takes to clean the host of one tunnel: the plan and the names under which it was carried out.

use serde::{Deserialize, Serialize};

use crate::NetworkPlan;

/// Enough to remove all that a tunnel put on the host, by whoever finds it: this process, the next one, or a hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    /// The slot whose routing table, rule priorities and mark were used.
    pub slot: u8,
    /// Name of the device.
    pub interface: String,
    /// What was put there.
    pub plan: NetworkPlan,
}
