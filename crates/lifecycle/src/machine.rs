//! The one transition function.

use std::time::Duration;

use now::{Awake, Boot, Deadline, Now};

use crate::chores::Chores;
use crate::life::Life;
use crate::renewing::Renewals;
use crate::sleeping::{Park, SleepAck};
use crate::wake::Watch;
use crate::{
    Attempt, Backoff, Cause, DialBudget, Effect, FailClass, Generation, How, Input, Jitter, Mode, Origin, Patience,
    Proofs, Report, Rule, Session, State, Then, Trigger, WakeKind,
};

/// A stop is acknowledged within this, whatever the host does (lifecycle invariant L1).
pub const ACK_BUDGET: Duration = Duration::from_millis(250);

/// How long the process waits for the host to be restored after an acknowledgement without it. Removing 1,000 routes takes
/// well under a second; a second stop does not wait at all.
pub const EXIT_GRACE: Duration = Duration::from_secs(5);

/// A tunnel in which nobody was heard for this long is worth a word to a person.
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
    /// The tunnel is down while the host sleeps, and comes up again when somebody is there.
    pub disconnect_on_sleep: bool,
    /// The tunnel waits for traffic, and for it again when it is idle.
    pub on_demand: bool,
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
    pub(crate) disconnect_on_sleep: bool,
    pub(crate) on_demand: bool,
    /// What the network's rules say.
    pub(crate) rule: Rule,
    /// When traffic asked last for the connection that is being made, if nothing else did.
    pub(crate) asked: Option<Boot>,
    pub(crate) watch: Watch,
    pub(crate) renewals: Renewals,
    pub(crate) life: Life,
    pub(crate) park: Park,
    pub(crate) sleep_ack: Option<SleepAck>,
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
    pub(crate) boot: Boot,
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

/// What a gap does to deadlines. What was set after it began was set at its end, before anybody told of it, and stays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shift {
    pub(crate) begun: Awake,
    pub(crate) by: Duration,
}

impl Shift {
    /// A deadline that was set at `set`.
    pub(crate) fn deadline(self, set: Awake, at: Awake) -> Awake {
        if set <= self.begun { at.plus(self.by) } else { at }
    }

