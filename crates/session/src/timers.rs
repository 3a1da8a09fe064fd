//! A table of named timers on the awake clock.

use std::time::Duration;

use now::{Awake, Deadline};

/// What a timer of an established session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Look at dead-peer detection.
    Liveness,
    /// Send a keepalive.
    Keepalive,
    /// End the session for want of traffic.
    Idle,
}

impl Timer {
    const ALL: [Self; 3] = [Self::Liveness, Self::Keepalive, Self::Idle];

    const fn reason(self) -> &'static str {
        match self {
            Self::Liveness => "dead-peer detection",
            Self::Keepalive => "keepalive",
            Self::Idle => "idle timeout",
        }
    }
}

/// At most one instant for each [`Timer`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timers([Option<Awake>; Timer::ALL.len()]);

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at: Option<Awake>) {
        self.0[timer as usize] = at;
    }

    pub(crate) fn earliest(&self) -> Option<Deadline> {
        let deadlines = Timer::ALL.into_iter().map(|timer| {
            self.0[timer as usize].map(|at| Deadline {
                at,
                reason: timer.reason(),
            })
        });
        deadlines.fold(None, Deadline::earliest)
    }

    /// Takes one timer that is due, the earliest first.
    pub(crate) fn take_due(&mut self, now: Awake) -> Option<Timer> {
        let due = |timer: &Timer| self.0[*timer as usize].filter(|at| *at <= now);
        let timer = Timer::ALL
            .into_iter()
            .filter(|timer| due(timer).is_some())
            .min_by_key(due)?;
        self.0[timer as usize] = None;
        Some(timer)
    }

    /// Moves every instant that lies after the start of the gap by its length.
    pub(crate) fn rebase(&mut self, by: Duration) {
        for at in self.0.iter_mut().flatten() {
            *at = at.plus(by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Awake {
        Awake::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn due_timers_come_in_order_and_once() {
        let mut timers = Timers::default();
        timers.set(Timer::Idle, Some(at(1)));
        timers.set(Timer::Liveness, Some(at(2)));
        timers.set(Timer::Keepalive, Some(at(9)));
        assert_eq!(timers.earliest().map(|deadline| deadline.reason), Some("idle timeout"));
        assert_eq!(timers.take_due(at(5)), Some(Timer::Idle));
        assert_eq!(timers.take_due(at(5)), Some(Timer::Liveness));
        assert_eq!(timers.take_due(at(5)), None);
    }

    #[test]
    fn rebasing_moves_what_is_set() {
        let mut timers = Timers::default();
        timers.set(Timer::Keepalive, Some(at(1)));
        timers.rebase(Duration::from_secs(60));
        assert_eq!(timers.earliest().map(|deadline| deadline.at), Some(at(61)));
    }
}
