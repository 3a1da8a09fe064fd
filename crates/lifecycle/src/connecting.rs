//! The inputs of a connection: it stands, it failed, it was lost, its session is over.

use std::time::Duration;

use now::Awake;

use crate::machine::Turn;
use crate::renewing::Renewals;
use crate::{
    Attempt, Cause, Effect, EndReason, FailClass, FailReason, Generation, How, LossKind, Machine, Mode, Proofs, Report,
    STABLE_AFTER, Session, Stage, State, Trigger,
};

/// Answers of "not now" (503) to a cookie, after which the client logs in anew.
const UNAVAILABLE_LIMIT: u32 = 3;

impl<P: Proofs> Machine<P> {
    pub(crate) fn connected(&mut self, of: Generation, turn: &mut Turn<P>) {
        let since = turn.now;
        let up = |g| State::Up {
            g,
            since,
            replacement: None,
        };
        match self.state {
            State::Starting {
                g,
                attempt: Attempt::Running(..),
            } if g == of => {
                turn.report(Report::SessionStart(g));
                self.state = up(g);
            }
            State::Reasserting {
                g,
                attempt: Attempt::Running(how, _),
                session,
                lost,
                ..
            } if g == of => {
                match (session, how) {
                    (Session::Kept, How::Cookie) => turn.report(Report::PathBack(g, turn.now.since(lost))),
                    (Session::Kept, How::Login) => {
                        turn.report(Report::SessionEnd(g, EndReason::AuthExpired));
                        turn.report(Report::SessionStart(g));
                    }
                    (Session::Over, _) => turn.report(Report::SessionStart(g)),
                }
                self.state = up(g);
            }
            State::Up {
                g,
                replacement: Some(Attempt::Running(how, _)),
                ..
            } if g == of => {
                match how {
                    How::Cookie => turn.report(Report::PathBack(g, Duration::ZERO)),
                    How::Login => {
                        turn.report(Report::SessionEnd(g, EndReason::AuthExpired));
                        turn.report(Report::SessionStart(g));
                    }
                }
                self.state = up(g);
            }
            State::Idle
            | State::StayDown
            | State::Armed { .. }
            | State::Starting { .. }
            | State::Up { .. }
            | State::Reasserting { .. }
            | State::Stopping { .. }
            | State::Failed(_) => return,
        }
        self.unavailable = 0;
        self.asked = None;
        self.renewals = Renewals::new();
        self.proof_of_life(of, turn);
    }

    pub(crate) fn connect_failed(&mut self, of: Generation, class: FailClass, stage: Stage, turn: &mut Turn<P>) {
        match self.state {
            State::Starting {
                g,
                attempt: Attempt::Running(how, trigger),
            } if g == of => match class {
                FailClass::Offline | FailClass::Network | FailClass::Unavailable | FailClass::CookieRefused => {
                    let attempt = self.again(g, (how, trigger), (class, stage), turn);
                    self.state = State::Starting { g, attempt };
                }
                FailClass::AuthRefused => self.fail(FailReason::AuthRefused, EndReason::Fatal, turn),
                FailClass::Fatal => self.fail(FailReason::Fatal, EndReason::Fatal, turn),
            },
            State::Reasserting {
                g,
                attempt: Attempt::Running(how, trigger),
                session,
                lost,
            } if g == of => {
                if class == FailClass::AuthRefused {
                    return self.fail(FailReason::AuthRefused, EndReason::AuthExpired, turn);
                }
                let attempt = self.again(g, (how, trigger), (class, stage), turn);
                let session = match (session, how, attempt.how()) {
                    (Session::Kept, How::Cookie, How::Login) => {
                        let reason = match stage {
                            Stage::Login | Stage::Connect => EndReason::AuthExpired,
                            Stage::Granted => EndReason::Fatal,
                        };
                        let over = Report::SessionEnd(g, reason);
                        turn.effects.insert(0, Effect::Report(over));
                        Session::Over
                    }
                    (session, _, _) => session,
                };
                self.state = State::Reasserting {
                    g,
                    attempt,
                    session,
                    lost,
                };
                self.give_up_waiting(turn);
            }
            State::Up {
                g,
                since,
                replacement: Some(Attempt::Running(how, trigger)),
            } if g == of => self.replacement_failed((g, since), (how, trigger), class, turn),
            State::Idle
            | State::StayDown
            | State::Armed { .. }
            | State::Starting { .. }
            | State::Up { .. }
            | State::Reasserting { .. }
            | State::Stopping { .. }
            | State::Failed(_) => {}
        }
    }

    pub(crate) fn dialled(&mut self, extra: u32, turn: &Turn<P>) {
        let exempt = match self.state {
            State::Starting { attempt, .. } | State::Reasserting { attempt, .. } => {
                matches!(attempt, Attempt::Running(_, Trigger::User))
            }
            State::Up {
                replacement: Some(attempt),
                ..
            } => matches!(attempt, Attempt::Running(_, Trigger::User)),
            State::Up { replacement: None, .. }
            | State::Idle
            | State::StayDown
            | State::Armed { .. }
            | State::Stopping { .. }
            | State::Failed(_) => true,
        };
        if !exempt {
            self.budget.spend(extra, turn.now);
        }
    }

    /// The host's network is another one: what failed on the old one says nothing.
    pub(crate) fn path_changed(&mut self, turn: &mut Turn<P>) {
        self.backoff.reset();
        self.renewals.try_sooner();
        match self.mode() {
            Mode::Awake => self.sooner(turn),
            Mode::Unsure => self.try_unsure(turn),
            Mode::Asleep | Mode::Maintenance => {}
        }
    }

