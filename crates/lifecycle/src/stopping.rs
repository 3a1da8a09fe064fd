//! The way down: cancel what connects, raise the fence, restore the host, record what is owed, acknowledge, and only then
//! what comes next.
//!
//! ```text
//!   Stop --> Releasing --Released--> Recording --Recorded--> AckStop --> Idle, Failed, Starting or the end
//!     |          |                       |
//!     |          +--- 250 ms ------------+--> Curtailed --Released, Recorded--> AckStop --> as above, or
//!     |                                                                            Settling --Released--> as above
//!     +--(restart)--> HandingOver --HandedOver{kept}--> AckStop --> the end
//!                          +--- not kept --> Releasing
//! ```

use std::time::Duration;

use crate::machine::Turn;
use crate::sleeping::Park;
use crate::{
    ACK_BUDGET, Acknowledged, Attempt, EXIT_GRACE, Effect, EndReason, FailReason, Generation, Machine, OnFailure,
    Patience, Phase, Proofs, Report, Session, State, StopReason, Then,
};

/// Stops that are acknowledged one by one; what comes beyond shares the last acknowledgement.
const MAX_STOPS: u32 = 64;

impl<P: Proofs> Machine<P> {
    pub(crate) fn stop(&mut self, reason: StopReason, exit: bool, turn: &mut Turn<P>) {
        let then = if exit { Then::Exit(None) } else { Then::Idle };
        match self.state {
            State::Idle | State::StayDown | State::Failed(_) => {
                if self.state == State::StayDown {
                    self.state = State::Idle;
                }
                turn.push(Effect::AckStop {
                    took: Duration::ZERO,
                    outcome: Acknowledged::WasDown,
                });
                if exit {
                    self.exit(None, turn);
                }
            }
            State::Up { .. }
            | State::Reasserting {
                session: Session::Kept, ..
            } if exit && reason == StopReason::Restart => self.hand_over(then, turn),
            State::Starting { .. } | State::Armed { .. } | State::Up { .. } | State::Reasserting { .. } => {
                self.bring_down(1, then, EndReason::UserStop, turn);
            }
            State::Stopping {
                g,
                since,
                stops,
                then,
                phase,
                patience,
            } => {
                let then = match (then, exit) {
                    (Then::Idle | Then::Start(_), false) => Then::Idle,
                    (Then::Idle | Then::Start(_), true) => Then::Exit(None),
                    (Then::Fail(reason), false) => Then::Fail(reason),
                    (Then::Fail(reason), true) => Then::Exit(Some(reason)),
                    (Then::Exit(reason), _) => Then::Exit(reason),
                };
                let stops = stops.saturating_add(1).min(MAX_STOPS);
                self.state = State::Stopping {
                    g,
                    since,
                    stops,
                    then,
                    phase,
                    patience,
                };
                if phase == Phase::Settling {
                    self.acknowledge(turn);
                    // Whoever says it twice does not wait.
                    if let Then::Exit(_) = then {
                        self.after_stop(then, turn);
                    }
                }
            }
        }
    }

    pub(crate) fn cancel(&mut self, turn: &mut Turn<P>) {
        match self.state {
            State::Starting { .. } | State::Armed { .. } | State::Up { .. } | State::Reasserting { .. } => {
                self.fail(FailReason::Cancelled, EndReason::Fatal, turn);
            }
            State::Idle | State::StayDown | State::Stopping { .. } | State::Failed(_) => {}
        }
    }

    pub(crate) fn fail(&mut self, reason: FailReason, end: EndReason, turn: &mut Turn<P>) {
        self.bring_down(0, self.after(reason), end, turn);
    }

    pub(crate) fn after(&self, reason: FailReason) -> Then {
        match self.on_failure {
            OnFailure::Exit => Then::Exit(Some(reason)),
            OnFailure::Stay => Then::Fail(reason),
        }
    }

