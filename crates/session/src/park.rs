//! How a client that says nothing is present at the gateway.

mod attendance;

use std::fmt;

pub use attendance::{Attend, Attendance, Sample};

/// Why a session is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParkKind {
    /// The client said that it is about to sleep.
    Announced,
    /// Its kernel answers, its process does not.
    Frozen,
    /// Nothing answers.
    Unreachable,
}

impl ParkKind {
    /// The word used in logs and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Frozen => "frozen",
            Self::Unreachable => "unreachable",
        }
    }
}

impl fmt::Display for ParkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// By which way a parked client came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// From where it was, with the keys it had.
    SamePath,
    /// From another address, with the keys it had.
    Rebind,
    /// By a new CONNECT that went on with its session.
    Resume,
    /// By a new login.
    Login,
}

impl Via {
    /// The word used in logs and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::SamePath => "same_path",
            Self::Rebind => "rebind",
            Self::Resume => "resume",
            Self::Login => "login",
        }
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
