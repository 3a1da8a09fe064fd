//! The three clocks of the host in one reading, and a timer on the one that runs through sleep.
//!
//! tokio's timers stand still while the host sleeps (Linux, macOS): one that is due in 5 s is due 5 s after the wake. A
//! [`Ticker`] is due at once then, which is how a sleep is seen at its end and not up to a tick later.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use ledger::Stamp;
use now::Boot;

use crate::os::clock as system;

pub use crate::os::clock::{boot_id, now};

/// One deadline on the boot clock. It wakes no host (that takes a privilege, and nothing here is worth it): one that passed in
/// a sleep has come as soon as the host runs again, and counts once, however often it would have come.
///
/// On Linux it is a `timerfd`. It is armed with what is left until the deadline, not with the deadline: the kernel starts from
/// its own clock, and the process may see another one (a preloaded shim in a test). What is left is converted to a
/// deadline on the kernel's boot clock at once, so a sleep counts all the same; but a shim that jumps afterwards is not
/// noticed before the time is really over. Elsewhere it is a timer of tokio that looks at the clock every so often.
#[derive(Debug)]
pub struct Ticker(system::Ticker);

impl Ticker {
    /// A ticker without a deadline. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// The process has no descriptors left, or the runtime is the wrong one.
    pub fn new() -> io::Result<Self> {
        system::Ticker::new().map(Self)
    }

    /// Sets the deadline, in the place of the one before. One that has passed comes at once.
    ///
    /// # Errors
    /// The kernel refuses, which it has no reason for.
    pub fn set(&mut self, at: Boot) -> io::Result<()> {
        self.set_in(at.since_origin().saturating_sub(now().boot.since_origin()))
    }

    /// Sets the deadline to the moment that is so far away. For whoever has a clock of his own.
    ///
    /// # Errors
    /// As for [`Ticker::set`].
    pub fn set_in(&mut self, wait: Duration) -> io::Result<()> {
        self.0.set_in(wait)
    }

    /// Waits for the deadline, of which nothing is left then; without one it waits for ever. Cancel safe: a deadline that has
    /// come is told until somebody has heard it.
    ///
    /// # Errors
    /// The runtime is about to end.
    pub async fn tick(&mut self) -> io::Result<()> {
        self.0.tick().await
    }
}

/// This moment, as a ledger writes it down.
pub fn stamp() -> Stamp {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    let ms = |elapsed: Duration| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let now = now();
    Stamp {
        wall_ms: ms(now.wall.since_origin()),
        boot_ms: ms(now.boot.since_origin()),
        boot_id: BOOT_ID.get_or_init(boot_id).clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_do_not_run_backwards_and_boot_is_never_behind_awake() {
        let first = now();
        let second = now();
        assert!(second.awake >= first.awake);
        assert!(second.boot >= first.boot);
        assert!(second.boot.since_origin() >= first.awake.since_origin());
        assert!(second.wall.since_origin().as_secs() > 1_700_000_000);
    }

    #[tokio::test]
    async fn a_deadline_comes_once_and_not_before_its_time() {
        let mut ticker = Ticker::new().expect("a descriptor");
        let at = now().boot.plus(Duration::from_millis(20));
        ticker.set(at).expect("armed");
        ticker.tick().await.expect("runtime");
        assert!(now().boot >= at);
        assert!(is_silent(&mut ticker).await);
    }

    #[tokio::test]
    async fn a_deadline_that_has_passed_comes_at_once_and_a_new_one_replaces_it() {
        let mut ticker = Ticker::new().expect("a descriptor");
        assert!(is_silent(&mut ticker).await);
        ticker.set(Boot::from_origin(Duration::ZERO)).expect("armed");
        ticker.tick().await.expect("runtime");
        ticker.set_in(Duration::ZERO).expect("armed");
        // The kernel has told the runtime of the first one; it must not count for the second.
        tokio::task::yield_now().await;
        ticker.set_in(Duration::from_secs(3600)).expect("armed");
        assert!(is_silent(&mut ticker).await);
    }

    #[tokio::test]
    async fn a_deadline_is_not_lost_with_whoever_waited_for_it() {
        let mut ticker = Ticker::new().expect("a descriptor");
        ticker.set_in(Duration::from_millis(5)).expect("armed");
        for _ in 0..3 {
            assert!(is_silent(&mut ticker).await);
        }
        ticker.tick().await.expect("runtime");
    }

    /// Whether there is nothing to hear at this moment.
    async fn is_silent(ticker: &mut Ticker) -> bool {
        tokio::select! {
            biased;
            _ = ticker.tick() => false,
            () = tokio::task::yield_now() => true,
        }
    }

    #[test]
    fn a_stamp_tells_this_boot_and_this_moment() {
        let (before, stamp) = (now(), stamp());
        assert!(stamp.wall_ms >= 1_700_000_000_000);
        assert!(u128::from(stamp.boot_ms) >= before.boot.since_origin().as_millis());
        assert_eq!(stamp.boot_id, boot_id());
        if cfg!(target_os = "linux") {
            assert_eq!(stamp.boot_id.len(), 36, "{}", stamp.boot_id);
        }
    }
}