    /// Into Stopping from any state with a tunnel: cancel what connects, raise the fence, say goodbye, restore the host.
    pub(crate) fn bring_down(&mut self, stops: u32, then: Then, end: EndReason, turn: &mut Turn<P>) {
        let (g, running, up, session) = match self.state {
            State::Starting { g, attempt } => (g, matches!(attempt, Attempt::Running(..)), false, Session::Over),
            State::Up { g, replacement, .. } => (g, replacement.is_some_and(Attempt::is_running), true, Session::Kept),
            State::Reasserting {
                g, attempt, session, ..
            } => (g, matches!(attempt, Attempt::Running(..)), false, session),
            State::Armed { g, session } => (g, false, false, session),
            State::Idle | State::StayDown | State::Stopping { .. } | State::Failed(_) => return,
        };
        self.hold_chores(turn);
        // An attempt that failed is over already; aborting it again is harmless.
        if running {
            turn.push(Effect::Abort { g });
        }
        if up && end != EndReason::Admin && end != EndReason::Replaced {
            turn.push(Effect::Goodbye { g });
        }
        if session == Session::Kept {
            turn.report(Report::SessionEnd(g, end));
        }
        turn.push(Effect::Release { g });
        self.enter_stopping(g, stops, then, Phase::Releasing, turn);
    }

    /// Into Stopping with the session kept for the next process.
    fn hand_over(&mut self, then: Then, turn: &mut Turn<P>) {
        let (g, running) = match self.state {
            State::Up { g, replacement, .. } => (g, replacement.is_some_and(Attempt::is_running)),
            State::Reasserting { g, attempt, .. } => (g, matches!(attempt, Attempt::Running(..))),
            State::Idle
            | State::StayDown
            | State::Starting { .. }
            | State::Armed { .. }
            | State::Stopping { .. }
            | State::Failed(_) => return,
        };
        self.hold_chores(turn);
        if running {
            turn.push(Effect::Abort { g });
        }
        turn.push(Effect::HandOver { g });
        self.enter_stopping(g, 1, then, Phase::HandingOver, turn);
    }

    fn enter_stopping(&mut self, g: Generation, stops: u32, then: Then, phase: Phase, turn: &Turn<P>) {
        self.next = g.next();
        self.asked = None;
        self.park = Park::Not;
        self.restored = None;
        self.owed = None;
        self.state = State::Stopping {
            g,
            since: turn.now,
            stops,
            then,
            phase,
            patience: Patience::Budget(turn.now.plus(ACK_BUDGET)),
        };
    }

    pub(crate) fn handed_over(&mut self, of: Generation, kept: bool, turn: &mut Turn<P>) {
        let State::Stopping {
            g, stops, then, phase, ..
        } = self.state
        else {
            return;
        };
        let late = match phase {
            Phase::HandingOver => false,
            Phase::Curtailed { releasing: false } if self.restored.is_none() => true,
            Phase::Releasing | Phase::Recording | Phase::Curtailed { .. } | Phase::Settling => return,
        };
        if g != of {
            return;
        }
        if kept {
            self.acknowledge_as(stops, &Acknowledged::HandedOver, turn);
            return self.after_stop(then, turn);
        }
        turn.report(Report::SessionEnd(g, EndReason::UserStop));
        turn.push(Effect::Release { g });
        if late {
            self.set_phase(Phase::Curtailed { releasing: true });
            turn.push(Effect::Curtail { g });
        } else {
            self.set_phase(Phase::Releasing);
        }
    }

    pub(crate) fn released(&mut self, of: Generation, restored: P::Restored, turn: &mut Turn<P>) {
        let State::Stopping { g, then, phase, .. } = self.state else {
            return;
        };
        if g != of {
            return;
        }
        match phase {
            Phase::Releasing => {
                self.restored = Some(restored);
                self.set_phase(Phase::Recording);
                turn.push(Effect::Record { g });
            }
            Phase::Curtailed { releasing: true } if self.restored.is_none() => {
                self.restored = Some(restored);
                turn.push(Effect::Record { g });
            }
            // The work itself has come to its end.
            Phase::Curtailed { releasing: true } => {
                self.restored = Some(restored);
                self.set_phase(Phase::Curtailed { releasing: false });
            }
            Phase::Settling => self.after_stop(then, turn),
            Phase::HandingOver | Phase::Recording | Phase::Curtailed { releasing: false } => {}
        }
    }

    pub(crate) fn recorded(&mut self, of: Generation, owed: P::Owed, turn: &mut Turn<P>) {
        let State::Stopping { g, then, phase, .. } = self.state else {
            return;
        };
        if g != of || self.restored.is_none() {
            return;
        }
        match phase {
            Phase::Recording | Phase::Curtailed { releasing: false } => {
                self.owed = Some(owed);
                self.acknowledge(turn);
                self.after_stop(then, turn);
            }
            Phase::Curtailed { releasing: true } => {
                self.owed = Some(owed);
                self.settle(turn);
            }
            Phase::HandingOver | Phase::Releasing | Phase::Settling => {}
        }
    }

