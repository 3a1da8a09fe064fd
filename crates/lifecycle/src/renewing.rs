//! Connections that replace one which does its work: a person ordered it, or keys are old, or the host has moved.
//!
//! ```text
//!   up --Renew, Reconnect--> up, replacing --Connected--> up
//!            |  too soon, or over budget        | failed: the old one goes on; the next one waits
//!            +--> up, replacing in a while <----+ cookie refused: a login, as soon as the budget allows one
//! ```
//! Nobody waits for one in the background, so none is worth a flood: those by cookie wait as any attempt does, logins that fail
//! wait for a minute and longer, and after credentials that were refused there is none until a person orders it.

use std::time::Duration;

use now::Awake;

use crate::machine::{Shift, Turn};
use crate::{
    Attempt, Backoff, Effect, FailClass, Generation, How, Jitter, Machine, Mode, Proofs, Report, State, Trigger,
};

/// The wait after a login in the background that failed; it doubles from here. Its connection still stands, and whoever asks
/// for new keys asks once a minute.
const FIRST_LOGIN_WAIT: Duration = Duration::from_secs(60);

/// And ends here: keys are renewed hourly.
const LONGEST_LOGIN_WAIT: Duration = Duration::from_secs(3600);

/// What is known of connections in the background.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Renewals {
    /// By login, once the cookie was refused.
    how: How,
    /// No attempt before this. Another network ends it.
    attempts: Option<Fence>,
    /// No login before this.
    logins: Option<Fence>,
    /// None at all before this: that somebody uses the host was only concluded from the length of a wake.
    doubtful: Option<Fence>,
    failed_logins: Backoff,
    /// The gateway does not know these credentials.
    barred: bool,
}

/// A wait, and when it was begun.
#[derive(Clone, Copy, Debug)]
struct Fence {
    set: Awake,
    at: Awake,
}

impl Renewals {
    pub(crate) fn new() -> Self {
        Self {
            how: How::Cookie,
            attempts: None,
            logins: None,
            doubtful: None,
            failed_logins: Backoff::new(FIRST_LOGIN_WAIT, LONGEST_LOGIN_WAIT),
            barred: false,
        }
    }

    /// What failed on another network, or before a sleep, says nothing. What a gateway refused it refuses anywhere.
    pub(crate) fn try_sooner(&mut self) {
        self.attempts = None;
    }

    /// Whether somebody uses the host is not sure for another `wait`. A connection that is made meanwhile may be cut off by the next sleep,
    /// and would have to be made again; the old keys serve.
    pub(crate) fn doubt(&mut self, wait: Duration, now: Awake) {
        self.doubtful = Some(Fence {
            set: now,
            at: now.plus(wait),
        });
    }

    /// Somebody uses the host.
    pub(crate) fn certain(&mut self) {
        self.doubtful = None;
    }

    /// The earliest time for a connection by `how`.
    pub(crate) fn not_before(&self, how: How) -> Option<Awake> {
        let logins = match how {
            How::Login => self.logins,
            How::Cookie => None,
        };
        let fences = self.attempts.into_iter().chain(logins).chain(self.doubtful);
        fences.map(|fence| fence.at).max()
    }

    fn failed(&mut self, how: How, class: FailClass, delay: Duration, (now, jitter): (Awake, Jitter)) {
        let fence = |wait| {
            Some(Fence {
                set: now,
                at: now.plus(wait),
            })
        };
        match (how, class) {
            (How::Login, FailClass::Offline) | (How::Cookie, _) => self.attempts = fence(delay),
            (How::Login, _) => {
                self.failed_logins.fail();
                self.logins = fence(self.failed_logins.delay(jitter));
            }
        }
    }

    pub(crate) fn rebase(&mut self, shift: Shift) {
        let fences = self.attempts.iter_mut().chain(&mut self.logins);
        for fence in fences.chain(&mut self.doubtful) {
            fence.at = shift.deadline(fence.set, fence.at);
            fence.set = shift.since(fence.set);
        }
    }
}

impl<P: Proofs> Machine<P> {
    /// A connection in the background that takes the session over, when one may be made.
    pub(crate) fn renew(&mut self, of: Generation, turn: &mut Turn<P>) {
        match self.state {
            State::Up {
                g,
                since,
                replacement: None,
            } if g == of && !self.renewals.barred => {
                let replacement = self.replacement(g, self.renewals.how, turn);
                self.state = State::Up { g, since, replacement };
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

    /// Its time has come.
    pub(crate) fn replace_now(&mut self, turn: &mut Turn<P>) {
        if let State::Up {
            g,
            since,
            replacement: Some(Attempt::Waiting(how, _)),
        } = self.state
        {
            let replacement = self.replacement(g, how, turn);
            self.state = State::Up { g, since, replacement };
        }
    }

    /// None while the host is not fully awake: whoever asked asks again then.
    fn replacement(&mut self, g: Generation, how: How, turn: &mut Turn<P>) -> Option<Attempt> {
        let later = self.renewals.not_before(how).filter(|at| *at > turn.now);
        match (self.mode(), later) {
            (Mode::Awake, Some(at)) => Some(Attempt::Waiting(how, at)),
            (Mode::Awake, None) => Some(self.attempt(g, how, Trigger::Renewal, turn)),
            (Mode::Asleep | Mode::Maintenance | Mode::Unsure, _) => {
                self.attempt(g, how, Trigger::Renewal, turn);
                None
            }
        }
    }

    /// A person wants another connection.
    pub(crate) fn replace_for_user(&mut self, g: Generation, since: Awake, turn: &mut Turn<P>) {
        self.renewals = Renewals::new();
        let replacement = Some(self.attempt(g, How::Cookie, Trigger::User, turn));
        self.state = State::Up { g, since, replacement };
    }

    /// A replacement failed, and the old connection goes on.
    pub(crate) fn replacement_failed(
        &mut self,
        (g, since): (Generation, Awake),
        (how, trigger): (How, Trigger),
        class: FailClass,
        turn: &mut Turn<P>,
    ) {
        let replacement = match (class, how, trigger) {
            (FailClass::CookieRefused, How::Cookie, Trigger::User) => {
                turn.push(Effect::Connect {
                    g,
                    how: How::Login,
                    trigger,
                });
                Some(Attempt::Running(How::Login, trigger))
            }
            (FailClass::CookieRefused, How::Cookie, _) => {
                self.renewals.how = How::Login;
                self.replacement(g, How::Login, turn)
            }
            (_, _, trigger) => {
                turn.report(Report::ReconnectFailed(class));
                self.renewals.barred |= class == FailClass::AuthRefused;
                // What a person ordered is that person's to order again.
                if trigger != Trigger::User {
                    self.give_back(class, trigger);
                    self.backoff.fail();
                    let delay = self.backoff.delay(turn.jitter);
                    self.renewals.failed(how, class, delay, (turn.now, turn.jitter));
                }
                None
            }
        };
        self.state = State::Up { g, since, replacement };
    }

    /// What waits in the background is moved by a gap like everything else that waits.
    pub(crate) fn rebased_replacement(attempt: Attempt, shift: Shift, now: Awake) -> Attempt {
        let longest = now.plus(LONGEST_LOGIN_WAIT);
        match attempt {
            Attempt::Waiting(how, at) => Attempt::Waiting(how, at.plus(shift.by).min(longest.max(at))),
            Attempt::Running(..) => attempt,
        }
    }
}
