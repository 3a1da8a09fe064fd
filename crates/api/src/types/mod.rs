//! The JSON. Times are wall time in milliseconds since 1970 (`.._unix_ms`), lengths have their unit in the name.

mod event;
mod gateway;
mod housekeeping;
mod order;
mod status;

use serde::{Deserialize, Serialize};

pub use event::{Event, Happening};
pub use gateway::{Attendance, GatewayCounters, GatewaySession, GatewaySessions, GatewayStatus, Kicked, SessionCounts};
pub use housekeeping::{Counts, History, Housekeeping, Job, JobState, Session, Sleep};
pub use order::{Down, Owed, Up, UpOrder};
pub use status::{Dns, FlowRule, Flows, Lockdown, Problem, State, Status, Totals, Traffic, Tunnel, Wanted};

/// An answer as it goes over the socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Versioned<T> {
    pub(crate) version: u32,
    #[serde(flatten)]
    pub(crate) body: T,
}

impl<T: Serialize> Versioned<T> {
    /// One line of JSON.
    pub(crate) fn line(body: T) -> Vec<u8> {
        let answer = Self {
            version: crate::VERSION,
            body,
        };
        let mut line = serde_json::to_vec(&answer).expect("our types have string keys and no failing parts");
        line.push(b'\n');
        line
    }
}

/// `body` as one line of JSON with our version, as it goes over the socket. `body` is a struct or a map with string keys.
pub fn line<T: Serialize>(body: &T) -> String {
    String::from_utf8(Versioned::line(body)).expect("JSON is text")
}

/// `{"version":1,"error":{..}}`
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Denial {
    pub(crate) error: DenialWords,
}

/// Why a request was refused.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DenialWords {
    pub(crate) code: String,
    pub(crate) message: String,
}
