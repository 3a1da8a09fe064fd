//! The one transition function.

use std::time::Duration;

use now::{Awake, Deadline, Gap, Now};

use crate::{
    Attempt, Backoff, DialBudget, Effect, Generation, How, Input, Jitter, Origin, Patience, Report, State, Then,
    Trigger,
};

/// A stop is acknowledged within this, whatever the host does (lifecycle invariant L1).
pub const ACK_BUDGET: Duration = Duration::from_millis(250);

/// How long the process waits for the host to be restored after an acknowledgement without it. Removing 1,000 routes takes
/// well under a second; a second stop does not wait at all.
pub const EXIT_GRACE: Duration = Duration::from_secs(5);

/// A session without a connection for this long is worth a word to a person.
pub const NOTICE_AFTER: Duration = Duration::from_secs(10);

/// A connection that lived this long was a good one: waits start from the beginning after it.
pub const STABLE_AFTER: Duration = Duration::from_secs(30);

/// What happens after a tunnel failed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The process ends.
    Exit,
    /// It stays, and can be started again.
    Stay,
}

/// What a machine is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Waits between attempts.
    pub backoff: Backoff,
    /// What happens after a final failure.
    pub on_failure: OnFailure,
}

/// The life of one tunnel.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(crate) state: State,
    /// The generation of the next start.
    pub(crate) next: Generation,
    pub(crate) backoff: Backoff,
    pub(crate) budget: DialBudget,
    /// Answers of "not now" in a row, to the same cookie.
    pub(crate) unavailable: u32,
    pub(crate) on_failure: OnFailure,
}

/// One call of [`Machine::handle`]: its arguments, and the effects it collects.
pub(crate) struct Turn<R> {
    pub(crate) now: Awake,
    pub(crate) jitter: Jitter,
    pub(crate) effects: Vec<Effect<R>>,
}

impl<R> Turn<R> {
    pub(crate) fn push(&mut self, effect: Effect<R>) {
        self.effects.push(effect);
    }

    pub(crate) fn report(&mut self, report: Report) {
        self.push(Effect::Report(report));
    }
}

impl Machine {
    /// A tunnel that is down.
    pub fn new(settings: Settings) -> Self {
        Self {
            state: State::Idle,
            next: Generation::FIRST,
            backoff: settings.backoff,
            budget: DialBudget::new(),
            unavailable: 0,
            on_failure: settings.on_failure,
        }
    }

    /// Where the tunnel is in its life.
    pub fn state(&self) -> State {
        self.state
    }

    /// Changes the waits between attempts, from the next one on.
    pub fn set_backoff(&mut self, backoff: Backoff) {
        self.backoff = self.backoff.with_limits_of(backoff);
    }

    /// When [`Input::DeadlineReached`] is wanted, and why.
    pub fn deadline(&self) -> Option<Deadline> {
        let retry = |attempt| match attempt {
            Attempt::Waiting(_, at) => Some(Deadline {
                at,
                reason: "next attempt to connect",
            }),
            Attempt::Running(..) => None,
        };
        match self.state {
            State::Idle | State::Failed(_) | State::Up { .. } => None,
            State::Starting { attempt, .. } => retry(attempt),
            State::Reasserting { attempt, notice, .. } => {
                let notice = notice.map(|at| Deadline {
                    at,
                    reason: "notice of a lost connection",
                });
                Deadline::earliest(retry(attempt), notice)
            }
            State::Stopping { patience, .. } => match patience {
                Patience::Budget(at) => Some(Deadline {
                    at,
                    reason: "budget of a stop",
                }),
                Patience::Grace(at) => Some(Deadline {
                    at,
                    reason: "end of the process",
                }),
                Patience::Spent => None,
            },
        }
    }

    /// Handles one input: changes the state and says what to do. Total: any input may come in any state.
    pub fn handle<R: Clone>(&mut self, input: Input<R>, now: Now, jitter: Jitter) -> Vec<Effect<R>> {
        let mut turn = Turn {
            now: now.awake,
            jitter,
            effects: Vec::new(),
        };
        match input {
            Input::Start { origin } => self.start(origin, &mut turn),
            Input::Stop { reason: _, exit } => self.stop(exit, &mut turn),
            Input::Cancel => self.cancel(&mut turn),
            Input::Reconnect => self.reconnect(&mut turn),
            Input::Connected(g) => self.connected(g, &mut turn),
            Input::ConnectFailed { g, class, stage } => self.connect_failed(g, class, stage, &mut turn),
            Input::Dialled(extra) => self.dialled(extra, &turn),
            Input::ControlLost { g, kind } => self.control_lost(g, kind, &mut turn),
            Input::SessionEnded { g, reason } => self.session_ended(g, reason, &mut turn),
            Input::Released { g, restored } => self.released(g, restored, &mut turn),
            Input::ClockGap(gap) => self.clock_gap(gap),
            Input::DeadlineReached => self.deadline_reached(&mut turn),
        }
        turn.effects
    }

    fn start<R>(&mut self, origin: Origin, turn: &mut Turn<R>) {
        match self.state {
            State::Idle | State::Failed(_) => self.begin(origin, turn),
            State::Starting {
                attempt: Attempt::Waiting(..),
                ..
            }
            | State::Reasserting {
                attempt: Attempt::Waiting(..),
                ..
            } if origin == Origin::User => {
                self.attempt_now(Trigger::User, turn);
            }
            State::Starting { .. } | State::Up { .. } | State::Reasserting { .. } => turn.report(Report::AlreadyWanted),
            State::Stopping {
                g,
                since,
                stops,
                then,
                patience,
            } => match then {
                Then::Idle | Then::Start(_) | Then::Fail(_) => {
                    self.state = State::Stopping {
                        g,
                        since,
                        stops,
                        then: Then::Start(origin),
                        patience,
                    };
                }
                Then::Exit(_) => turn.report(Report::StartRefused),
            },
        }
    }