    /// The budget is used up, or the grace of a process that is to end.
    pub(crate) fn out_of_patience(&mut self, turn: &mut Turn<P>) {
        let State::Stopping {
            g,
            since,
            stops,
            then,
            phase,
            patience,
        } = self.state
        else {
            return;
        };
        match patience {
            Patience::Budget(_) => {
                let phase = match phase {
                    Phase::Releasing => Phase::Curtailed { releasing: true },
                    Phase::Recording | Phase::HandingOver => Phase::Curtailed { releasing: false },
                    Phase::Curtailed { .. } | Phase::Settling => phase,
                };
                self.state = State::Stopping {
                    g,
                    since,
                    stops,
                    then,
                    phase,
                    patience: self.patience_after(then, turn),
                };
                turn.push(Effect::Curtail { g });
            }
            Patience::Grace(_) => self.after_stop(then, turn),
            Patience::Spent => {}
        }
    }

    fn patience_after(&self, then: Then, turn: &Turn<P>) -> Patience {
        match then {
            Then::Exit(_) => Patience::Grace(turn.now.plus(EXIT_GRACE)),
            Then::Idle | Then::Start(_) | Then::Fail(_) => Patience::Spent,
        }
    }

    /// Acknowledges what has a name for what is left, and waits for that behind the acknowledgement.
    fn settle(&mut self, turn: &mut Turn<P>) {
        let State::Stopping { stops, then, .. } = self.state else {
            return;
        };
        self.acknowledge(turn);
        self.resume_chores(turn);
        match then {
            Then::Exit(_) if stops > 1 => self.after_stop(then, turn),
            Then::Exit(_) | Then::Idle | Then::Start(_) | Then::Fail(_) => self.set_phase(Phase::Settling),
        }
        if let State::Stopping { then, patience, .. } = &mut self.state
            && !matches!(patience, Patience::Grace(_))
            && matches!(then, Then::Exit(_))
        {
            *patience = Patience::Grace(turn.now.plus(EXIT_GRACE));
        }
    }

    /// Acknowledges every stop that waits, with the proofs.
    fn acknowledge(&mut self, turn: &mut Turn<P>) {
        let State::Stopping { stops, .. } = self.state else {
            return;
        };
        if let (Some(restored), Some(owed)) = (self.restored.clone(), self.owed.clone()) {
            self.acknowledge_as(stops, &Acknowledged::Down { restored, owed }, turn);
        }
    }

    fn acknowledge_as(&mut self, waiting: u32, outcome: &Acknowledged<P>, turn: &mut Turn<P>) {
        let State::Stopping { since, stops, .. } = &mut self.state else {
            return;
        };
        *stops = 0;
        let took = turn.now.since(*since);
        for _ in 0..waiting {
            turn.push(Effect::AckStop {
                took,
                outcome: outcome.clone(),
            });
        }
    }

    fn set_phase(&mut self, new: Phase) {
        if let State::Stopping { phase, .. } = &mut self.state {
            *phase = new;
        }
    }

    fn after_stop(&mut self, then: Then, turn: &mut Turn<P>) {
        self.state = State::Idle;
        self.restored = None;
        self.owed = None;
        match then {
            Then::Idle => {}
            Then::Start(origin) => self.begin(origin, turn),
            Then::Fail(reason) => {
                self.state = State::Failed(reason);
                turn.report(Report::Failed(reason));
            }
            Then::Exit(reason) => {
                if let Some(reason) = reason {
                    self.state = State::Failed(reason);
                    turn.report(Report::Failed(reason));
                }
                return self.exit(reason, turn);
            }
        }
        self.resume_chores(turn);
        // What this instance owes, if it is not being worked off.
        self.jobs_due(turn);
    }

    /// The process ends: what the worker has in hand is for another one.
    fn exit(&mut self, reason: Option<FailReason>, turn: &mut Turn<P>) {
        self.exiting = true;
        self.rest(turn);
        turn.push(Effect::Exit(reason));
    }
}
