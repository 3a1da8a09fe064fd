//! Failures that repeat for a day must not fill a log.

use std::time::Duration;

use now::Awake;

/// A new text is worth a line this long after the last one.
const PAUSE: Duration = Duration::from_secs(60);

/// Decides which of many alike failures is logged: the 1st, 2nd, 4th, 8th ... since things were well, and one with a text of
/// its own once a minute. A day of attempts every 30 s comes to 12 lines if they fail alike.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    failures: u64,
    last: Option<(String, Awake)>,
}

impl Quiet {
    /// Whether this failure is to be logged, and how many there were.
    pub(crate) fn failed(&mut self, text: &str, now: Awake) -> Option<u64> {
        self.failures += 1;
        let news = self
            .last
            .as_ref()
            .is_none_or(|(last, at)| last != text && now.since(*at) >= PAUSE);
        if !news && !self.failures.is_power_of_two() {
            return None;
        }
        self.last = Some((text.to_owned(), now));
        Some(self.failures)
    }

    /// Things are well again.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Awake {
        Awake::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn a_day_offline_is_a_dozen_lines() {
        let mut quiet = Quiet::default();
        let lines = (0..2880)
            .filter(|attempt| quiet.failed("refused", at(attempt * 30)).is_some())
            .count();
        assert_eq!(lines, 12);
    }

    #[test]
    fn another_text_is_logged_once_a_minute() {
        let mut quiet = Quiet::default();
        for second in 0..3 {
            quiet.failed("refused", at(second));
        }
        assert_eq!(quiet.failed("timed out", at(3)), Some(4));
        assert_eq!(quiet.failed("refused", at(4)), None);
        assert_eq!(quiet.failed("refused", at(64)), Some(6));
    }

    #[test]
    fn after_a_success_the_first_failure_counts_again() {
        let mut quiet = Quiet::default();
        assert_eq!(quiet.failed("refused", at(0)), Some(1));
        quiet.reset();
        assert_eq!(quiet.failed("refused", at(1)), Some(1));
    }
}
