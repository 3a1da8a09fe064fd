//! Failures that repeat for a day must not fill a log.

use std::time::Duration;

use now::{Awake, Boot};

/// A new text is worth a line this long after the last one.
const PAUSE: Duration = Duration::from_secs(60);

/// Says which of many alike events is logged: one a minute, with how many were not. On the clock that counts sleep, so that a
/// night of short wakes is told wake by wake.
#[derive(Debug, Default)]
pub(crate) struct Repeats(Vec<(&'static str, Boot, u32)>);

impl Repeats {
    /// Whether `event` is to be logged now, and how often it was not since the last time. There are as many as words for them.
    pub(crate) fn told(&mut self, event: &'static str, now: Boot) -> Option<u32> {
        let Some((_, last, repeats)) = self.0.iter_mut().find(|(known, ..)| *known == event) else {
            self.0.push((event, now, 0));
            return Some(0);
        };
        if now.since(*last) < PAUSE {
            *repeats += 1;
            return None;
        }
        *last = now;
        Some(std::mem::take(repeats))
    }
}

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
    fn an_event_is_told_once_a_minute_with_the_number_of_those_that_were_not() {
        let mut repeats = Repeats::default();
        let told: Vec<_> = (0..180)
            .filter_map(|second| repeats.told("session.park", Boot::from_origin(Duration::from_secs(second))))
            .collect();
        assert_eq!(told, [0, 59, 59]);
        assert_eq!(repeats.told("session.unpark", Boot::default()), Some(0));
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
