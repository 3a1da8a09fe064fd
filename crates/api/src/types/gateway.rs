//! What a gateway says of its sessions: the answers to `GET /v1/status` and `GET /v1/sessions` of its socket.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::types::Traffic;

/// A gateway as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewayStatus {
    /// The daemon's process.
    pub pid: u32,
    /// The daemon's version.
    pub daemon: String,
    /// Where it listens.
    pub listen: Vec<String>,
    /// How many sessions are in which state.
    pub sessions: SessionCounts,
    /// What became of sessions since it started.
    pub counters: GatewayCounters,
}

/// How many sessions are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionCounts {
    /// In each of [`Attendance`].
    pub connected: u64,
    /// See [`SessionCounts::connected`].
    pub quiet: u64,
    /// See [`SessionCounts::connected`].
    pub parked: u64,
    /// See [`SessionCounts::connected`].
    pub waiting: u64,
}

/// What became of sessions since the gateway started, by the words of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewayCounters {
    /// Sessions that were parked, by kind.
    pub parks_total: BTreeMap<String, u64>,
    /// Parked sessions whose clients came back, by the way they did.
    pub unparks_total: BTreeMap<String, u64>,
    /// Sessions that ended, by reason, but those that their users stopped.
    pub disconnects_total: BTreeMap<String, u64>,
    /// Packets that went nowhere, by reason.
    pub packets_dropped_total: BTreeMap<String, u64>,
}

/// Sessions of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewaySessions {
    /// At most [`crate::MAX_SESSIONS`].
    pub sessions: Vec<GatewaySession>,
    /// How many there are beside them.
    pub left_out: u64,
    /// As in [`GatewayStatus::counters`].
    pub counters: GatewayCounters,
}

/// How the client of a session is present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attendance {
    /// It is connected, and its applications speak.
    Connected,
    /// It is connected, and its applications are silent.
    Quiet,
    /// It sleeps, is stopped, or cannot be reached.
    Parked,
    /// It has no connection, and has only just lost it, or never had one.
    #[default]
    #[serde(other)]
    Waiting,
}

/// One session of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewaySession {
    /// Its name in the log.
    pub id: String,
    /// Whose.
    pub user: String,
    /// Logged in to which group.
    pub group: Option<String>,
    /// Its addresses in the tunnel.
    pub addresses: Vec<IpAddr>,
    /// Where its newest connection came from.
    pub peer: Option<IpAddr>,
    /// How its client is present.
    pub state: Attendance,
    /// Why it is parked: announced, frozen or unreachable.
    pub parked: Option<String>,
    /// Since when it is parked.
    pub parked_since_unix_ms: Option<u64>,
    /// How often its client said something since.
    pub wakes: u64,
    /// When the user logged in.
    pub began_unix_ms: u64,
    /// The number of its newest connection.
    pub epoch: u64,
    /// By what that got the session: login, cookie, ticket, proof or rebuilt. Nothing of one from before the gateway's start.
    pub entrance: Option<String>,
    /// Whether it has a control connection.
    pub control: bool,
    /// Whether the data channel carries its packets.
    pub data_channel: bool,
    /// Whether its client can park.
    pub can_park: bool,
    /// What it carried, as the gateway sees it: in is from the client.
    pub traffic: Traffic,
}

/// A session was ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kicked {
    /// Which.
    pub id: String,
    /// Whose it was.
    pub user: String,
}