    /// What waits for its time waits for the first of all waits, or for the budgets.
    fn sooner(&mut self, turn: &Turn<P>) {
        let soon = turn.now.plus(self.backoff.delay(turn.jitter));
        let allowed = self.watch.tried_until(turn.now).unwrap_or(self.budget.next(turn.now));
        let renewals = self.renewals;
        match &mut self.state {
            State::Starting {
                attempt: Attempt::Waiting(_, at),
                ..
            }
            | State::Reasserting {
                attempt: Attempt::Waiting(_, at),
                ..
            } => *at = (*at).min(soon.max(allowed)),
            State::Up {
                replacement: Some(Attempt::Waiting(how, at)),
                ..
            } => *at = (*at).min(soon.max(allowed).max(renewals.not_before(*how).unwrap_or(soon))),
            State::Idle
            | State::StayDown
            | State::Armed { .. }
            | State::Starting { .. }
            | State::Up { .. }
            | State::Reasserting { .. }
            | State::Stopping { .. }
            | State::Failed(_) => {}
        }
    }

    pub(crate) fn control_lost(&mut self, of: Generation, kind: LossKind, turn: &mut Turn<P>) {
        match self.state {
            State::Up { g, since, replacement } if g == of => {
                turn.report(Report::PathLost(g, kind));
                self.reassert(g, since, replacement.filter(|one| one.is_running()), How::Cookie, turn);
            }
            State::Idle
            | State::StayDown
            | State::Armed { .. }
            | State::Starting { .. }
            | State::Up { .. }
            | State::Reasserting { .. }
            | State::Stopping { .. }
            | State::Failed(_) => {}
        }
    }

    pub(crate) fn session_ended(&mut self, of: Generation, reason: EndReason, turn: &mut Turn<P>) {
        match self.state {
            // A gateway may end the old connection with such a word when the new one takes over.
            State::Up {
                g,
                since,
                replacement: Some(running @ Attempt::Running(how, _)),
            } if g == of => {
                turn.report(Report::PathLost(g, LossKind::Eof));
                self.reassert(g, since, Some(running), how, turn);
            }
            State::Up {
                g,
                since,
                replacement: Some(Attempt::Waiting(..)) | None,
            } if g == of => match reason {
                EndReason::AuthExpired => self.reassert(g, since, None, How::Login, turn),
                EndReason::UserStop
                | EndReason::Admin
                | EndReason::Replaced
                | EndReason::Fatal
                | EndReason::StayDown => {
                    self.bring_down(0, self.after(FailReason::Ended), reason, turn);
                }
            },
            State::Idle
            | State::StayDown
            | State::Armed { .. }
            | State::Starting { .. }
            | State::Up { .. }
            | State::Reasserting { .. }
            | State::Stopping { .. }
            | State::Failed(_) => {}
        }
    }

    /// What follows a failed attempt that is not final.
    fn again(
        &mut self,
        g: Generation,
        (how, trigger): (How, Trigger),
        (class, stage): (FailClass, Stage),
        turn: &mut Turn<P>,
    ) -> Attempt {
        self.give_back(class, trigger);
        if class == FailClass::CookieRefused && how == How::Cookie {
            self.unavailable = 0;
            return self.attempt(g, How::Login, Trigger::Retry, turn);
        }
        self.backoff.fail();
        self.unavailable = match class {
            FailClass::Unavailable => self.unavailable.saturating_add(1),
            FailClass::Offline => self.unavailable,
            FailClass::Network | FailClass::CookieRefused | FailClass::AuthRefused | FailClass::Fatal => 0,
        };
        let next = match (stage, class) {
            (Stage::Connect, FailClass::Offline | FailClass::Network | FailClass::Fatal) => How::Cookie,
            (Stage::Connect, FailClass::Unavailable) if self.unavailable < UNAVAILABLE_LIMIT => How::Cookie,
            (Stage::Connect, FailClass::Unavailable | FailClass::CookieRefused | FailClass::AuthRefused) => How::Login,
            (Stage::Granted, _) => How::Login,
            // Whoever could not even try the cookie still has it.
            (Stage::Login, _) => how,
        };
        if next == How::Login {
            self.unavailable = 0;
        }
        let delay = self.backoff.delay(turn.jitter);
        turn.report(Report::RetryIn(class, delay));
        Attempt::Waiting(next, turn.now.plus(delay))
    }

    /// From Up to Reasserting, where the `running` attempt goes on or one by `how` is waited for.
    fn reassert(&mut self, g: Generation, since: Awake, running: Option<Attempt>, how: How, turn: &mut Turn<P>) {
        if turn.now.since(since) >= STABLE_AFTER {
            self.backoff.reset();
        } else {
            self.backoff.fail();
        }
        let waiting = Attempt::Waiting(how, turn.now.plus(self.backoff.delay(turn.jitter)));
        let attempt = running.unwrap_or(waiting);
        let session = match attempt.how() {
            How::Cookie => Session::Kept,
            How::Login => {
                turn.report(Report::SessionEnd(g, EndReason::AuthExpired));
                Session::Over
            }
        };
        if let Some(cause) = Cause::of(self.mode()) {
            turn.report(Report::Suppressed(cause, None));
        }
        self.fell_silent(turn.now);
        self.state = State::Reasserting {
            g,
            attempt,
            session,
            lost: turn.now,
        };
    }
}
