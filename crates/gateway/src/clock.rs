//! The clocks, and the time in which this process did not run.
//!
//! Every reading is also a look at the gap detector, so whoever comes first after a freeze or a sleep finds it, before any
//! timer that came due meanwhile is believed.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use now::{Awake, Gap, GapDetector, GapKind, Now};
use tokio::time::Instant;

/// How often the clocks are looked at when nothing happens. A gap is noticed if it is about this long, which is shorter
/// than any timeout here.
pub(crate) const TICK: Duration = Duration::from_secs(5);

/// Reads the clocks and remembers gaps.
pub(crate) struct Clock {
    detector: RefCell<GapDetector>,
    missed: Cell<Missed>,
}

/// Time in which this process did not run, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Missed {
    boot: Duration,
    awake: Duration,
}

impl Clock {
    /// Starts watching.
    pub(crate) fn new() -> Self {
        Self {
            detector: RefCell::new(GapDetector::new(platform::clock::now(), TICK)),
            missed: Cell::default(),
        }
    }

    /// The time.
    pub(crate) fn now(&self) -> Now {
        let now = platform::clock::now();
        if let Some(gap) = self.detector.borrow_mut().look(now, TICK) {
            let Missed { boot, awake } = self.missed.get();
            self.missed.set(Missed {
                boot: boot + gap.length,
                awake: awake + gap.awake,
            });
            tracing::debug!(length_s = gap.length.as_secs_f32(), kind = ?gap.kind, "the gateway did not run");
        }
        now
    }

    /// All the time missed so far.
    pub(crate) fn missed(&self) -> Missed {
        self.missed.get()
    }

    /// What was missed since `seen`, which becomes the present.
    pub(crate) fn gap_since(&self, seen: &mut Missed) -> Option<Gap> {
        let before = std::mem::replace(seen, self.missed.get());
        let gap = Gap {
            length: seen.boot - before.boot,
            awake: seen.awake - before.awake,
            kind: GapKind::Freeze,
        };
        (gap.length > Duration::ZERO).then_some(gap)
    }
}

/// The runtime's instant for one of ours. Both clocks are `CLOCK_MONOTONIC`.
pub(crate) fn instant(at: Awake, now: Now) -> Instant {
    // A century stands for never; the runtime's clock cannot hold much more.
    Instant::now() + at.since(now.awake).min(Duration::from_secs(100 * 365 * 86_400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_handed_to_everybody_once() {
        let clock = Clock::new();
        let (mut one, mut other) = (clock.missed(), clock.missed());
        clock.missed.set(Missed {
            boot: Duration::from_secs(60),
            awake: Duration::from_secs(40),
        });
        for seen in [&mut one, &mut other] {
            let gap = clock.gap_since(seen).expect("gap");
            assert_eq!(
                (gap.length, gap.awake),
                (Duration::from_secs(60), Duration::from_secs(40))
            );
            assert_eq!(clock.gap_since(seen), None);
        }
    }

    #[test]
    fn an_instant_that_never_comes_does_not_overflow() {
        let now = Now::default();
        assert!(instant(Awake::from_origin(Duration::MAX), now) > Instant::now());
    }
}
