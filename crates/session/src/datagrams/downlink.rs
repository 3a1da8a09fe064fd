//! A download that falls silent in the middle: is it over, or has a router given this host another port?
//!
//! ```text
//!   ..............................|        30 ms         |
//!   at least 16 datagrams in 50 ms   nothing              one probe: from the new port, if there is one
//! ```
//! While packets come to this end alone it has nothing to answer, so the gateway would hear of the new port only with the next word, up to
//! seconds later (measured: 1.5 s). The probe makes it one round trip. A download that has ended costs it, too: a hundred bytes.

use std::time::Duration;

use now::Awake;

/// Datagrams in a [`WINDOW`] that make a download: 3.5 Mbit/s in full packets. Below it a second of silence hurts nobody.
const BUSY: u32 = 16;

/// The time over which they are counted.
const WINDOW: Duration = Duration::from_millis(50);

/// Silence after which it is asked: several times the jitter of an ordinary path, and less than a person notices.
const SILENCE: Duration = Duration::from_millis(30);

/// Least time between two such probes: a download that comes in bursts, one a round trip, is asked after ten times a second at most.
const PAUSE: Duration = Duration::from_millis(100);

/// What comes in over one link.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Downlink {
    since: Awake,
    count: u32,
    busy: bool,
    heard: Awake,
    asked: Option<Awake>,
}

impl Downlink {
    /// Something authentic arrived.
    pub(crate) fn heard(&mut self, now: Awake) {
        self.heard = now;
        if now.since(self.since) >= WINDOW {
            self.busy = false;
            self.since = now;
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.busy |= self.count >= BUSY;
    }

    /// When to look again.
    pub(crate) fn deadline(&self) -> Option<Awake> {
        let silent = self.heard.plus(SILENCE);
        let at = self.asked.map_or(silent, |asked| silent.max(asked.plus(PAUSE)));
        self.busy.then_some(at)
    }

    /// Looks at the clock: whether the silence is to be asked about.
    pub(crate) fn look(&mut self, now: Awake) -> bool {
        let due = self.deadline().is_some_and(|at| at <= now);
        if due {
            self.busy = false;
            self.count = 0;
            self.asked = Some(now);
        }
        due
    }

    /// Time in which this process did not run is no silence: whoever was frozen asks in other ways.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Awake {
        Awake::from_origin(Duration::from_millis(ms))
    }

    fn after(arrivals: impl IntoIterator<Item = u64>) -> Downlink {
        let mut downlink = Downlink::default();
        arrivals.into_iter().for_each(|ms| downlink.heard(at(ms)));
        downlink
    }

    #[test]
    fn a_download_that_falls_silent_is_asked_after_once() {
        let mut downlink = after(1000..1200);
        assert_eq!(downlink.deadline(), Some(at(1229)));
        assert!(!downlink.look(at(1228)));
        assert!(downlink.look(at(1229)));
        assert!(!downlink.look(at(5000)), "once");
        assert_eq!(downlink.deadline(), None);
    }

    #[test]
    fn a_trickle_is_no_download() {
        assert_eq!(after((0..100).map(|n| n * 10)).deadline(), None);
        let ended = after((0..100).chain([200, 300]));
        assert_eq!(ended.deadline(), None, "it has become one");
    }

    #[test]
    fn bursts_are_asked_after_with_pauses() {
        let mut downlink = Downlink::default();
        let mut asked = Vec::new();
        for ms in 0..1000 {
            if ms % 50 < 16 {
                downlink.heard(at(ms));
            }
            if downlink.look(at(ms)) {
                asked.push(ms);
            }
        }
        assert!((5..=10).contains(&asked.len()), "{asked:?}");
        assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= 100), "{asked:?}");
    }
}
