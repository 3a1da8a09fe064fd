//! The promises, by name, and the report of a broken one.

use std::fmt;

/// What is checked. The numbers are those of the lifecycle's invariants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// A stop is acknowledged within 250 ms of awake time in which the process runs, whatever disk, host and gateway do.
    L1Budget,
    /// No acknowledgement before the host is restored, or what is left is named.
    L2Restored,
    /// No acknowledgement before the work is recorded, nothing is owed, or the disk is known to be too slow.
    L3Recorded,
    /// No chore before the acknowledgement, in sleep or in a maintenance wake.
    L4ChoresLater,
    /// No attempt to connect in sleep or in a maintenance wake.
    L5NoDialAsleep,
    /// A sleep is acknowledged within 500 ms of awake time in which the process runs.
    L6SleepAcknowledged,
    /// Recorded work is done at least once and takes effect once, across any crashes; no two workers have one job.
    L7WorkIsDone,
    /// A deadline that fired is replaced by a later one.
    L8Deadlines,
    /// When faults end, the wanted state is reached; a start waits for nothing but the host.
    L9WantedState,
    /// At most one generation forwards packets, and only one that is up and wholly on the host.
    L10OneForwards,
    /// After a crash at any point and one start, the host is clean.
    L11CleanAfterCrash,
    /// No verdict (a notice, the end of a doubt) uses time in which the process did not run.
    L12NoTimeAcrossGaps,
    /// No decision relies on words in pairs: whatever was said or not, a host that is in use for 120 s is taken for awake.
    L13NoPairs,
    /// After a stop the host is what it was before the start.
    L15CleanAfterStop,
    /// An armed tunnel dials for a packet of a program or for a person, and for nothing else.
    L16NoDialUnasked,
    /// A packet that an armed tunnel took is held, goes first when there is a connection, or is dropped for a reason with a
    /// name.
    L17FirstPacket,
    /// A session ends for a stop, by the gateway's word or with its login, and for nothing else: not by a gap, a sleep, a
    /// wake, a silence or a lost connection.
    NoFalseEnd,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub promise: Promise,
    /// How.
    pub how: String,
    /// After how many steps of the schedule.
    pub step: u32,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at step {}: {}", self.promise, self.step, self.how)
    }
}
