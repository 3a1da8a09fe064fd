//! Time as an argument: the three clocks as values, and deadlines that say what they are for.
//!
//! Pure crates take a [`Now`] instead of reading a clock, so that a night of sleeping and waking can be run in a
//! millisecond. Which clock counts is part of the type:
//!
//! | clock | type | counts host sleep | used for |
//! |---|---|---|---|
//! | `CLOCK_MONOTONIC` | [`Awake`] | no | retries, dead-peer detection, budgets |
//! | `CLOCK_BOOTTIME` | [`Boot`] | yes | leases, cookies, key age |
//! | wall clock | [`Wall`] | yes, and it can be set | certificates, logs |
#![forbid(unsafe_code)]

mod gap;
mod settle;

use std::time::Duration;

pub use gap::{Gap, GapDetector, GapKind, LATE_BY};
pub use settle::Settle;

macro_rules! clock {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(Duration);

        impl $name {
            /// The instant `elapsed` after the origin of this clock.
            pub const fn from_origin(elapsed: Duration) -> Self {
                Self(elapsed)
            }

            /// Time since the origin of this clock.
            pub const fn since_origin(self) -> Duration {
                self.0
            }

            /// Time from `earlier` to `self`; zero if `earlier` is later.
            pub const fn since(self, earlier: Self) -> Duration {
                self.0.saturating_sub(earlier.0)
            }

            /// The instant `by` later; stays at the end of the clock instead of overflowing.
            #[must_use]
            pub const fn plus(self, by: Duration) -> Self {
                Self(self.0.saturating_add(by))
            }
        }
    };
}

clock! {
    /// An instant of the clock that stands still while the host sleeps (`CLOCK_MONOTONIC` on Linux).
    Awake
}
clock! {
    /// An instant of the clock that goes on while the host sleeps (`CLOCK_BOOTTIME` on Linux).
    Boot
}
clock! {
    /// Time since 1970-01-01 00:00:00 UTC as the host believes it; it may jump either way.
    Wall
}

/// One reading of the three clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Counts only while the host is awake.
    pub awake: Awake,
    /// Counts through sleep.
    pub boot: Boot,
    /// Calendar time.
    pub wall: Wall,
}

impl Now {
    /// The reading after `by` of ordinary, waking time.
    #[must_use]
    pub const fn plus(self, by: Duration) -> Self {
        Self {
            awake: self.awake.plus(by),
            boot: self.boot.plus(by),
            wall: self.wall.plus(by),
        }
    }

    /// The reading after the host slept for `by`: only the awake clock stood still.
    #[must_use]
    pub const fn plus_asleep(self, by: Duration) -> Self {
        Self {
            awake: self.awake,
            boot: self.boot.plus(by),
            wall: self.wall.plus(by),
        }
    }
}

/// When to call again, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The awake instant at which the owner wants to be called.
    pub at: Awake,
    /// What the deadline is for, as a phrase for logs ("dead-peer detection").
    pub reason: &'static str,
}

impl Deadline {
    /// The earlier of two optional deadlines; the first one on a tie.
    pub fn earliest(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(a), Some(b)) => Some(if b.at < a.at { b } else { a }),
            (a, b) => a.or(b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_moves_every_clock_but_the_awake_one() {
        let now = Now::default().plus(Duration::from_secs(5));
        let later = now.plus_asleep(Duration::from_secs(60));
        assert_eq!(later.awake, now.awake);
        assert_eq!(later.boot.since(now.boot), Duration::from_secs(60));
        assert_eq!(later.wall.since(now.wall), Duration::from_secs(60));
    }

    #[test]
    fn differences_never_go_below_zero_and_sums_never_overflow() {
        let early = Awake::from_origin(Duration::from_secs(1));
        let late = Awake::from_origin(Duration::MAX);
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late.plus(Duration::from_secs(1)), late);
    }

    #[test]
    fn the_earlier_deadline_wins() {
        let a = Deadline {
            at: Awake::from_origin(Duration::from_secs(2)),
            reason: "a",
        };
        let b = Deadline {
            at: Awake::from_origin(Duration::from_secs(1)),
            reason: "b",
        };
        assert_eq!(Deadline::earliest(Some(a), Some(b)), Some(b));
        assert_eq!(Deadline::earliest(None, Some(a)), Some(a));
        assert_eq!(Deadline::earliest(None, None), None);
    }
}
