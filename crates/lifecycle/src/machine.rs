//! The one transition function.

use std::time::Duration;

use now::{Awake, Deadline, Gap, Now};

use crate::chores::Chores;
use crate::power::Power;
use crate::{
    Attempt, Backoff, DialBudget, Effect, Generation, How, Input, Jitter, Origin, Patience, Proofs, Report, Session,
    State, Then, Trigger,
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
pub struct Machine<P: Proofs> {
    pub(crate) state: State,
    /// The generation of the next start.
    pub(crate) next: Generation,
    pub(crate) backoff: Backoff,
    pub(crate) budget: DialBudget,
    /// Answers of "not now" in a row, to the same cookie.
    pub(crate) unavailable: u32,
    pub(crate) on_failure: OnFailure,
    pub(crate) power: Power,
    pub(crate) chores: Chores,
    /// The proofs of the stop that is under way, as they come.
    pub(crate) restored: Option<P::Restored>,
    pub(crate) owed: Option<P::Owed>,
    /// The end of the process was ordered.
    pub(crate) exiting: bool,
}

/// One call of [`Machine::handle`]: its arguments, and the effects it collects.
pub(crate) struct Turn<P: Proofs> {
    pub(crate) now: Awake,
    pub(crate) jitter: Jitter,
    pub(crate) effects: Vec<Effect<P>>,
}

impl<P: Proofs> Turn<P> {
    pub(crate) fn push(&mut self, effect: Effect<P>) {
        self.effects.push(effect);
    }

    pub(crate) fn report(&mut self, report: Report) {
        self.push(Effect::Report(report));
    }
}

impl<P: Proofs> Machine<P> {
    /// A tunnel that is down.
    pub fn new(settings: Settings) -> Self {
        Self {
            state: State::Idle,
            next: Generation::FIRST,
            backoff: settings.backoff,
            budget: DialBudget::new(),
            unavailable: 0,
            on_failure: settings.on_failure,
            power: Power::Awake,
            chores: Chores::None,
            restored: None,
            owed: None,
            exiting: false,
        }
    }

    /// Where the tunnel is in its life.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the host is awake, as far as anybody said.
    pub fn power(&self) -> Power {
        self.power
    }

    /// Changes the waits between attempts, from the next one on.
    pub fn set_backoff(&mut self, backoff: Backoff) {
        self.backoff = self.backoff.with_limits_of(backoff);
    }

    /// When [`Input::DeadlineReached`] is wanted, and why.
    pub fn deadline(&self) -> Option<Deadline> {
        Deadline::earliest(self.deadline_of_state(), self.power.doubt())
    }

    fn deadline_of_state(&self) -> Option<Deadline> {
        let asleep = self.power != Power::Awake;
        let retry = |attempt| match attempt {
            Attempt::Waiting(_, at) => Some(Deadline {
                at,
                reason: "next attempt to connect",
            }),
            Attempt::Running(..) => None,
        };
        match self.state {
            State::Idle | State::Failed(_) | State::Up { .. } => None,
            State::Starting { .. } | State::Reasserting { .. } if asleep => None,
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
    pub fn handle(&mut self, input: Input<P>, now: Now, jitter: Jitter) -> Vec<Effect<P>> {
        let mut turn = Turn {
            now: now.awake,
            jitter,
            effects: Vec::new(),
        };
        match input {
            Input::Start { origin } => self.start(origin, &mut turn),
            Input::Stop { reason, exit } => self.stop(reason, exit, &mut turn),
            Input::Cancel => self.cancel(&mut turn),
            Input::Reconnect => self.reconnect(&mut turn),
            Input::Renew(g) => self.renew(g, &mut turn),
            Input::Connected(g) => self.connected(g, &mut turn),
            Input::ConnectFailed { g, class, stage } => self.connect_failed(g, class, stage, &mut turn),
            Input::Dialled(extra) => self.dialled(extra, &turn),
            Input::ControlLost { g, kind } => self.control_lost(g, kind, &mut turn),
            Input::SessionEnded { g, reason } => self.session_ended(g, reason, &mut turn),
            Input::Released { g, restored } => self.released(g, restored, &mut turn),
            Input::Recorded { g, owed } => self.recorded(g, owed, &mut turn),
            Input::HandedOver { g, kept } => self.handed_over(g, kept, &mut turn),
            Input::JobsDue => self.jobs_due(&mut turn),
            Input::JobsDone => self.jobs_done(&mut turn),
            Input::SleepNotice => self.sleep(&mut turn),
            Input::Wake(kind) => self.wake(kind, &mut turn),
            Input::ClockGap(gap) => self.clock_gap(gap),
            Input::DeadlineReached => self.deadline_reached(&mut turn),
        }
        turn.effects
    }

    fn start(&mut self, origin: Origin, turn: &mut Turn<P>) {
        if origin == Origin::User {
            self.awake(turn);
        }
        // Only the first thing of a process can be what the one before left.
        let first = self.state == State::Idle && self.next == Generation::FIRST;
        let origin = match origin {
            Origin::Restore if !first => Origin::Boot,
            Origin::User | Origin::Boot | Origin::Restore => origin,
        };
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
                phase,
                patience,
            } => match then {
                Then::Idle | Then::Start(_) | Then::Fail(_) => {
                    self.state = State::Stopping {
                        g,
                        since,
                        stops,
                        then: Then::Start(origin),
                        phase,
                        patience,
                    };
                }
                Then::Exit(_) => turn.report(Report::StartRefused),
            },
        }
    }

    fn reconnect(&mut self, turn: &mut Turn<P>) {
        self.awake(turn);
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

    /// A connection in the background that takes the session over, if one may be made now.
    fn renew(&mut self, of: Generation, turn: &mut Turn<P>) {
        match self.state {
            State::Up {
                g,
                since,
                replacement: None,
            } if g == of => {
                let trigger = Trigger::Renewal;
                if let Attempt::Running(how, _) = self.attempt(g, How::Cookie, trigger, turn) {
                    self.state = State::Up {
                        g,
                        since,
                        replacement: Some(how),
                    };
                }
            }
            State::Idle
            | State::Starting { .. }
            | State::Up { .. }
            | State::Reasserting { .. }
            | State::Stopping { .. }
            | State::Failed(_) => {}
        }
    }

    /// No verdict counts time in which the process did not run.
    fn clock_gap(&mut self, gap: Gap) {
        self.power = self.power.later(gap.awake);
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
                phase,
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
                    phase,
                    patience,
                }
            }
            State::Idle | State::Failed(_) => self.state,
        };
    }

    fn deadline_reached(&mut self, turn: &mut Turn<P>) {
        let now = turn.now;
        let is_due = |deadline: Option<Deadline>| deadline.is_some_and(|deadline| deadline.at <= now);
        if is_due(self.power.doubt()) {
            self.awake(turn);
        }
        if !is_due(self.deadline_of_state()) {
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
            State::Stopping { .. } => self.out_of_patience(turn),
            State::Idle | State::Up { .. } | State::Failed(_) => {}
        }
    }

    /// From a state without a tunnel to its first attempt.
    pub(crate) fn begin(&mut self, origin: Origin, turn: &mut Turn<P>) {
        self.backoff.reset();
        self.unavailable = 0;
        let g = self.next;
        self.state = match origin {
            Origin::User | Origin::Boot => State::Starting {
                g,
                attempt: self.attempt(g, How::Login, origin.into(), turn),
            },
            Origin::Restore => State::Reasserting {
                g,
                attempt: self.attempt(g, How::Cookie, origin.into(), turn),
                session: Session::Kept,
                lost: turn.now,
                notice: Some(turn.now.plus(NOTICE_AFTER)),
            },
        };
    }

    /// Makes the attempt that is waited for (or aborted) now.
    pub(crate) fn attempt_now(&mut self, trigger: Trigger, turn: &mut Turn<P>) {
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

    /// Connects if the host is awake and the dial budget allows it, else waits until they do. A person's wish is exempt from
    /// the budget.
    pub(crate) fn attempt(&mut self, g: Generation, how: How, trigger: Trigger, turn: &mut Turn<P>) -> Attempt {
        if self.power != Power::Awake {
            return Attempt::Waiting(how, turn.now);
        }
        if trigger == Trigger::User || self.budget.take(turn.now) {
            turn.push(Effect::Connect { g, how, trigger });
            return Attempt::Running(how, trigger);
        }
        let at = self.budget.next(turn.now);
        turn.report(Report::Suppressed(at.since(turn.now)));
        Attempt::Waiting(how, at)
    }
}
