//! Waiting until what changes has settled: one thing that happened to a network comes as many words.
//!
//! ```text
//!   words   | |||                    one change      | | | | | | | | | | | | | | |      a storm
//!   looks         50 ms later                              50 ms   100   200   250   250 ms apart
//! ```
//! The longer it goes on, the longer is waited for quiet, up to 250 ms: so a single change is seen at once, and a storm costs four looks a
//! second, however many words it has.

use std::time::Duration;

use crate::Awake;

/// Quiet that ends a single change: what a program does in one go (an address, its route, the default route) takes less.
const QUIET: Duration = Duration::from_millis(50);

/// Nobody waits longer from the first word to a look, however unquiet it is.
const LONGEST: Duration = Duration::from_millis(250);

/// So long after a look the next word is a new story.
const NEW_STORY: Duration = Duration::from_secs(1);

/// Says when to look.
#[derive(Clone, Copy, Debug)]
pub struct Settle {
    quiet: Duration,
    /// The first and the last word since the last look.
    words: Option<(Awake, Awake)>,
    looked: Option<Awake>,
}

impl Default for Settle {
    fn default() -> Self {
        Self {
            quiet: QUIET,
            words: None,
            looked: None,
        }
    }
}

impl Settle {
    /// A word of a change.
    pub fn heard(&mut self, now: Awake) {
        let first = match self.words {
            Some((first, _)) => first,
            None => {
                if self.looked.is_none_or(|looked| now.since(looked) >= NEW_STORY) {
                    self.quiet = QUIET;
                }
                now
            }
        };
        self.words = Some((first, now));
    }

    /// When to look; nothing while nothing was heard.
    pub fn due(&self) -> Option<Awake> {
        let (first, last) = self.words?;
        Some(last.plus(self.quiet).min(first.plus(LONGEST)))
    }

    /// Whether it is time to look. If so, that counts as a look.
    pub fn look(&mut self, now: Awake) -> bool {
        if self.due().is_none_or(|due| due > now) {
            return false;
        }
        self.words = None;
        self.looked = Some(now);
        self.quiet = (self.quiet * 2).min(LONGEST);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Awake {
        Awake::from_origin(Duration::from_millis(ms))
    }

    /// When somebody looks who is told of words at these times, in milliseconds.
    fn looks(words: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut settle = Settle::default();
        let mut words = words.into_iter().peekable();
        let mut looks = Vec::new();
        while words.peek().is_some() || settle.due().is_some() {
            let due = settle.due().map(|due| due.since_origin().as_millis() as u64);
            match (words.peek().copied(), due) {
                (Some(word), due) if due.is_none_or(|due| word < due) => {
                    settle.heard(at(word));
                    words.next();
                }
                (_, Some(due)) => {
                    assert!(!settle.look(at(due - 1)), "not before its time");
                    assert!(settle.look(at(due)) && !settle.look(at(due)), "and once");
                    looks.push(due);
                }
                (Some(_), None) | (None, None) => {}
            }
        }
        looks
    }

    #[test]
    fn one_change_is_one_look_50_ms_after_its_last_word() {
        assert_eq!(looks([1000]), [1050]);
        assert_eq!(looks([1000, 1010, 1040]), [1090]);
        assert!(looks([]).is_empty());
    }

    #[test]
    fn nobody_waits_longer_than_250_ms() {
        assert_eq!(looks((0..10).map(|n| n * 40)).first(), Some(&250));
    }

    #[test]
    fn a_storm_costs_four_looks_a_second_whatever_its_words_are_like() {
        let thousands = looks(0..10_000);
        assert!((38..=42).contains(&thousands.len()), "{}", thousands.len());
        // As many at once.
        assert_eq!(looks(std::iter::repeat_n(5, 10_000)), [55]);
        // Each with as much quiet behind it as ends a change.
        let flaps = looks((0..50).map(|n| n * 100));
        assert!(flaps.len() <= 25, "{flaps:?}");
        assert_eq!(flaps.first(), Some(&50));
    }

    #[test]
    fn after_a_second_of_quiet_a_change_is_seen_at_once_again() {
        let looks = looks((0..50).map(|n| n * 10).chain([2000]));
        assert_eq!(looks.last(), Some(&2050));
    }
}
