//! Orders and their answers: `POST /v1/up` and `POST /v1/down`.

use serde::{Deserialize, Serialize};

use crate::types::State;

/// What may be said with `up`; an empty body stands for the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpOrder {
    /// A tunnel that is up makes a new connection now (as SIGUSR2); the session goes on.
    pub reconnect: bool,
}

/// An accepted start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Up {
    /// The state right after the order.
    pub state: State,
    /// The instance that comes up. A status with a lower generation is about an earlier one.
    pub generation: u64,
    /// It was up already, and stays so.
    pub already: bool,
}

/// An acknowledged stop: the host is as it was before, except for `residue`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Down {
    /// Nothing was to be stopped.
    pub already: bool,
    /// From the order to the acknowledgement, in milliseconds.
    pub ms: f64,
    /// What could not be taken off the host, in words ("dns", "rule 18123: permission denied").
    pub residue: Vec<String>,
    /// What became of the housekeeping that this session leaves.
    pub owed: Owed,
    /// The job that was recorded.
    pub job: Option<String>,
    /// The error that stopped it, if it was not an order.
    pub error: Option<String>,
}

/// What became of the housekeeping that a session leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owed {
    /// It is on the disk.
    Recorded,
    /// There is none.
    #[default]
    Nothing,
    /// The disk did not take it in time; it goes on behind the answer, and a crash before it is done loses only the
    /// end of the session: its open record is there.
    DiskTooSlow,
    /// A word of a newer daemon.
    #[serde(other)]
    Unknown,
}
