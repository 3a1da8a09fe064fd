//! Waiting for the locks of a dead process, which its unfinished children hold for a moment.

use std::thread;
use std::time::{Duration, Instant};

use crate::signals::is_alive;

/// How long the unfinished children of a dead process may hold its locks. They run at low priority; usually it is a
/// millisecond.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// Between two attempts meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// Who has a lock, as far as its note tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The attempt has won the lock.
    Nobody,
    /// Who wrote the note is gone.
    Dead,
    /// Somebody who lives, or did not say who it is.
    Somebody,
}

impl Holder {
    /// The holder that wrote this process number, or none.
    pub(crate) fn of(pid: Option<u32>) -> Self {
        match pid {
            Some(pid) if !is_alive(pid) => Self::Dead,
            _ => Self::Somebody,
        }
    }
}

/// Attempts a lock until its holder is anybody but a dead process, for at most two seconds. A child that such a process was
/// about to start when it was killed still has its descriptors, until it has become another program or has closed them.
/// Blocks the thread.
pub(crate) fn after_the_dead<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    holder: impl Fn(&T) -> Holder,
) -> Result<T, E> {
    let began = Instant::now();
    loop {
        let attempted = attempt()?;
        if holder(&attempted) != Holder::Dead || began.elapsed() >= LAST_BREATH {
            return Ok(attempted);
        }
        thread::sleep(LOOK);
    }
}
