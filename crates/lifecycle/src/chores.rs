//! When housekeeping runs: behind every acknowledgement, awake only, one worker at a time. What it does is not known here.

use crate::machine::Turn;
use crate::{Effect, Machine, Mode, Proofs, State};

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
        /// A stop is under way: what it has in hand goes on, and it takes up nothing.
        held: bool,
    },
}

impl<P: Proofs> Machine<P> {
    pub(crate) fn jobs_due(&mut self, turn: &mut Turn<P>) {
        self.chores = match self.chores {
            Chores::None | Chores::Due => Chores::Due,
            Chores::Running { held, .. } => Chores::Running { again: true, held },
        };
        self.housekeep(turn);
    }

    pub(crate) fn jobs_done(&mut self, turn: &mut Turn<P>) {
        self.chores = match self.chores {
            Chores::Running { again: true, .. } => Chores::Due,
            Chores::Running { again: false, .. } => Chores::None,
            // A worker that was told to rest.
            Chores::None | Chores::Due => self.chores,
        };
        self.housekeep(turn);
    }

    /// Starts the worker if it is its time.
    pub(crate) fn housekeep(&mut self, turn: &mut Turn<P>) {
        let in_the_way = matches!(self.state, State::Stopping { .. }) || self.mode() != Mode::Awake || self.exiting;
        if self.chores == Chores::Due && !in_the_way {
            self.chores = Chores::Running {
                again: false,
                held: false,
            };
            turn.push(Effect::Housekeep);
        }
    }

    /// A stop begins: the worker might take up the very job that it is about to record, before the acknowledgement.
    pub(crate) fn hold_chores(&mut self, turn: &mut Turn<P>) {
        if let Chores::Running { held, .. } = &mut self.chores
            && !std::mem::replace(held, true)
        {
            turn.push(Effect::Hold);
        }
    }

    /// The stop is over, and the worker goes on.
    pub(crate) fn resume_chores(&mut self, turn: &mut Turn<P>) {
        if let Chores::Running { held, .. } = &mut self.chores
            && std::mem::take(held)
        {
            turn.push(Effect::Resume);
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