    fn reconnect<R>(&mut self, turn: &mut Turn<R>) {
        match self.state {
            State::Idle | State::Failed(_) | State::Stopping { .. } => self.start(Origin::User, turn),
            State::Starting { attempt, .. } => match attempt {
                Attempt::Waiting(..) => self.attempt_now(Trigger::User, turn),
                // It may be asking for a password: not to be cut short.
                Attempt::Running(..) => turn.report(Report::AlreadyWanted),
            },
            State::Reasserting { g, attempt, .. } => {
                if let Attempt::Running(..) = attempt {
                    turn.push(Effect::Abort { g });
                }
                self.attempt_now(Trigger::User, turn);
            }
            State::Up { g, since, replacement } => match replacement {
                Some(_) => turn.report(Report::AlreadyWanted),
                None => {
                    turn.push(Effect::Connect {
                        g,
                        how: How::Cookie,
                        trigger: Trigger::User,
                    });
                    self.state = State::Up {
                        g,
                        since,
                        replacement: Some(How::Cookie),
                    };
                }
            },
        }
    }

    /// No verdict counts time in which the process did not run.
    fn clock_gap(&mut self, gap: Gap) {
        let later = |at: Awake| at.plus(gap.awake);
        let shift = |attempt| match attempt {
            Attempt::Waiting(how, at) => Attempt::Waiting(how, later(at)),
            Attempt::Running(..) => attempt,
        };
        self.state = match self.state {
            State::Starting { g, attempt } => State::Starting {
                g,
                attempt: shift(attempt),
            },
            State::Reasserting {
                g,
                attempt,
                session,
                lost,
                notice,
            } => State::Reasserting {
                g,
                attempt: shift(attempt),
                session,
                lost: later(lost),
                notice: notice.map(later),
            },
            State::Up { g, since, replacement } => State::Up {
                g,
                since: later(since),
                replacement,
            },
            State::Stopping {
                g,
                since,
                stops,
                then,
                patience,
            } => {
                let patience = match patience {
                    Patience::Budget(at) => Patience::Budget(later(at)),
                    Patience::Grace(at) => Patience::Grace(later(at)),
                    Patience::Spent => Patience::Spent,
                };
                State::Stopping {
                    g,
                    since: later(since),
                    stops,
                    then,
                    patience,
                }
            }
            State::Idle | State::Failed(_) => self.state,
        };
    }

    fn deadline_reached<R>(&mut self, turn: &mut Turn<R>) {
        if self.deadline().is_none_or(|deadline| deadline.at > turn.now) {
            return;
        }
        let due = |attempt| matches!(attempt, Attempt::Waiting(_, at) if at <= turn.now);
        match self.state {
            State::Starting { .. } => self.attempt_now(Trigger::Retry, turn),
            State::Reasserting {
                g,
                attempt,
                session,
                lost,
                notice,
            } => {
                let retry = due(attempt);
                if notice.is_some_and(|at| at <= turn.now) {
                    turn.report(Report::Reconnecting(g));
                    self.state = State::Reasserting {
                        g,
                        attempt,
                        session,
                        lost,
                        notice: None,
                    };
                }
                if retry {
                    self.attempt_now(Trigger::Retry, turn);
                }
            }
            State::Stopping { .. } => self.overrun(turn),
            State::Idle | State::Up { .. } | State::Failed(_) => {}
        }
    }

    /// From a state without a tunnel to its first attempt.
    pub(crate) fn begin<R>(&mut self, origin: Origin, turn: &mut Turn<R>) {
        self.backoff.reset();
        self.unavailable = 0;
        let g = self.next;
        let attempt = self.attempt(g, How::Login, origin.into(), turn);
        self.state = State::Starting { g, attempt };
    }

    /// Makes the attempt that is waited for (or aborted) now.
    fn attempt_now<R>(&mut self, trigger: Trigger, turn: &mut Turn<R>) {
        match self.state {
            State::Starting { g, attempt } => {
                let attempt = self.attempt(g, attempt.how(), trigger, turn);
                self.state = State::Starting { g, attempt };
            }
            State::Reasserting {
                g,
                attempt,
                session,
                lost,
                notice,
            } => {
                let attempt = self.attempt(g, attempt.how(), trigger, turn);
                self.state = State::Reasserting {
                    g,
                    attempt,
                    session,
                    lost,
                    notice,
                };
            }
            State::Idle | State::Up { .. } | State::Stopping { .. } | State::Failed(_) => {}
        }
    }

    /// Connects if the dial budget allows it, else waits until it does. A person's wish is exempt.
    pub(crate) fn attempt<R>(&mut self, g: Generation, how: How, trigger: Trigger, turn: &mut Turn<R>) -> Attempt {
        if trigger == Trigger::User || self.budget.take(turn.now) {
            turn.push(Effect::Connect { g, how, trigger });
            return Attempt::Running(how, trigger);
        }
        let at = self.budget.next(turn.now);
        turn.report(Report::Suppressed(at.since(turn.now)));
        Attempt::Waiting(how, at)
    }
}
