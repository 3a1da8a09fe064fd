//! What happens: `GET /v1/events`, one [`Event`] a line.

use serde::{Deserialize, Serialize};

use crate::types::{Down, Status};

/// Something happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    #[serde(default)]
    pub at_unix_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// What happened: the words of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event")]
pub enum Happening {
    /// The first line of a stream, and each change of the state or of the problem.
    #[serde(rename = "status")]
    Status {
        /// The tunnel as it is now.
        status: Box<Status>,
    },
    /// A session began.
    #[serde(rename = "session.start")]
    SessionStart {
        /// Its name at the gateway.
        #[serde(default)]
        session: Option<String>,
        /// Its epoch.
        #[serde(default)]
        epoch: Option<u64>,
        /// The device.
        #[serde(default)]
        interface: Option<String>,
        /// Addresses of this end.
        #[serde(default)]
        addresses: Vec<String>,
    },
    /// A session ended: "disconnected", unless the reason is `user_stop`.
    #[serde(rename = "session.end")]
    SessionEnd {
        /// The reason's word.
        reason: String,
        /// More words on it.
        #[serde(default)]
        detail: Option<String>,
        /// How long it lasted.
        #[serde(default)]
        seconds: u64,
    },
    /// This host is silent, and the gateway keeps the session.
    #[serde(rename = "session.park")]
    SessionPark {
        /// announced, frozen, unreachable.
        kind: String,
    },
    /// The gateway knows that this host is back.
    #[serde(rename = "session.unpark")]
    SessionUnpark {
        /// Seconds in which the process did not run.
        #[serde(default)]
        gap_s: u64,
        /// How often the host woke, the last time included.
        #[serde(default)]
        wakes: u32,
        /// The way back: same_path, rebind, resume, login.
        #[serde(default)]
        via: String,
    },
    /// The control connection is lost; the session goes on.
    #[serde(rename = "path.lost")]
    PathLost {
        /// What was seen.
        #[serde(default)]
        detail: Option<String>,
    },
    /// There is a control connection again.
    #[serde(rename = "path.back")]
    PathBack {
        /// How long there was none, in milliseconds.
        #[serde(default)]
        after_ms: u64,
    },
    /// The process did not run for a while.
    #[serde(rename = "clock.gap")]
    ClockGap {
        /// How long.
        seconds: f64,
        /// sleep or freeze.
        kind: String,
    },
    /// A stop was acknowledged.
    #[serde(rename = "stop.ack")]
    StopAck(Down),
    /// The device of a stopped tunnel is gone.
    #[serde(rename = "device.gone")]
    DeviceGone {
        /// Its name.
        interface: String,
        /// Since the acknowledgement, in milliseconds.
        #[serde(default)]
        ms: f64,
    },
    /// A job is done.
    #[serde(rename = "housekeeping.done")]
    HousekeepingDone {
        /// Its name.
        job: String,
        /// How long the last attempt took.
        ms: u64,
        /// Attempts.
        tries: u32,
    },
    /// An attempt at a job failed.
    #[serde(rename = "housekeeping.failed")]
    HousekeepingFailed {
        /// Its name.
        job: String,
        /// Why.
        error: String,
        /// Attempts so far.
        tries: u32,
        /// There will be no other.
        given_up: bool,
    },
    /// Something that only a newer daemon knows.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Owed, Versioned};

    #[test]
    fn an_event_is_one_flat_object_with_its_word_and_comes_back() {
        let event = Event {
            at_unix_ms: 1_800_000_000_123,
            what: Happening::StopAck(Down {
                ms: 2.5,
                owed: Owed::Recorded,
                job: Some("1800000000-0123456789abcdef".to_owned()),
                ..Down::default()
            }),
        };
        let line = String::from_utf8(Versioned::line(&event)).expect("text");
        assert!(
            line.starts_with(r#"{"version":1,"at_unix_ms":1800000000123,"event":"stop.ack""#),
            "{line}"
        );
        assert!(line.ends_with("}\n") && line.contains(r#""owed":"recorded""#), "{line}");
        let back: Versioned<Event> = serde_json::from_str(&line).expect("an event");
        assert_eq!(back.body, event);
    }

    #[test]
    fn a_word_to_come_is_an_event_too() {
        let line = r#"{"version":1,"at_unix_ms":7,"event":"session.nap","kind":"short"}"#;
        let event: Versioned<Event> = serde_json::from_str(line).expect("an event");
        assert_eq!(event.body.what, Happening::Unknown);
    }
}
