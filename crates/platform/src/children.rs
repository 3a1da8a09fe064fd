//! Running an administrator's executable as a hook: without privileges, with limits, and never outliving us.
//!
//! ```text
//!   we  --fork-->  keeper (subreaper, leader of a process group of its own)  --fork, exec-->  the hook
//!    |                |                                                                        |
//!    |                +--- kills whatever the hook left, also what moved into another session ---+
//!    +-- a socket: the keeper tells how the hook ended; when we close it, or die, the keeper ends all
//! ```
//! Ending is SIGTERM to all, and SIGKILL [`GRACE`] later. A hook has an empty environment but for what it is given, `/` as
//! its folder, nothing to read, no other descriptors, no capabilities and no way to get any, and the lowest priorities for
//! processor and disk.

use std::fmt;
use std::future;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::os::children::trusted_executable;
use crate::service::Descriptor;

/// Time between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(2);

/// One run of an executable. It is started directly, without a shell and without arguments.
#[derive(Debug)]
pub struct Hook {
    /// The executable; the path that [`trusted_executable`] returns.
    pub program: PathBuf,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// After this time it is ended.
    pub time_limit: Duration,
    /// How many bytes of its output (both streams together) are kept: the first half and the last half.
    pub output_limit: usize,
    /// What stays open until none of the hook's processes is left, even if we are killed: such as a lock
    /// ([`crate::disk::WorkerLock::descriptor`]). The hook itself does not get it.
    pub keep: Option<Descriptor>,
}

/// How a hook ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this exit code.
    Exited(i32),
    /// By a signal that we did not send.
    Killed(i32),
    /// It took longer than its time limit and was ended.
    TimedOut,
    /// We were asked to stop and ended it.
    Stopped,
}

/// What became of a hook. None of its processes is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// How it ended.
    pub ending: Ending,
    /// From its start until all of its processes were gone.
    pub took: Duration,
    /// What it wrote to both streams, invalid UTF-8 and control characters but line ends replaced. A line in brackets stands
    /// for what was left out.
    pub output: String,
    /// How many bytes were left out.
    pub left_out: u64,
}

impl Finished {
    /// Whether the hook did its work: exit code 0.
    pub fn succeeded(&self) -> bool {
        self.ending == Ending::Exited(0)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Killed(signal) => write!(f, "killed by signal {signal}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Stopped => f.write_str("interrupted by a stop"),
        }
    }
}

impl Hook {
    /// Runs the hook and waits for it. Dropping the future ends the hook as [`Hook::run_until`] does, without waiting for
    /// it.
    ///
    /// # Errors
    /// It could not be started at all.
    pub async fn run(&self) -> io::Result<Finished> {
        self.run_until(future::pending()).await
    }

    /// Runs the hook and waits for it; when `stop` is ready, ends it ([`Ending::Stopped`]), which takes at most [`GRACE`]
    /// and a moment.
    ///
    /// # Errors
    /// It could not be started at all.
    pub async fn run_until(&self, stop: impl Future<Output = ()>) -> io::Result<Finished> {
        crate::os::children::run(self, stop).await
    }
}
