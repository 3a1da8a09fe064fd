//! Whether the host is awake, as far as anybody said. Nothing connects and no chore runs unless it is.

use std::time::Duration;

use now::{Awake, Deadline};

use crate::machine::Turn;
use crate::{Attempt, Effect, Machine, NOTICE_AFTER, Proofs, State, Trigger};

/// Awake for this long without a word after a sleep was announced: it did not come, or its end was not told.
pub const SLEEP_DOUBTED_AFTER: Duration = Duration::from_secs(20);

/// Awake for this long in a maintenance wake: somebody uses the host. The event that should say so may never come.
pub const MAINTENANCE_DOUBTED_AFTER: Duration = Duration::from_secs(120);

/// What kind of wake it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeKind {
    /// Somebody uses the host.
    Full,
    /// The host looks after itself and sleeps again soon.
    Maintenance,
    /// Nobody can tell; treated as full.
    Unknown,
}

/// Whether the host is awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// As far as anybody knows.
    Awake,
    /// A sleep was announced.
    Asleep {
        /// When, on the clock that stands still in sleep.
        since: Awake,
    },
    /// Awake for its own purposes.
    Maintenance {
        /// When that began.
        since: Awake,
    },
}

impl Power {
    /// The word used in status.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Awake => "awake",
            Self::Asleep { .. } => "asleep",
            Self::Maintenance { .. } => "maintenance",
        }
    }

    /// When it is taken for awake although nobody said so.
    pub(crate) fn doubt(self) -> Option<Deadline> {
        let (at, reason) = match self {
            Self::Awake => return None,
            Self::Asleep { since } => (since.plus(SLEEP_DOUBTED_AFTER), "end of a sleep that nobody told"),
            Self::Maintenance { since } => (since.plus(MAINTENANCE_DOUBTED_AFTER), "end of a maintenance wake"),
        };
        Some(Deadline { at, reason })
    }

    pub(crate) fn later(self, by: Duration) -> Self {
        match self {
            Self::Awake => self,
            Self::Asleep { since } => Self::Asleep { since: since.plus(by) },
            Self::Maintenance { since } => Self::Maintenance { since: since.plus(by) },
        }
    }
}

impl<P: Proofs> Machine<P> {
    pub(crate) fn sleep(&mut self, turn: &mut Turn<P>) {
        self.power = Power::Asleep { since: turn.now };
        self.hold(turn);
    }

    pub(crate) fn wake(&mut self, kind: WakeKind, turn: &mut Turn<P>) {
        match kind {
            WakeKind::Full | WakeKind::Unknown => self.awake(turn),
            WakeKind::Maintenance => {
                if !matches!(self.power, Power::Maintenance { .. }) {
                    self.power = Power::Maintenance { since: turn.now };
                }
                self.hold(turn);
            }
        }
    }

    /// Somebody is there, or has been long enough.
    pub(crate) fn awake(&mut self, turn: &mut Turn<P>) {
        if self.power == Power::Awake {
            return;
        }
        self.power = Power::Awake;
        if let State::Reasserting { notice, .. } = &mut self.state
            && notice.is_some()
        {
            *notice = Some(turn.now.plus(NOTICE_AFTER));
        }
        match self.state {
            State::Starting { attempt, .. } | State::Reasserting { attempt, .. } => {
                if matches!(attempt, Attempt::Waiting(..)) {
                    self.attempt_now(Trigger::Retry, turn);
                }
            }
            State::Idle | State::Up { .. } | State::Stopping { .. } | State::Failed(_) => {}
        }
        self.housekeep(turn);
    }

    /// Stops what must not run now: attempts and chores.
    fn hold(&mut self, turn: &mut Turn<P>) {
        let waiting = |attempt: Attempt| Attempt::Waiting(attempt.how(), turn.now);
        let (g, held) = match &mut self.state {
            State::Starting { g, attempt } | State::Reasserting { g, attempt, .. } => {
                let running = matches!(attempt, Attempt::Running(..));
                if running {
                    *attempt = waiting(*attempt);
                }
                (*g, running)
            }
            State::Up { g, replacement, .. } => (*g, replacement.take().is_some()),
            State::Idle | State::Stopping { .. } | State::Failed(_) => {
                return self.rest(turn);
            }
        };
        if held {
            turn.push(Effect::Abort { g });
        }
        self.rest(turn);
    }
}
