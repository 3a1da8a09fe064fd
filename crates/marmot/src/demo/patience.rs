//! Waiting with an end: every wait of the demo has a limit, says what it waited for, and notices Ctrl-C.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How far a signal may arrive at one process after another.
const GRACE: Duration = Duration::from_millis(200);

/// Somebody asked the demo to stop. Set once by the signal thread, read by every wait.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The demo was asked to stop; it cleans up and goes.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Listens for Ctrl-C and its relatives on a thread of its own. To be called after the last unshare: that needs a process
/// with a single thread. Where signals cannot be listened for, Ctrl-C ends the demo as it would any program.
pub(crate) fn listen_for_interrupts() {
    let listen = || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        runtime.block_on(async {
            let Ok(mut signals) = platform::signals::Signals::new() else {
                return;
            };
            signals.next().await;
            INTERRUPTED.store(true, Ordering::SeqCst);
            // From here on the handler stays, so that a second Ctrl-C cannot cut the cleaning up short.
            std::future::pending::<()>().await;
        });
    };
    // Without the thread there is only no tidy end on Ctrl-C.
    let _ = thread::Builder::new().name("signals".into()).spawn(listen);
}

/// Fails if the demo was asked to stop.
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        return Err(Interrupted.into());
    }
    Ok(())
}

/// Whether the demo was asked to stop. A Ctrl-C reaches all processes of a terminal, and a child may have ended of it before
/// we hear of it ourselves; so the answer takes a moment if it is no.
pub(crate) fn was_interrupted() -> bool {
    wait_for("an interruption", GRACE, || Ok(None::<()>)).is_err_and(|error| error.is::<Interrupted>())
}

/// Looks until `look` finds something, at most for `limit`.
///
/// # Errors
/// `what` was not found in time, the demo was interrupted, or `look` failed.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        check()?;
        if let Some(found) = look()? {
            return Ok(found);
        }
        if started.elapsed() >= limit {
            bail!("waited {:.0} s in vain for {what}", limit.as_secs_f64());
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Lets `time` pass.
///
/// # Errors
/// The demo was interrupted.
pub(crate) fn pause(time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    loop {
        check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(LOOK_EVERY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_what_it_found_or_says_what_it_missed() {
        let mut looks = 0;
        let found = wait_for("the third look", Duration::from_secs(10), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.expect("found"), 3);
        let missed = wait_for("godot", Duration::ZERO, || Ok(None::<()>)).expect_err("missed");
        assert_eq!(missed.to_string(), "waited 0 s in vain for godot");
    }
}
