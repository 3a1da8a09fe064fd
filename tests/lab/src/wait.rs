//! Waiting for what the kernel or a process brings about, never for time to pass.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long an event may take that happens at once on an idle machine. Generous: two busy cores must not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at a state that nothing announces (counters of a socket, the interfaces of a namespace).
const LOOK: Duration = Duration::from_millis(10);

/// Looks until `probe` finds something, and returns it.
///
/// # Errors
/// If the deadline passes first, saying `what` was awaited; or whatever `probe` fails with.
pub fn eventually<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if began.elapsed() >= within {
            bail!("waited {within:?} for this, in vain: {what}");
        }
        thread::park_timeout(LOOK);
    }
}

/// [`eventually`] for a condition.
///
/// # Errors
/// As there.
pub fn until(what: &str, within: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    eventually(what, within, || Ok(holds()?.then_some(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_already_is_found_without_waiting() {
        assert_eq!(eventually("seven", Duration::ZERO, || Ok(Some(7))).unwrap(), 7);
    }

    #[test]
    fn what_never_comes_is_named() {
        let error = until("the end of days", Duration::ZERO, || Ok(false)).unwrap_err();
        assert!(error.to_string().contains("the end of days"));
    }
}
