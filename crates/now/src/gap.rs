//! Finding out that the process did not run: the tick that came late.
//!
//! ```text
//!   tick due         tick handled
//!      |--- late by ---|          late by >= 2 s  =>  Gap
//!      awake clock stood still, boot clock ran     =>  sleep (the host was suspended)
//!      both clocks ran                             =>  freeze (SIGSTOP, freezer, debugger, starvation)
//! ```
//! Power events of the operating system only add knowledge; the clocks are the truth (measured: a frozen process gets no
//! signal, and a resume event may come twice or never).

use std::time::Duration;

use crate::{Awake, Boot, Now};

/// A tick this late or later is a gap, and so is a sleep this long. Scheduling noise on a loaded two-core machine stays well below a second.
pub const LATE_BY: Duration = Duration::from_secs(2);

/// Of a gap in which the boot clock ran ahead of the awake clock by at least this much, the cause was sleep.
const SLEEP_SHARE: Duration = Duration::from_millis(500);

/// Why the process did not run. Both kinds are treated alike; the kind is for logs and counters, because under
/// suspend-to-idle the awake clock can advance and make a sleep look like a freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapKind {
    /// The host was suspended.
    Sleep,
    /// The process was stopped or starved while the host ran.
    Freeze,
}

/// A stretch of time in which the process did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How long, on the boot clock.
    pub length: Duration,
    /// The part of it that the awake clock counted. Deadlines on the awake clock are re-based by this much.
    pub awake: Duration,
    /// Sleep or freeze.
    pub kind: GapKind,
}

/// Watches ticks that should come at known times.
#[derive(Clone, Copy, Debug)]
pub struct GapDetector {
    last: (Awake, Boot),
    due: Awake,
}

impl GapDetector {
    /// Starts watching at `now`; the next look is expected within `tick`.
    pub fn new(now: Now, tick: Duration) -> Self {
        Self {
            last: (now.awake, now.boot),
            due: now.awake.plus(tick),
        }
    }

    /// The awake instant at which the next [`GapDetector::look`] is expected.
    pub fn due(&self) -> Awake {
        self.due
    }

    /// Says that the next look is expected at `due` already, because the timer is set to a deadline before the tick. Time
    /// after it is time in which the process did not run. A later instant changes nothing.
    pub fn expect(&mut self, due: Awake) {
        self.due = self.due.min(due);
    }

    /// Looks at the clocks, and expects the next look within `tick`.
    pub fn look(&mut self, now: Now, tick: Duration) -> Option<Gap> {
        let expected = self.due.since(self.last.0);
        let awake = now.awake.since(self.last.0);
        let boot = now.boot.since(self.last.1);
        self.last = (now.awake, now.boot);
        self.due = now.awake.plus(tick);

        let slept = boot.saturating_sub(awake);
        // A sleep may end before the look is due: the clock of deadlines stood still in it.
        let missed = boot.saturating_sub(expected).max(slept);
        if missed < LATE_BY {
            return None;
        }
        let kind = if slept >= SLEEP_SHARE {
            GapKind::Sleep
        } else {
            GapKind::Freeze
        };
        Some(Gap {
            length: missed,
            awake: awake.saturating_sub(expected),
            kind,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(500);

    fn start() -> (Now, GapDetector) {
        let now = Now::default().plus(Duration::from_secs(1000));
        (now, GapDetector::new(now, TICK))
    }

    #[test]
    fn a_tick_in_time_is_no_gap() {
        let (now, mut detector) = start();
        assert_eq!(detector.look(now.plus(TICK), TICK), None);
        assert_eq!(
            detector.look(now.plus(TICK * 2 + Duration::from_millis(1900)), TICK),
            None
        );
    }

    #[test]
    fn a_stopped_process_sees_a_freeze() {
        let (now, mut detector) = start();
        let gap = detector.look(now.plus(Duration::from_secs(60)), TICK).expect("gap");
        assert_eq!(gap.kind, GapKind::Freeze);
        assert_eq!(gap.length, Duration::from_millis(59_500));
        assert_eq!(gap.awake, Duration::from_millis(59_500));
    }

    #[test]
    fn a_suspended_host_is_sleep_and_costs_no_awake_time() {
        let (now, mut detector) = start();
        let later = now.plus(TICK).plus_asleep(Duration::from_secs(8 * 3600));
        let gap = detector.look(later, TICK).expect("gap");
        assert_eq!(gap.kind, GapKind::Sleep);
        assert_eq!(gap.length, Duration::from_secs(8 * 3600));
        assert_eq!(gap.awake, Duration::ZERO);
    }

    #[test]
    fn a_sleep_shorter_than_the_tick_is_seen_whole() {
        let (now, _) = start();
        let mut detector = GapDetector::new(now, Duration::from_secs(5));
        let later = now.plus(Duration::from_secs(1)).plus_asleep(Duration::from_secs(3));
        let gap = detector.look(later, TICK).expect("gap");
        assert_eq!((gap.kind, gap.length), (GapKind::Sleep, Duration::from_secs(3)));
        assert_eq!(gap.awake, Duration::ZERO);
    }

    #[test]
    fn a_step_of_the_wall_clock_is_no_gap() {
        let (now, mut detector) = start();
        let mut later = now.plus(TICK);
        later.wall = later.wall.plus(Duration::from_secs(3600));
        assert_eq!(detector.look(later, TICK), None);
    }

    #[test]
    fn a_timer_set_before_the_tick_measures_the_gap_from_there() {
        let (now, _) = start();
        let mut detector = GapDetector::new(now, Duration::from_secs(5));
        let armed = now.awake.plus(Duration::from_secs(1));
        detector.expect(armed);
        detector.expect(armed.plus(Duration::from_secs(3)));
        let gap = detector
            .look(now.plus(Duration::from_millis(4500)), TICK)
            .expect("3.5 s late");
        assert_eq!(
            (gap.length, gap.awake),
            (Duration::from_millis(3500), Duration::from_millis(3500))
        );
    }

    #[test]
    fn the_next_tick_after_a_gap_is_measured_anew() {
        let (now, mut detector) = start();
        let later = now.plus(Duration::from_secs(60));
        assert!(detector.look(later, TICK).is_some());
        assert_eq!(detector.due(), later.awake.plus(TICK));
        assert_eq!(detector.look(later.plus(TICK), TICK), None);
    }
}
