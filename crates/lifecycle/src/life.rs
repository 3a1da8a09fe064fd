//! Proof of life: whether anybody was heard since the last gap, and when a person is told that nobody was.
//!
//! "Reconnecting" is said once per silence: wanted up, fully awake, and no proof of life for ten seconds.

use std::time::Duration;

use now::{Awake, Boot, Deadline};

use crate::machine::{Shift, Turn};
use crate::sleeping::Park;
use crate::{Generation, Machine, Mode, NOTICE_AFTER, Proofs, Report, State};

/// What is known of the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Heard since the last gap.
    Proven {
        /// When.
        at: Boot,
    },
    /// There was a gap since.
    Unverified,
    /// Asked, or lost, and not heard since.
    Silent {
        /// Since when, as far as a person could use the tunnel.
        since: Awake,
        /// A person was told.
        told: bool,
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
            (State::Up { .. }, Mode::Awake | Mode::Unsure) if !self.is_proven() => "unverified",
            (state, _) => state.word(),
        }
    }

    /// The instance that is up, or was and waits.
    pub fn tunnel(&self) -> Option<Generation> {
        match self.state {
            State::Up { g, .. } | State::Reasserting { g, .. } => Some(g),
            State::Idle
            | State::StayDown
            | State::Starting { .. }
            | State::Armed { .. }
            | State::Stopping { .. }
            | State::Failed(_) => None,
        }
    }

    /// There is a channel on which something could be said.
    pub(crate) fn is_heard(&self) -> bool {
        matches!(self.state, State::Up { .. }) || self.is_proven()
    }

    fn is_proven(&self) -> bool {
        matches!(self.life, Life::Proven { .. })
    }

    /// When a person is to be told, while that is of any use to one.
    pub(crate) fn notice_due(&self) -> Option<Deadline> {
        match (self.life, self.mode(), self.tunnel()) {
            (Life::Silent { since, told: false }, Mode::Awake, Some(_)) => Some(Deadline {
                at: since.plus(NOTICE_AFTER),
                reason: "notice of a silent path",
            }),
            (Life::Silent { .. } | Life::Proven { .. } | Life::Unverified, _, _) => None,
        }
    }

    pub(crate) fn give_notice(&mut self, turn: &mut Turn<P>) {
        if let Some(g) = self.tunnel() {
            if let Life::Silent { told, .. } = &mut self.life {
                *told = true;
            }
            turn.report(Report::Reconnecting(g));
        }
    }

    pub(crate) fn proof_of_life(&mut self, of: Generation, turn: &Turn<P>) {
        if self.tunnel() == Some(of) {
            self.life = Life::Proven { at: turn.boot };
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
            Life::Proven { .. } | Life::Unverified => {
                let told = false;
                self.life = Life::Silent { since: now, told };
            }
            Life::Silent { .. } => {}
        }
    }

    /// Fully awake again: who is asked now has as long as anybody.
    pub(crate) fn listen_again(&mut self, turn: &Turn<P>) {
        match self.life {
            Life::Proven { .. } | Life::Silent { told: true, .. } => {}
            Life::Unverified | Life::Silent { told: false, .. } => {
                self.life = Life::Silent {
                    since: turn.now,
                    told: false,
                };
            }
        }
    }

    /// There was a gap since `begun`. What was silent stays so; who was heard since was heard at its end. Returns whether
    /// anybody was.
    pub(crate) fn unverify(&mut self, begun: Boot) -> bool {
        let since = matches!(self.life, Life::Proven { at } if at > begun);
        if self.is_proven() && !since {
            self.life = Life::Unverified;
        }
        since
    }

    pub(crate) fn rebase_notice(&mut self, shift: Shift) {
        if let Life::Silent { since, .. } = &mut self.life {
            *since = shift.since(*since);
        }
    }
}
