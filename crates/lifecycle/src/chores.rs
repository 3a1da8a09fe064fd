//! When housekeeping runs: behind every acknowledgement, awake only, one worker at a time. What it does is not known here.

use crate::machine::Turn;
use crate::power::Power;
use crate::{Effect, Machine, Proofs, State};

/// The worker, as seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chores {
    /// Nothing is known to be due.
    None,
    /// Something is due and waits for its time.
    Due,
    /// The worker is at it.
    Running {
        /// Something became due that it may not have seen.
        again: bool,
    },
}

impl<P: Proofs> Machine<P> {
    pub(crate) fn jobs_due(&mut self, turn: &mut Turn<P>) {
        self.chores = match self.chores {
            Chores::None | Chores::Due => Chores::Due,
            Chores::Running { .. } => Chores::Running { again: true },
        };
        self.housekeep(turn);
    }

    pub(crate) fn jobs_done(&mut self, turn: &mut Turn<P>) {
        self.chores = match self.chores {
            Chores::Running { again: true } => Chores::Due,
            Chores::Running { again: false } => Chores::None,
            // A worker that was told to rest.
            Chores::None | Chores::Due => self.chores,
        };
        self.housekeep(turn);
    }

    /// Starts the worker if it is its time.
    pub(crate) fn housekeep(&mut self, turn: &mut Turn<P>) {
        let in_the_way = matches!(self.state, State::Stopping { .. }) || self.power != Power::Awake || self.exiting;
        if self.chores == Chores::Due && !in_the_way {
            self.chores = Chores::Running { again: false };
            turn.push(Effect::Housekeep);
        }
    }

    /// Stops the worker; what it had in hand is due again.
    pub(crate) fn rest(&mut self, turn: &mut Turn<P>) {
        if let Chores::Running { .. } = self.chores {
            self.chores = Chores::Due;
            turn.push(Effect::Rest);
        }
    }
}
