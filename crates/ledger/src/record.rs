//! What is written down of a session while it lives, and of its end.

use std::net::IpAddr;

use ipnet::IpNet;
use now::Wall;
use plan::Undo;
use serde::{Deserialize, Serialize};

use crate::{Chore, JobId};

/// Longest reason, detail or error that is kept, in bytes.
const MAX_TEXT: usize = 512;

/// A moment, on the clocks that can be compared later: the wall clock, and the boot clock of one boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Milliseconds since 1970-01-01 00:00:00 UTC, as the host believed.
    pub wall_ms: u64,
    /// Milliseconds since the host booted, sleep included.
    pub boot_ms: u64,
    /// Which boot; empty where the system does not say.
    pub boot_id: String,
}

impl Stamp {
    /// The moment on the wall clock.
    pub fn wall(&self) -> Wall {
        from_ms(self.wall_ms)
    }

    /// Milliseconds from `earlier` to this: on the boot clock if both are of one boot, on the wall clock otherwise; zero if
    /// `earlier` is later.
    pub fn ms_since(&self, earlier: &Self) -> u64 {
        if self.boot_id == earlier.boot_id && !self.boot_id.is_empty() {
            self.boot_ms.saturating_sub(earlier.boot_ms)
        } else {
            self.wall_ms.saturating_sub(earlier.wall_ms)
        }
    }
}

/// Which end of the tunnel keeps the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The one that connects.
    Client,
    /// The one that listens.
    Gateway,
}

/// The record of a session, durable before anything of it is put on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRecord {
    /// The name of the record, and of the job that it becomes.
    pub id: JobId,
    /// The tunnel's name.
    pub tunnel: String,
    /// Which end.
    pub role: Role,
    /// The generation of the tunnel instance; counts from 1 in each process.
    pub generation: u64,
    /// What is known of the session.
    pub facts: SessionFacts,
    /// How to clean the host; none where nothing was put there, or when all was removed.
    pub undo: Option<Undo>,
    /// What is to be done when the session is over, in this order.
    pub chores: Vec<Chore>,
}

/// What is known of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFacts {
    /// The session's id at the gateway.
    pub session: Option<String>,
    /// Which epoch of the session.
    pub epoch: Option<u64>,
    /// The gateway's name, as configured.
    pub gateway: String,
    /// Who logged in.
    pub user: Option<String>,
    /// The address of the other end.
    pub peer: Option<IpAddr>,
    /// Addresses inside the tunnel.
    pub addresses: Vec<IpNet>,
    /// Name of the device.
    pub interface: Option<String>,
    /// When it began.
    pub started: Stamp,
    /// When and why it ended; none while it lives.
    pub end: Option<End>,
    /// Packets from the tunnel.
    pub packets_in: u64,
    /// Packets into the tunnel.
    pub packets_out: u64,
    /// Bytes of these packets, without what carried them.
    pub bytes_in: u64,
    /// Bytes of these packets, without what carried them.
    pub bytes_out: u64,
    /// Packets dropped, for whatever reason.
    pub dropped: u64,
    /// How often the path was lost.
    pub path_losses: u64,
    /// How often the clocks showed a gap: the host slept, or the process was stopped.
    pub wakes: u64,
    /// The last sleeps, at most [`MAX_SLEEPS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sleeps: Vec<Sleep>,
}

/// Sleeps of one session that are kept: a month of one a night and one at noon, in 6 kB.
pub const MAX_SLEEPS: usize = 64;

/// A silence of the host, and how the session went on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sleep {
    /// When it began, in wall-clock milliseconds.
    pub at_ms: u64,
    /// Seconds in which the process did not run.
    pub gap_s: u64,
    /// How often the host woke, the last time included.
    pub wakes: u32,
    /// The word for the way back: same_path, rebind, resume, login.
    pub via: String,
}

impl SessionFacts {
    /// Adds a sleep; the oldest gives way.
    pub fn slept(&mut self, sleep: Sleep) {
        if self.sleeps.len() >= MAX_SLEEPS {
            self.sleeps.remove(0);
        }
        self.sleeps.push(sleep);
    }

    /// How long the session lasted, in milliseconds; none while it lives.
    pub fn lasted_ms(&self) -> Option<u64> {
        self.end.as_ref().map(|end| end.at.ms_since(&self.started))
    }
}

/// The end of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When. After a crash: when the record was found.
    pub at: Stamp,
    /// The word for the reason (`user_stop`, `crash`, ...), the same in logs and metrics.
    pub reason: String,
    /// What else is to be said about it.
    pub detail: Option<String>,
}

impl End {
    /// An end without details.
    pub fn new(at: Stamp, reason: impl Into<String>) -> Self {
        Self {
            at,
            reason: reason.into(),
            detail: None,
        }
    }

    pub(crate) fn clipped(self) -> Self {
        Self {
            at: self.at,
            reason: clip(self.reason),
            detail: self.detail.map(clip),
        }
    }
}

/// A session of the past, as the history keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The session's record had this name.
    pub id: JobId,
    /// The tunnel's name.
    pub tunnel: String,
    /// Which end.
    pub role: Role,
    /// The generation of the tunnel instance.
    pub generation: u64,
    /// What is known of the session.
    pub facts: SessionFacts,
}

impl From<&OpenRecord> for HistoryEntry {
    fn from(record: &OpenRecord) -> Self {
        Self {
            id: record.id,
            tunnel: record.tunnel.clone(),
            role: record.role,
            generation: record.generation,
            facts: record.facts.clone(),
        }
    }
}

/// The first [`MAX_TEXT`] bytes of `text`, whole characters only.
pub(crate) fn clip(mut text: String) -> String {
    let end = (0..=MAX_TEXT.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
    text
}

pub(crate) fn from_ms(ms: u64) -> Wall {
    Wall::from_origin(std::time::Duration::from_millis(ms))
}

pub(crate) fn to_ms(wall: Wall) -> u64 {
    u64::try_from(wall.since_origin().as_millis()).unwrap_or(u64::MAX)
}
