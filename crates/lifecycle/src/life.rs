//! Proof of life: whether anybody was heard since the last gap, and when a person is told that nobody was.
//!
//! "Reconnecting" is said once per silence: wanted up, fully awake, and no proof of life for ten seconds.

use std::time::Duration;

use now::{Awake, Deadline};

use crate::machine::Turn;
use crate::sleeping::Park;
use crate::{Generation, Machine, Mode, NOTICE_AFTER, Proofs, Report, State};

/// What is known of the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Heard since the last gap.
    Proven,
    /// There was a gap since.
    Unverified,
    /// Asked, or lost, and not heard since.
    Silent {
        /// When a person is told, if not told yet.
        notice: Option<Awake>,
    },
}

impl<P: Proofs> Machine<P> {
    /// The word of `status`: that of the state, but "up" is said only on proof of life since the last gap. Before it, and
    /// while the host is not awake, a tunnel is "asleep", "parked" (the gateway knows, and keeps the session) or "unverified".
    pub fn word(&self) -> &'static str {
        match (self.state, self.mode()) {
            (State::Up { .. } | State::Reasserting { .. }, Mode::Asleep | Mode::Maintenance) => {
                if self.park == Park::Done { "parked" } else { "asleep" }
            }
            (State::Up { .. }, Mode::Awake | Mode::Unsure) if self.life != Life::Proven => "unverified",
            (state, _) => state.word(),
        }
    }

    /// The instance that is up, or was and waits.
    pub(crate) fn tunnel(&self) -> Option<Generation> {
        match self.state {
            State::Up { g, .. } | State::Reasserting { g, .. } => Some(g),
            State::Idle | State::Starting { .. } | State::Stopping { .. } | State::Failed(_) => None,
        }
    }

    /// There is a channel on which something could be said.
    pub(crate) fn is_heard(&self) -> bool {
        matches!(self.state, State::Up { .. }) || self.life == Life::Proven
    }

    /// When a person is to be told, while that is of any use to one.
    pub(crate) fn notice_due(&self) -> Option<Deadline> {
        match (self.life, self.mode(), self.tunnel()) {
            (Life::Silent { notice: Some(at) }, Mode::Awake, Some(_)) => Some(Deadline {
                at,
                reason: "notice of a silent path",
            }),
            (Life::Silent { .. } | Life::Proven | Life::Unverified, _, _) => None,
        }
    }

    pub(crate) fn give_notice(&mut self, turn: &mut Turn<P>) {
        if let Some(g) = self.tunnel() {
            self.life = Life::Silent { notice: None };
            turn.report(Report::Reconnecting(g));
        }
    }

    pub(crate) fn proof_of_life(&mut self, of: Generation) {
        if self.tunnel() == Some(of) {
            self.life = Life::Proven;
            // What came in a maintenance wake unparks nothing: the count goes on.
            if self.mode() == Mode::Awake {
                self.watch.gap = Duration::ZERO;
                self.watch.wakes = 0;
            }
        }
    }

    pub(crate) fn path_silent(&mut self, of: Generation, turn: &Turn<P>) {
        if self.tunnel() == Some(of) {
            self.fell_silent(turn.now);
        }
    }

    /// Nobody is heard any more; the first silence counts.
    pub(crate) fn fell_silent(&mut self, now: Awake) {
        match self.life {
            Life::Proven | Life::Unverified => {
                let notice = Some(now.plus(NOTICE_AFTER));
                self.life = Life::Silent { notice };
            }
            Life::Silent { .. } => {}
        }
    }

    /// Fully awake again: who is asked now has as long as anybody.
    pub(crate) fn listen_again(&mut self, turn: &Turn<P>) {
        match self.life {
            Life::Proven | Life::Silent { notice: None } => {}
            Life::Unverified | Life::Silent { notice: Some(_) } => {
                let notice = Some(turn.now.plus(NOTICE_AFTER));
                self.life = Life::Silent { notice };
            }
        }
    }

    /// There was a gap. What was silent stays so.
    pub(crate) fn life_unverified(&mut self) {
        if self.life == Life::Proven {
            self.life = Life::Unverified;
        }
    }

    pub(crate) fn rebase_notice(&mut self, by: Duration) {
        if let Life::Silent { notice: Some(at) } = &mut self.life {
            *at = at.plus(by);
        }
    }
}
