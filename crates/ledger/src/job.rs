//! A job: the record of a session that is over, and how far its chores have come.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::disk::NotAName;
use crate::{Chore, FileName, OpenRecord};

/// The latest start that an id can say: ten digits, the year 2286.
const MAX_STARTED_S: u64 = 9_999_999_999;

const SUFFIX: &str = ".job";

/// The name of a session's record and of its job, the same in every folder: the second in which the session began, and a
/// random number. Ids sort by that second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId {
    started_s: u64,
    random: u64,
}

impl JobId {
    /// The id of a session that began `started_s` seconds after 1970-01-01 00:00:00 UTC; `random` tells sessions of one
    /// second apart.
    pub fn new(started_s: u64, random: u64) -> Self {
        Self {
            started_s: started_s.min(MAX_STARTED_S),
            random,
        }
    }

    /// When the session began, in seconds of the wall clock.
    pub const fn started_s(self) -> u64 {
        self.started_s
    }

    /// The name of its file.
    pub fn file_name(self) -> FileName {
        FileName::new(format!("{self}{SUFFIX}")).expect("digits, letters, a dash and a dot are a file name")
    }

    /// The id whose file has this name.
    pub fn of_file(name: &FileName) -> Option<Self> {
        name.as_str().strip_suffix(SUFFIX)?.parse().ok()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}-{:016x}", self.started_s, self.random)
    }
}

impl FromStr for JobId {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let (started, random) = text.split_once('-').ok_or(NotAName)?;
        let id = Self {
            started_s: started.parse().map_err(|_| NotAName)?,
            random: u64::from_str_radix(random, 16).map_err(|_| NotAName)?,
        };
        // One id, one text: no signs, no capitals, no missing zeros.
        if id.started_s <= MAX_STARTED_S && id.to_string() == text {
            Ok(id)
        } else {
            Err(NotAName)
        }
    }
}

impl TryFrom<String> for JobId {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, NotAName> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.to_string()
    }
}

/// A session that is over, and what is still owed for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What was recorded of the session.
    pub record: OpenRecord,
    /// The words of the chores, and of parts of them ("hooks/NAME"), that need not be done again.
    pub done: Vec<String>,
    /// How often it failed.
    pub attempts: u32,
    /// How often a worker ended while it ran.
    pub interrupted: u32,
    /// Not to be run before, in wall-clock milliseconds; only in waiting/.
    pub not_before_ms: Option<u64>,
    /// A failure later than this is the last, from the third on, in wall-clock milliseconds.
    pub deadline_ms: u64,
    /// When it was done or given up, in wall-clock milliseconds; counts only in done/ and failed/.
    pub settled_ms: Option<u64>,
    /// Why it failed last.
    pub last_error: Option<String>,
}

impl Job {
    /// Its name.
    pub fn id(&self) -> JobId {
        self.record.id
    }

    /// Whether the chore or part of a chore with this word is done.
    pub fn has_done(&self, word: &str) -> bool {
        self.done.iter().any(|done| done == word)
    }

    /// The chores that are not done, in their order.
    pub fn owed(&self) -> impl Iterator<Item = &Chore> {
        self.record.chores.iter().filter(|chore| !self.has_done(chore.word()))
    }
}
