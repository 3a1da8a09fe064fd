//! Counters instead of log lines for what strangers can cause as often as they like, written once a minute.

use std::cell::Cell;
use std::time::Duration;

use now::{Awake, Now};

/// How often counts are written, and how often the same event may be.
pub(crate) const PERIOD: Duration = Duration::from_secs(60);

/// What became of connections that never reached a tunnel, since the last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Not let in, for [`crate::admission::Refused`].
    pub(crate) refused: u64,
    /// No TLS, or a handshake that failed.
    pub(crate) no_tls: u64,
    /// Did not finish the handshake or the login in time.
    pub(crate) too_slow: u64,
    /// HTTP that was refused: garbage, too large, too many requests.
    pub(crate) bad_http: u64,
    /// Logins that were denied.
    pub(crate) denied: u64,
}

/// The tally being kept.
#[derive(Default)]
pub(crate) struct Tallies(Cell<Tally>);

impl Tallies {
    /// Counts something.
    pub(crate) fn count(&self, what: impl FnOnce(&mut Tally)) {
        let mut tally = self.0.get();
        what(&mut tally);
        self.0.set(tally);
    }

    /// Writes what happened since the last time, if anything did, and starts over.
    pub(crate) fn write(&self) {
        let Tally {
            refused,
            no_tls,
            too_slow,
            bad_http,
            denied,
        } = self.0.take();
        if refused + no_tls + too_slow + bad_http + denied > 0 {
            tracing::info!(
                refused,
                no_tls,
                too_slow,
                bad_http,
                denied,
                "connections that came to nothing"
            );
        }
    }
}

/// Lets an event through at most once a [`PERIOD`] and counts the others.
#[derive(Default)]
pub(crate) struct Throttle {
    last: Cell<Option<Awake>>,
    held_back: Cell<u64>,
}

impl Throttle {
    /// `Some` if the event may be logged now, with the number of times it could not since the last one.
    pub(crate) fn pass(&self, now: Now) -> Option<u64> {
        if self.last.get().is_some_and(|last| now.awake.since(last) < PERIOD) {
            self.held_back.set(self.held_back.get() + 1);
            return None;
        }
        self.last.set(Some(now.awake));
        Some(self.held_back.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_event_passes_once_a_minute_with_its_count() {
        let throttle = Throttle::default();
        let at = |seconds| Now::default().plus(Duration::from_secs(seconds));
        assert_eq!(throttle.pass(at(0)), Some(0));
        assert_eq!(throttle.pass(at(1)), None);
        assert_eq!(throttle.pass(at(59)), None);
        assert_eq!(throttle.pass(at(60)), Some(2));
        assert_eq!(throttle.pass(at(120)), Some(0));
    }
}
