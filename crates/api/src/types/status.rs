//! What a tunnel says of itself: the answer to `GET /v1/status`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{Down, Housekeeping};

/// The tunnel as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The tunnel's name.
    pub name: String,
    /// Where it is in its life.
    pub state: State,
    /// What the user wants.
    pub wanted: Wanted,
    /// Which instance of the tunnel; each start and each stop makes a higher one.
    pub generation: u64,
    /// When the state began.
    pub since_unix_ms: Option<u64>,
    /// The daemon's process.
    pub pid: u32,
    /// The daemon's version.
    pub daemon: String,
    /// Host and port of the gateway.
    pub gateway: String,
    /// Login name, if one is known.
    pub user: Option<String>,
    /// Why it failed, or why the last attempt to connect did.
    pub problem: Option<Problem>,
    /// What the gateway granted, while device and routes are there.
    pub tunnel: Option<Tunnel>,
    /// Whether anything can leave the host beside the tunnel.
    pub lockdown: Lockdown,
    /// Of this session, or of the last one if there is none.
    pub traffic: Traffic,
    /// Sessions begun since the daemon started.
    pub sessions: u64,
    /// Control connections lost since the daemon started. None of them ends a session.
    pub path_losses: u64,
    /// Gaps in which the process did not run, since the daemon started.
    pub clock_gaps: u64,
    /// What is counted by a word, since the daemon started.
    pub totals: Totals,
    /// The last stop, as it was acknowledged.
    pub last_stop: Option<Down>,
    /// What is owed.
    pub housekeeping: Housekeeping,
    /// Flow rules that are in the kernel; nothing where routes alone decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<Flows>,
}

/// Which flows enter the tunnel. Packets and bytes (with IP headers) that this host sent, since the rules were loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flows {
    /// What becomes of flows that no rule matches: `tunnel` or `direct`.
    pub default: String,
    /// Packets of those.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets dropped because their control group had appeared a moment before.
    pub held_packets: u64,
    /// The rules in their order.
    pub rules: Vec<FlowRule>,
    /// What was started by `marmot run`: inside, and outside.
    pub run: Vec<FlowRule>,
    /// The control group whose programs are inside, from the root of the hierarchy; it may not be there yet.
    pub inside: Option<String>,
    /// The control group whose programs are outside.
    pub outside: Option<String>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowRule {
    /// What it matches, in words.
    pub rule: String,
    /// `tunnel` or `direct`.
    pub action: String,
    /// Packets that matched it.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What is counted since the daemon started. The words are those of logs and metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Ends of sessions that nobody here asked for, by reason.
    pub disconnects_total: BTreeMap<String, u64>,
    /// Silences of this host, by kind.
    pub parks_total: BTreeMap<String, u64>,
    /// Ends of them, by the way back.
    pub unparks_total: BTreeMap<String, u64>,
    /// Wakes of this host, by kind.
    pub wakes_total: BTreeMap<String, u64>,
    /// Attempts to connect, by trigger.
    pub reconnect_attempts_total: BTreeMap<String, u64>,
    /// Attempts that were put off, by cause.
    pub reconnects_suppressed_total: BTreeMap<String, u64>,
    /// Time in which the process did not run.
    pub clock_gap_seconds: f64,
    /// Time from the last stop to its acknowledgement.
    pub stop_ack_seconds: Option<f64>,
    /// Jobs that are not done.
    pub housekeeping_pending: u64,
    /// Packets that waited through a gap and were dropped.
    pub stale_packets_dropped_total: u64,
    /// Packets dropped, by reason.
    pub packets_dropped_total: BTreeMap<String, u64>,
}

