//! How long an answer takes: smoothed as RFC 6298 section 2 does it, from questions that were asked once.

use std::time::Duration;

use now::Awake;

/// A question on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Question {
    /// None.
    #[default]
    Nothing,
    /// Asked once, at this time.
    Once(Awake),
    /// Asked again before an answer came: which one that answers, nobody can tell (Karn's rule, RFC 6298 section 3).
    Again,
}

/// The round trip to the other end, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RoundTrip {
    smoothed: Option<Duration>,
    question: Question,
}

impl RoundTrip {
    /// A question goes out whose answer says nothing of which one it is for.
    pub(crate) fn asked(&mut self, now: Awake) {
        self.question = match self.question {
            Question::Nothing => Question::Once(now),
            Question::Once(_) | Question::Again => Question::Again,
        };
    }

    /// The answer to it came.
    pub(crate) fn answered(&mut self, now: Awake) {
        if let Question::Once(at) = std::mem::take(&mut self.question) {
            self.sample(now.since(at));
        }
    }

    /// An answer to a known question came after this.
    pub(crate) fn sample(&mut self, took: Duration) {
        self.smoothed = Some(self.smoothed.map_or(took, |smoothed| (smoothed * 7 + took) / 8));
    }

    /// What was asked is not waited for any more: this process did not run, or the path is another one.
    pub(crate) fn forget_question(&mut self) {
        self.question = Question::Nothing;
    }

    /// Three round trips, and `least` at least: an answer that takes longer is taken for lost.
    pub(crate) fn patience(&self, least: Duration) -> Duration {
        self.smoothed.map_or(least, |smoothed| least.max(smoothed * 3))
    }
}

/// The waits between questions that nobody answers: 0.25, 0.5, 1, 2 ... 30 s.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pauses(Duration);

/// After the first question that was not answered in time. A path that is there answers the second one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// So that a network that is back is noticed, and one that is not costs two datagrams a minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Pauses {
    pub(crate) fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    /// The next one.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(ms: u64) -> Awake {
        Awake::from_origin(Duration::from_millis(ms))
    }

    #[test]
    fn patience_is_three_smoothed_round_trips() {
        let mut trip = RoundTrip::default();
        assert_eq!(trip.patience(300 * MS), 300 * MS);
        trip.asked(at(0));
        trip.answered(at(200));
        assert_eq!(trip.patience(300 * MS), 600 * MS);
        trip.sample(1000 * MS);
        assert_eq!(trip.patience(300 * MS), 900 * MS);
    }

    #[test]
    fn what_was_asked_twice_or_before_a_gap_is_no_measure() {
        let mut trip = RoundTrip::default();
        trip.asked(at(0));
        trip.asked(at(500));
        trip.answered(at(501));
        trip.asked(at(1000));
        trip.forget_question();
        trip.answered(at(9000));
        assert_eq!(trip.patience(MS), MS);
    }

    #[test]
    fn pauses_double_up_to_half_a_minute() {
        let mut pauses = Pauses::new();
        let told: Vec<u128> = (0..9).map(|_| pauses.next().as_millis()).collect();
        assert_eq!(told, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    }
}
