//! How long to wait before the next attempt.

use std::time::Duration;

/// A random fraction in [0, 1), drawn by the shell for each input, so that clients that lost the same gateway at the same
/// moment do not come back at the same moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jitter(u16);

impl Jitter {
    /// The fraction `random` / 65,536.
    pub const fn new(random: u16) -> Self {
        Self(random)
    }

    /// This fraction of `whole`, at most an hour of which is counted.
    fn of(self, whole: Duration) -> Duration {
        let micros = u64::try_from(whole.as_micros()).unwrap_or(u64::MAX).min(HOUR_MICROS);
        Duration::from_micros(micros * u64::from(self.0) / 65_536)
    }
}

/// The longest wait that can be configured.
const HOUR_MICROS: u64 = 3_600_000_000;

/// No wait is shorter, so that a deadline is always later than the moment it was set.
const SHORTEST: Duration = Duration::from_millis(1);

/// Waits that double from `first` to `max`.
///
/// Before the first attempt after a loss: a random part of `first`. After n failures: `first` * 2^(n-1), a quarter more or
/// less, never above `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// No failures yet. The defaults of the program are 0.25 s and 30 s.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            failures: 0,
        }
    }

    /// The waits of `other` after the failures of this one.
    #[must_use]
    pub(crate) const fn with_limits_of(self, other: Self) -> Self {
        Self {
            failures: self.failures,
            ..other
        }
    }

    /// The longest wait.
    pub(crate) const fn max(&self) -> Duration {
        self.max
    }

    /// The wait before the next attempt.
    pub fn delay(&self, jitter: Jitter) -> Duration {
        let delay = match self.failures.checked_sub(1) {
            None => jitter.of(self.first),
            Some(doublings) => {
                let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
                let base = self.first.saturating_mul(factor).min(self.max);
                base * 3 / 4 + jitter.of(base / 2)
            }
        };
        delay.min(self.max).max(SHORTEST)
    }

    /// One more attempt failed.
    pub fn fail(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// Things are well again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since things were well.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(250), Duration::from_secs(30))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The jitter that neither lengthens nor shortens a wait.
    const EVEN: Jitter = Jitter::new(32_768);

    #[test]
    fn waits_double_from_a_quarter_second_to_thirty_seconds() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..10)
            .map(|_| {
                backoff.fail();
                backoff.delay(EVEN).as_millis()
            })
            .collect();
        assert_eq!(
            waits,
            [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]
        );
    }

    #[test]
    fn the_first_attempt_after_a_loss_waits_a_part_of_the_first_wait() {
        let backoff = Backoff::default();
        assert_eq!(backoff.delay(Jitter::new(0)), SHORTEST);
        assert_eq!(backoff.delay(EVEN), Duration::from_millis(125));
    }

    proptest! {
        #[test]
        fn a_wait_is_positive_and_bounded(failures in 0u32..200, random: u16, first_ms in 50u64..1000, max_s in 1u64..3600) {
            let mut backoff = Backoff::new(Duration::from_millis(first_ms), Duration::from_secs(max_s));
            (0..failures).for_each(|_| backoff.fail());
            let delay = backoff.delay(Jitter::new(random));
            prop_assert!(delay > Duration::ZERO && delay <= Duration::from_secs(max_s));
        }
    }
}
