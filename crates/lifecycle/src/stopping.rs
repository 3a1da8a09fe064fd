//! The way down: cancel what connects, raise the fence, restore the host, acknowledge, and only then what comes next.

use std::time::Duration;

use crate::machine::Turn;
use crate::{
    ACK_BUDGET, Acknowledged, Attempt, EXIT_GRACE, Effect, EndReason, FailReason, Generation, Machine, OnFailure,
    Patience, Report, Session, State, Then,
};

/// Stops that are acknowledged one by one; what comes beyond shares the last acknowledgement.
const MAX_STOPS: u32 = 64;

impl Machine {
    pub(crate) fn stop<R>(&mut self, exit: bool, turn: &mut Turn<R>) {
        let then = if exit { Then::Exit(None) } else { Then::Idle };
        match self.state {
            State::Idle | State::Failed(_) => {
                turn.push(Effect::AckStop {
                    took: Duration::ZERO,
                    outcome: Acknowledged::WasDown,
                });
                if exit {
                    turn.push(Effect::Exit(None));
                }
            }
            State::Starting { .. } | State::Up { .. } | State::Reasserting { .. } => {
                self.bring_down(1, then, EndReason::UserStop, turn);
            }
            State::Stopping {
                g,
                since,
                stops,
                then,
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
                    patience,
                };
                match patience {
                    Patience::Budget(_) => {}
                    Patience::Grace(_) | Patience::Spent => self.overrun(turn),
                }
            }
        }
    }

    pub(crate) fn cancel<R>(&mut self, turn: &mut Turn<R>) {
        match self.state {
            State::Starting { .. } | State::Up { .. } | State::Reasserting { .. } => {
                self.fail(FailReason::Cancelled, EndReason::Fatal, turn);
            }
            State::Idle | State::Stopping { .. } | State::Failed(_) => {}
        }
    }

    pub(crate) fn released<R: Clone>(&mut self, of: Generation, restored: R, turn: &mut Turn<R>) {
        match self.state {
            State::Stopping {
                g, since, stops, then, ..
            } if g == of => {
                let took = turn.now.since(since);
                for _ in 0..stops {
                    turn.push(Effect::AckStop {
                        took,
                        outcome: Acknowledged::Restored(restored.clone()),
                    });
                }
                self.after_stop(then, turn);
            }
            State::Idle
            | State::Starting { .. }
            | State::Up { .. }
            | State::Reasserting { .. }
            | State::Stopping { .. }
            | State::Failed(_) => {}
        }
    }

    pub(crate) fn fail<R>(&mut self, reason: FailReason, end: EndReason, turn: &mut Turn<R>) {
        self.bring_down(0, self.after(reason), end, turn);
    }

    pub(crate) fn after(&self, reason: FailReason) -> Then {
        match self.on_failure {
            OnFailure::Exit => Then::Exit(Some(reason)),
            OnFailure::Stay => Then::Fail(reason),
        }
    }

    /// Into Stopping from any state with a tunnel: cancel what connects, raise the fence, say goodbye, restore the host.
    pub(crate) fn bring_down<R>(&mut self, stops: u32, then: Then, end: EndReason, turn: &mut Turn<R>) {
        let (g, running, up, session) = match self.state {
            State::Starting { g, attempt } => (g, matches!(attempt, Attempt::Running(..)), false, Session::Over),
            State::Up { g, replacement, .. } => (g, replacement.is_some(), true, Session::Kept),
            State::Reasserting {
                g, attempt, session, ..
            } => (g, matches!(attempt, Attempt::Running(..)), false, session),
            State::Idle | State::Stopping { .. } | State::Failed(_) => return,
        };
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
        self.next = g.next();
        let patience = Patience::Budget(turn.now.plus(ACK_BUDGET));
        self.state = State::Stopping {
            g,
            since: turn.now,
            stops,
            then,
            patience,
        };
    }

    /// Acknowledges what has not been, without the proof; the process ends with or without it soon.
    pub(crate) fn overrun<R>(&mut self, turn: &mut Turn<R>) {
        let State::Stopping {
            g,
            since,
            stops,
            then,
            patience,
        } = self.state
        else {
            return;
        };
        for _ in 0..stops {
            turn.push(Effect::AckStop {
                took: turn.now.since(since),
                outcome: Acknowledged::Overrun,
            });
        }
        let in_a_hurry = match patience {
            Patience::Budget(_) => stops > 1,
            Patience::Grace(_) | Patience::Spent => true,
        };
        let patience = match then {
            Then::Exit(_) if in_a_hurry => return self.after_stop(then, turn),
            Then::Exit(_) => Patience::Grace(turn.now.plus(EXIT_GRACE)),
            Then::Idle | Then::Start(_) | Then::Fail(_) => Patience::Spent,
        };
        self.state = State::Stopping {
            g,
            since,
            stops: 0,
            then,
            patience,
        };
    }

    fn after_stop<R>(&mut self, then: Then, turn: &mut Turn<R>) {
        self.state = State::Idle;
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
                turn.push(Effect::Exit(reason));
            }
        }
    }
}
