//! What is owed and what is over: the answers to `GET /v1/housekeeping` and `GET /v1/history`.

use serde::{Deserialize, Serialize};

use crate::types::Traffic;

/// What is owed, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Housekeeping {
    /// How many jobs there are.
    pub counts: Counts,
    /// Those that are not done, failed ones first; at most [`crate::MAX_JOBS`].
    pub jobs: Vec<Job>,
    /// Jobs that are not done and not in `jobs`.
    pub omitted: u64,
    /// Why the ledger could not be read.
    pub problem: Option<String>,
}

/// How many jobs there are, by folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Runnable.
    pub due: u64,
    /// Being worked at.
    pub running: u64,
    /// Failed, and tried again later.
    pub waiting: u64,
    /// Given up.
    pub failed: u64,
    /// Done, and not pruned yet.
    pub done: u64,
}

/// One job: what a session left to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Job {
    /// Its name, as used with `retry`.
    pub id: String,
    /// Where it is.
    pub state: JobState,
    /// Chores that are left, in their order ("logout", "hooks").
    pub chores: Vec<String>,
    /// Attempts so far.
    pub attempts: u32,
    /// When it is tried again.
    pub next_unix_ms: Option<u64>,
    /// When it is given up.
    pub deadline_unix_ms: Option<u64>,
    /// Why the last attempt failed, or what is wrong with the file.
    pub last_error: Option<String>,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Runnable, not claimed.
    #[default]
    Due,
    /// Somebody works at it.
    Running,
    /// It failed, and waits for its time.
    Waiting,
    /// Given up, or its file is damaged.
    Failed,
    /// Done.
    Done,
    /// A word of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl JobState {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Done => "done",
            Self::Unknown => "unknown",
        }
    }
}

/// Sessions that are over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// The oldest first.
    pub sessions: Vec<Session>,
}

/// One session that is over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// The job that wrote this.
    pub job: String,
    /// Its name at the gateway, if the gateway names sessions.
    pub session: Option<String>,
    /// Its epoch at the end.
    pub epoch: Option<u64>,
    /// Host and port of the gateway.
    pub gateway: String,
    /// Login name.
    pub user: Option<String>,
    /// Addresses of this end.
    pub addresses: Vec<String>,
    /// When it began.
    pub started_unix_ms: u64,
    /// When it ended; `None` if nobody saw the end.
    pub ended_unix_ms: Option<u64>,
    /// How long it lasted, sleep included.
    pub seconds: Option<f64>,
    /// What went through it.
    pub traffic: Traffic,
    /// Control connections lost meanwhile.
    pub path_losses: u64,
    /// Gaps in which the process did not run.
    pub wakes: u64,
    /// Its last sleeps, the oldest first.
    pub sleeps: Vec<Sleep>,
    /// Why it ended: user_stop, admin, auth_expired, park_ttl, replaced, fatal, crash.
    pub end_reason: Option<String>,
    /// More words on it.
    pub detail: Option<String>,
    /// How long its stop took to be acknowledged, in milliseconds.
    pub stop_ack_ms: Option<f64>,
}

/// A silence of the host, and how the session went on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sleep {
    /// When it began.
    pub at_unix_ms: u64,
    /// Seconds in which the process did not run.
    pub gap_s: u64,
    /// How often the host woke, the last time included.
    pub wakes: u32,
    /// The way back: same_path, rebind, resume, login.
    pub via: String,
}
