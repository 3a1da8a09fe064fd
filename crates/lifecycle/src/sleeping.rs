//! The way into sleep and out of it: what runs is stopped, the gateway is told, the sleep is acknowledged; and what was held
//! goes on when somebody is there.
//!
//! ```text
//!   Sleeping --> Abort, Rest --> Park ----- Parked, or 150 ms -----> AckSleep
//!                    |             (no tunnel, or parked: at once) ---^
//!                    +--(disconnect on sleep)--> Stopping --down, or 500 ms--^
//! ```

use std::time::Duration;

use now::{Awake, Deadline};

use crate::machine::{Shift, Turn};
use crate::wake::Power;
use crate::{
    Attempt, Cause, Effect, EndReason, Generation, Machine, Mode, Origin, Phase, Proofs, Report, State, Then, Trigger,
};

/// A sleep is acknowledged within this, whatever the gateway and the host do (lifecycle invariant L6). logind waits 5 s by
/// default, macOS 30 s, Windows 2 s; a person waits for a lid to do something.
pub const SLEEP_ACK_BUDGET: Duration = Duration::from_millis(500);

/// The gateway's answer to a park is waited for this long. A round trip around the world takes about 300 ms, and a gateway
/// that got the word without an answer in time parks all the same.
pub const PARK_WAIT: Duration = Duration::from_millis(150);

const _: () = assert!(PARK_WAIT.as_millis() <= SLEEP_ACK_BUDGET.as_millis());

/// What the gateway was told of this sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Park {
    Not,
    Asked(Generation),
    Done,
}

/// A sleep that waits for its acknowledgement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SleepAck {
    since: Awake,
    wait: Duration,
    behind: Behind,
}

#[derive(Clone, Copy, Debug)]
enum Behind {
    Park,
    Stop(Generation),
}

impl<P: Proofs> Machine<P> {
    pub(crate) fn sleep(&mut self, turn: &mut Turn<P>) {
        let waits = match (self.disconnect_on_sleep, self.tunnel()) {
            (true, Some(g)) => {
                self.rest(turn);
                self.bring_down(0, Then::Start(Origin::Boot), EndReason::UserStop, turn);
                Some((Behind::Stop(g), SLEEP_ACK_BUDGET))
            }
            (true, None) => {
                self.hold_anew(turn);
                None
            }
            (false, tunnel) => {
                self.hold_anew(turn);
                let g = tunnel.filter(|_| self.park == Park::Not && self.is_heard());
                if let Some(g) = g {
                    self.park = Park::Asked(g);
                    turn.push(Effect::Park { g });
                }
                g.map(|_| (Behind::Park, PARK_WAIT))
            }
        };
        let asleep = self.watch.announced(turn.now);
        self.set_power(asleep, turn);
        match (self.sleep_ack, waits) {
            // One acknowledgement for all that wait.
            (Some(_), _) => {}
            (None, Some((behind, wait))) => {
                let since = turn.now;
                self.sleep_ack = Some(SleepAck { since, wait, behind });
            }
            (None, None) => turn.push(Effect::AckSleep),
        }
    }

    /// Said twice, it holds nothing more.
    fn hold_anew(&mut self, turn: &mut Turn<P>) {
        if self.mode() != Mode::Asleep {
            self.hold(Mode::Asleep, turn);
        }
    }

    pub(crate) fn parked(&mut self, of: Generation) {
        if self.park == Park::Asked(of) {
            self.park = Park::Done;
        }
    }

    pub(crate) fn sleep_ack_due(&self) -> Option<Deadline> {
        let ack = self.sleep_ack?;
        Some(Deadline {
            at: ack.since.plus(ack.wait),
            reason: "acknowledgement of a sleep",
        })
    }

    /// After each input: acknowledges a sleep when what it waits for is there, or cannot be waited for.
    pub(crate) fn acknowledge_sleep(&mut self, turn: &mut Turn<P>) {
        let Some(SleepAck { since, wait, behind }) = self.sleep_ack else {
            return;
        };
        let done = match behind {
            Behind::Park => !matches!(self.park, Park::Asked(_)),
            Behind::Stop(of) => match self.state {
                State::Stopping { g, phase, .. } => g != of || phase == Phase::Settling,
                State::Idle
                | State::StayDown
                | State::Armed { .. }
                | State::Starting { .. }
                | State::Up { .. }
                | State::Reasserting { .. }
                | State::Failed(_) => true,
            },
        };
        if done || since.plus(wait) <= turn.now || self.mode() != Mode::Asleep || self.exiting {
            self.sleep_ack = None;
            turn.push(Effect::AckSleep);
        }
    }

    pub(crate) fn rebase_sleep_ack(&mut self, shift: Shift) {
        if let Some(ack) = &mut self.sleep_ack {
            ack.since = shift.since(ack.since);
        }
    }

    /// Somebody is there, or has been long enough. Also after a sleep that was over before anybody told of it.
    pub(crate) fn awake(&mut self, turn: &mut Turn<P>) {
        self.set_power(Power::Awake, turn);
        self.park = Park::Not;
        self.backoff.reset();
        self.renewals.try_sooner();
        self.renewals.certain();
        if let Some(g) = self.tunnel() {
            turn.push(Effect::Woke {
                g,
                gap: self.watch.gap,
                wakes: self.watch.wakes,
            });
            self.listen_again(turn);
        }
        if self.give_up_unasked(turn) {
            // Whoever still waits asks again.
        } else if let State::Reasserting {
            g,
            attempt: Attempt::Running(..),
            ..
        } = self.state
        {
            // It has slept too, and would wait for nobody.
            turn.push(Effect::Abort { g });
            self.attempt_now(Trigger::Wake, turn);
        } else if self.is_waiting() {
            self.attempt_now(Trigger::Wake, turn);
        }
        self.housekeep(turn);
    }

    fn is_waiting(&self) -> bool {
        match self.state {
            State::Starting { attempt, .. } | State::Reasserting { attempt, .. } => !attempt.is_running(),
            State::Idle
            | State::StayDown
            | State::Armed { .. }
            | State::Up { .. }
            | State::Stopping { .. }
            | State::Failed(_) => false,
        }
    }

    /// Stops what must not run in `mode`: attempts and chores.
    pub(crate) fn hold(&mut self, mode: Mode, turn: &mut Turn<P>) {
        let waiting = |attempt: Attempt| Attempt::Waiting(attempt.how(), turn.now);
        let held = match &mut self.state {
            State::Starting { g, attempt } | State::Reasserting { g, attempt, .. } => {
                let running = matches!(attempt, Attempt::Running(..));
                if running {
                    *attempt = waiting(*attempt);
                }
                Some((*g, running, true))
            }
            State::Up { g, replacement, .. } => {
                // What waits is asked for again by whoever asked.
                let running = replacement.take().is_some_and(Attempt::is_running);
                Some((*g, running, running))
            }
            State::Idle | State::StayDown | State::Armed { .. } | State::Stopping { .. } | State::Failed(_) => None,
        };
        if let Some((g, running, suppressed)) = held {
            if running {
                turn.push(Effect::Abort { g });
            }
            if suppressed && let Some(cause) = Cause::of(mode) {
                turn.report(Report::Suppressed(cause, None));
            }
        }
        self.rest(turn);
    }
}