/// Where a tunnel is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Down, nothing of it on the host.
    #[default]
    Idle,
    /// Wanted, not up yet.
    Starting,
    /// Forwarding.
    Up,
    /// It was up and looks for its gateway; device and routes stay.
    Reasserting,
    /// The host sleeps, or hardly wakes; nothing is tried.
    Dormant,
    /// The host sleeps, or is awake for its own purposes only; nothing is tried.
    Asleep,
    /// As asleep, and the gateway knows and keeps the session.
    Parked,
    /// Up as far as anybody knows; nothing was heard of the gateway since the process did not run for a while.
    Unverified,
    /// Device and routes are there, the first packet starts a session.
    Armed,
    /// The rules of the network say that there is no tunnel in it.
    StayDown,
    /// On its way down.
    Stopping,
    /// Down for a reason that waiting does not mend.
    Failed,
    /// A word of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl State {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Reasserting => "reasserting",
            Self::Dormant => "dormant",
            Self::Asleep => "asleep",
            Self::Parked => "parked",
            Self::Unverified => "unverified",
            Self::Armed => "armed",
            Self::StayDown => "stay_down",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }

    /// The state of a word of `lifecycle`.
    pub fn of(word: &str) -> Self {
        let known = [
            Self::Idle,
            Self::Starting,
            Self::Up,
            Self::Reasserting,
            Self::Dormant,
            Self::Asleep,
            Self::Parked,
            Self::Unverified,
            Self::Armed,
            Self::StayDown,
            Self::Stopping,
            Self::Failed,
        ];
        known
            .into_iter()
            .find(|state| state.word() == word)
            .unwrap_or(Self::Unknown)
    }
}

/// What the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// A tunnel.
    Up,
    /// None.
    #[default]
    Down,
}

/// Whether anything can leave the host beside the tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lockdown {
    /// It can: there is no lockdown.
    #[default]
    Off,
    /// Nothing but what is allowed. The packet filter was seen to have it.
    On,
    /// There should be one, and it is not in place.
    Failed,
    /// A word of a newer daemon.
    #[serde(other)]
    Unknown,
}

/// What went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// What was tried, with what, and what to do about it.
    pub message: String,
    /// The exit code that stands for it; the list is in `marmot --help`.
    pub exit_code: u8,
    /// When it was noticed.
    pub at_unix_ms: u64,
    /// When the next attempt begins, if there is one.
    pub next_attempt_unix_ms: Option<u64>,
}

/// What a grant came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tunnel {
    /// Name of the device; `None` if it is in memory.
    pub interface: Option<String>,
    /// Addresses of this end, with their prefix.
    pub addresses: Vec<String>,
    /// MTU in bytes.
    pub mtu: u16,
    /// The DTLS cipher suite that packets are sealed with; `None` while they take the TLS control channel.
    pub data_channel: Option<String>,
    /// Networks that go into the tunnel.
    pub routes: Vec<String>,
    /// Name servers, if there are any.
    pub dns: Option<Dns>,
    /// Session, if the gateway names one.
    pub session: Option<String>,
    /// Its epoch.
    pub epoch: Option<u64>,
    /// When the session began.
    pub started_unix_ms: Option<u64>,
}

/// The name servers of a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Their addresses.
    pub servers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// The domains for which they are asked; none is every name.
    pub split: Vec<String>,
    /// Who on the host was told: resolved, resolvconf or file.
    pub way: Option<String>,
    /// Why they are not in use, if they are not.
    pub problem: Option<String>,
}

/// Packets and bytes through the tunnel; "in" came from the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Packets from the gateway.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Packets to the gateway.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Packets dropped, both ways.
    pub dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_a_state_is_its_json_and_a_word_to_come_can_be_read() {
        for word in [
            "idle",
            "starting",
            "up",
            "reasserting",
            "dormant",
            "asleep",
            "parked",
            "unverified",
            "armed",
            "stay_down",
            "stopping",
            "failed",
        ] {
            let state: State = serde_json::from_str(&format!("\"{word}\"")).expect("a state");
            assert_eq!(state.word(), word);
            assert_eq!(State::of(word), state);
        }
        let newer: State = serde_json::from_str("\"hibernating\"").expect("a state");
        assert_eq!(newer, State::Unknown);
        assert_eq!(State::of("hibernating"), State::Unknown);
    }

    #[test]
    fn what_is_missing_or_new_in_a_status_does_no_harm() {
        let status: Status = serde_json::from_str(r#"{"version":1,"state":"up","weather":"fine"}"#).expect("a status");
        assert_eq!(status.state, State::Up);
        assert_eq!(status.tunnel, None);
    }
}