    /// The beginning of something that lasts.
    pub(crate) fn since(self, since: Awake) -> Awake {
        self.deadline(since, since)
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
            disconnect_on_sleep: settings.disconnect_on_sleep,
            on_demand: settings.on_demand,
            rule: Rule::default(),
            asked: None,
            watch: Watch::new(),
            renewals: Renewals::new(),
            life: Life::Unverified,
            park: Park::Not,
            sleep_ack: None,
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

    /// Changes the waits between attempts, from the next one on.
    pub fn set_backoff(&mut self, backoff: Backoff) {
        self.backoff = self.backoff.with_limits_of(backoff);
    }

    /// Whether the tunnel comes down at the next sleep.
    pub fn set_disconnect_on_sleep(&mut self, disconnect: bool) {
        self.disconnect_on_sleep = disconnect;
    }

    /// When [`Input::DeadlineReached`] is wanted, and why.
    pub fn deadline(&self) -> Option<Deadline> {
        let of_power = Deadline::earliest(self.watch.doubt(), self.sleep_ack_due());
        Deadline::earliest(
            self.deadline_of_state(),
            Deadline::earliest(self.notice_due(), of_power),
        )
    }

    fn deadline_of_state(&self) -> Option<Deadline> {
        let asleep = self.mode() != Mode::Awake;
        let retry = |attempt| match attempt {
            Attempt::Waiting(_, at) => Some(Deadline {
                at,
                reason: "next attempt to connect",
            }),
            Attempt::Running(..) => None,
        };
        match self.state {
            State::Idle | State::StayDown | State::Armed { .. } | State::Failed(_) => None,
            State::Starting { .. } | State::Up { .. } | State::Reasserting { .. } if asleep => None,
            State::Starting { attempt, .. } | State::Reasserting { attempt, .. } => retry(attempt),
            State::Up { replacement, .. } => replacement.and_then(retry),
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
            boot: now.boot,
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
            Input::Power(word) => self.power_word(word, &mut turn),
            Input::Wake(WakeKind::Full) => self.user_present(&mut turn),
            Input::Wake(kind @ (WakeKind::Maintenance | WakeKind::Unknown)) => self.wake(kind, &mut turn),
            Input::ClockGap(gap) => self.clock_gap(gap, &mut turn),
            Input::Parked(g) => self.parked(g),
            Input::Demand => self.demand(&mut turn),
            Input::NotArmed(g) => self.not_armed(g, &mut turn),
            Input::Idle(g) => self.idle(g, &mut turn),
            Input::NetworkRule(rule) => self.network_rule(rule, &mut turn),
            Input::PathChange => self.path_changed(&mut turn),
            Input::ProofOfLife(g) => self.proof_of_life(g, &turn),
            Input::PathSilent(g) => self.path_silent(g, &turn),
            Input::DeadlineReached => self.deadline_reached(&mut turn),
        }
        self.acknowledge_sleep(&mut turn);
        self.watch.was_called(now);
        turn.effects
    }

    fn start(&mut self, origin: Origin, turn: &mut Turn<P>) {
        if origin == Origin::User {
            self.rule = Rule::Connect;
            self.asked = None;
            self.user_present(turn);
        }
        // Only the first thing of a process can be what the one before left.
        let first = self.state == State::Idle && self.next == Generation::FIRST;
        let origin = match origin {
            Origin::Restore if !first => Origin::Boot,
            Origin::User | Origin::Boot | Origin::Restore => origin,
        };
        match self.state {
            State::Idle | State::StayDown | State::Failed(_) => self.begin(origin, turn),
            State::Armed { g, session } if origin == Origin::User || !self.on_demand => {
                self.leave_armed(g, session, origin.into(), turn);
            }
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
            State::Starting { .. } | State::Armed { .. } | State::Up { .. } | State::Reasserting { .. } => {
                turn.report(Report::AlreadyWanted);
            }
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
        self.asked = None;
        self.user_present(turn);
        match self.state {
            State::Idle | State::StayDown | State::Armed { .. } | State::Failed(_) | State::Stopping { .. } => {
                self.start(Origin::User, turn);
            }
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
                Some(Attempt::Running(..)) => turn.report(Report::AlreadyWanted),
                Some(Attempt::Waiting(..)) | None => self.replace_for_user(g, since, turn),
            },
        }
    }

    /// No verdict counts time in which the process did not run.
    pub(crate) fn rebase(&mut self, shift: Shift, now: Awake) {
        self.rebase_notice(shift);
        self.rebase_sleep_ack(shift);
        self.renewals.rebase(shift);
        // When that was set is not known; no wait is longer than the longest.
        let longest = now.plus(self.backoff.max());
        let waiting = |attempt| match attempt {
            Attempt::Waiting(how, at) => Attempt::Waiting(how, at.plus(shift.by).min(longest.max(at))),
            Attempt::Running(..) => attempt,
        };
        self.state = match self.state {
            State::Starting { g, attempt } => State::Starting {
                g,
                attempt: waiting(attempt),
            },
            State::Reasserting {
                g,
                attempt,
                session,
                lost,
            } => State::Reasserting {
                g,
                attempt: waiting(attempt),
                session,
                lost: shift.since(lost),
            },
            State::Up { g, since, replacement } => State::Up {
                g,
                since: shift.since(since),
                replacement: replacement.map(|attempt| Self::rebased_replacement(attempt, shift, now)),
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
                    Patience::Budget(at) => Patience::Budget(shift.deadline(since, at)),
                    Patience::Grace(at) => Patience::Grace(shift.deadline(since, at)),
                    Patience::Spent => Patience::Spent,
                };
                State::Stopping {
                    g,
                    since: shift.since(since),
                    stops,
                    then,
                    phase,
                    patience,
                }
            }
            State::Idle | State::StayDown | State::Armed { .. } | State::Failed(_) => self.state,
        };
    }

