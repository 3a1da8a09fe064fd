//! How long and how often a job is tried, and how much of the past is kept.

use std::time::Duration;

use now::Wall;

/// No wait is shorter, so that a job's time is always later than the failure that set it.
const SHORTEST: Duration = Duration::from_millis(1);

/// The limits of one ledger. The defaults are those of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Failures after which a job is given up.
    pub attempts: u32,
    /// Ends of a worker in the middle of a job after which the job is given up: a job that kills its worker must not be
    /// run for ever, and a job that happens to run when the host goes down must not be given up for it.
    pub interruptions: u32,
    /// The wait after the first failure; it doubles with each further one.
    pub retry_first: Duration,
    /// The longest wait.
    pub retry_max: Duration,
    /// The time after which the next failure is the last, from the third on.
    pub give_up_after: Duration,
    /// Files kept in done/. Of no folder more than [`MAX_KEPT`](crate::MAX_KEPT) are kept.
    pub keep_done: usize,
    /// Files kept in failed/.
    pub keep_failed: usize,
    /// Files kept in history/.
    pub keep_history: usize,
    /// How long files are kept in these three.
    pub keep_for: Duration,
    /// Bytes kept in these three together.
    pub keep_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempts: 12,
            interruptions: 100,
            retry_first: Duration::from_secs(5),
            retry_max: Duration::from_secs(3600),
            give_up_after: Duration::from_secs(7 * 24 * 3600),
            keep_done: 100,
            keep_failed: 100,
            keep_history: 1000,
            keep_for: Duration::from_secs(90 * 24 * 3600),
            keep_bytes: 16 * 1024 * 1024,
        }
    }
}

impl Limits {
    /// The wait after `failures` failures: the first wait, doubled each time, a quarter more or less, never above the
    /// longest. `random` is drawn by the caller, so that jobs that failed together do not come back together.
    pub fn wait(&self, failures: u32, random: u16) -> Duration {
        let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let base = self.retry_first.saturating_mul(factor).min(self.retry_max);
        let spread = base / 2 / 65_536 * u32::from(random);
        (base / 4 * 3).saturating_add(spread).min(self.retry_max).max(SHORTEST)
    }

    /// The time of a job that waits until `until`, as far ahead as a wait can be: a wall clock that was set back must not
    /// hold a job up.
    pub(crate) fn clamp(&self, until: Wall, now: Wall) -> Wall {
        until.min(now.plus(self.retry_max.max(SHORTEST)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_stay_within_a_quarter_of_their_mean_and_below_the_longest() {
        let limits = Limits::default();
        for (failures, mean_s) in [(1, 5), (2, 10), (3, 20), (10, 2560)] {
            let mean = Duration::from_secs(mean_s);
            assert_eq!(limits.wait(failures, 0), mean * 3 / 4, "{failures} failures");
            let longest = limits.wait(failures, u16::MAX);
            assert!(
                longest > mean && longest <= mean * 5 / 4,
                "{failures} failures: {longest:?}"
            );
        }
        for failures in [11, 12, 33, u32::MAX] {
            assert!(limits.wait(failures, u16::MAX) <= limits.retry_max);
            assert_eq!(limits.wait(failures, 0), limits.retry_max * 3 / 4);
        }
    }

    #[test]
    fn a_wait_is_never_nothing_and_never_overflows() {
        let none = Limits {
            retry_first: Duration::ZERO,
            ..Limits::default()
        };
        assert_eq!(none.wait(0, 0), SHORTEST);
        let endless = Limits {
            retry_first: Duration::MAX,
            retry_max: Duration::MAX,
            ..Limits::default()
        };
        assert!(endless.wait(u32::MAX, u16::MAX) >= Duration::MAX / 2);
        assert_eq!(endless.clamp(Wall::default(), Wall::default()), Wall::default());
    }
}