    fn deadline_reached(&mut self, turn: &mut Turn<P>) {
        let now = turn.now;
        let is_due = |deadline: Option<Deadline>| deadline.is_some_and(|deadline| deadline.at <= now);
        if is_due(self.watch.doubt()) {
            self.end_of_doubt(turn);
        }
        if is_due(self.notice_due()) {
            self.give_notice(turn);
        }
        if !is_due(self.deadline_of_state()) {
            return;
        }
        match self.state {
            State::Starting { .. } | State::Reasserting { .. } => {
                if !self.give_up_unasked(turn) {
                    self.attempt_now(Trigger::Retry, turn);
                }
            }
            State::Up { .. } => self.replace_now(turn),
            State::Stopping { .. } => self.out_of_patience(turn),
            State::Idle | State::StayDown | State::Armed { .. } | State::Failed(_) => {}
        }
    }

    /// From a state without a tunnel to its first attempt.
    pub(crate) fn begin(&mut self, origin: Origin, turn: &mut Turn<P>) {
        self.backoff.reset();
        self.unavailable = 0;
        self.renewals = Renewals::new();
        self.life = Life::Unverified;
        if origin == Origin::Restore {
            self.fell_silent(turn.now);
        }
        self.asked = None;
        let g = self.next;
        self.state = match origin {
            Origin::Boot if self.rule == Rule::StayDown => State::StayDown,
            Origin::Boot if self.on_demand => return self.arm(g, Session::Over, turn),
            Origin::User | Origin::Boot => State::Starting {
                g,
                attempt: self.attempt(g, How::Login, origin.into(), turn),
            },
            Origin::Restore => State::Reasserting {
                g,
                attempt: self.attempt(g, How::Cookie, origin.into(), turn),
                session: Session::Kept,
                lost: turn.now,
            },
        };
        if origin == Origin::Restore && self.rule == Rule::StayDown {
            self.network_rule(Rule::StayDown, turn);
        }
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
            } => {
                let attempt = self.attempt(g, attempt.how(), trigger, turn);
                self.state = State::Reasserting {
                    g,
                    attempt,
                    session,
                    lost,
                };
            }
            State::Idle
            | State::StayDown
            | State::Armed { .. }
            | State::Up { .. }
            | State::Stopping { .. }
            | State::Failed(_) => {}
        }
    }

    /// Connects if the host is awake and the dial budget allows it, else waits until they do. A person's wish is exempt from
    /// the budget.
    pub(crate) fn attempt(&mut self, g: Generation, how: How, trigger: Trigger, turn: &mut Turn<P>) -> Attempt {
        if let Some(cause) = Cause::of(self.mode()) {
            turn.report(Report::Suppressed(cause, None));
            return Attempt::Waiting(how, turn.now);
        }
        let later = match (trigger, self.watch.tried_until(turn.now)) {
            (Trigger::User, _) => None,
            (_, Some(until)) => Some((Cause::Unsure, until)),
            (_, None) if self.budget.take(turn.now) => None,
            (_, None) => Some((Cause::Budget, self.budget.next(turn.now))),
        };
        if let Some((cause, at)) = later {
            turn.report(Report::Suppressed(cause, Some(at.since(turn.now))));
            return Attempt::Waiting(how, at);
        }
        self.watch.tried();
        turn.push(Effect::Connect { g, how, trigger });
        Attempt::Running(how, trigger)
    }

    /// An attempt that left nothing of itself on the network has used up nothing.
    pub(crate) fn give_back(&mut self, class: FailClass, trigger: Trigger) {
        if class != FailClass::Offline {
            return;
        }
        self.watch.not_tried();
        if trigger != Trigger::User {
            self.budget.give_back();
        }
    }
}
