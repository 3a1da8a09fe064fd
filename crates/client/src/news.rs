//! What watchers are told: the status, and events in the words of the API.

use api::{Event, Happening, Problem};
use lifecycle::{State, Then};

use crate::ClientError;
use crate::clock;
use crate::daemon;
use crate::shell::Shell;

impl Shell {
    /// Tells whoever watches.
    pub(crate) fn tell(&self, what: Happening) {
        let at_unix_ms = clock::millis(clock::now().wall.since_origin());
        let _ = self.counter.events.send(Event { at_unix_ms, what });
    }

    /// Says which tunnel this is, to whoever watches.
    pub(crate) fn introduce(&self) {
        let config = &self.setup.config;
        self.counter.status.send_modify(|status| {
            status.gateway = config.gateway.url.authority();
            status.user.clone_from(&config.login.user);
        });
    }

    /// Notes why something failed. It is told with the next change of the state, or at once if there is none.
    pub(crate) fn trouble(&mut self, error: ClientError) {
        let problem = Problem {
            message: error.to_string(),
            exit_code: error.exit_code(),
            at_unix_ms: wall_ms(),
            next_attempt_unix_ms: None,
        };
        self.failure = Some(error);
        self.counter.status.send_modify(|status| status.problem = Some(problem));
        self.news = true;
    }

    /// Changes what is known of the last failure, if there is one.
    pub(crate) fn problem_changed(&mut self, change: impl FnOnce(&mut Problem)) {
        self.counter.status.send_modify(|status| {
            if let Some(problem) = &mut status.problem {
                change(problem);
            }
        });
        self.news = true;
    }

    pub(crate) fn publish(&mut self) {
        let state = self.machine.state();
        let word = match state {
            // A tunnel is armed when somebody watches its device: before that, the old connection ends, or the host is set up.
            State::Armed { .. } if self.lookout.is_none() => {
                if self.pump.is_some() {
                    "up"
                } else {
                    "starting"
                }
            }
            State::Armed { .. }
            | State::Idle
            | State::StayDown
            | State::Starting { .. }
            | State::Up { .. }
            | State::Reasserting { .. }
            | State::Stopping { .. }
            | State::Failed(_) => self.machine.word(),
        };
        let generation = instance(state);
        let wanted = coming(state).is_some() || state == State::StayDown;
        let steered = self.host.steered();
        let changed = self.counter.status.send_if_modified(|status| {
            let changed = status.state != word || generation.is_some_and(|g| g != status.generation);
            if changed {
                status.state = word;
                status.since_unix_ms = wall_ms();
                status.generation = generation.unwrap_or(status.generation);
            }
            if let Some(steered) = steered {
                status.steered = steered;
            }
            std::mem::replace(&mut status.wanted, wanted) != wanted || changed
        });
        if changed || std::mem::take(&mut self.news) {
            let lockdown = self.host.gate().shown();
            let status = daemon::status(&self.setup.config.tunnel.name, &self.counter.status.borrow(), lockdown);
            self.tell(Happening::Status {
                status: Box::new(status),
            });
        }
    }
}

/// The instance that is up or coming up.
pub(crate) fn coming(state: State) -> Option<u64> {
    match state {
        State::Starting { g, .. } | State::Armed { g, .. } | State::Up { g, .. } | State::Reasserting { g, .. } => {
            Some(g.number())
        }
        State::Stopping { g, then, .. } => match then {
            Then::Start(_) => Some(g.next().number()),
            Then::Idle | Then::Fail(_) | Then::Exit(_) => None,
        },
        State::Idle | State::StayDown | State::Failed(_) => None,
    }
}

/// The instance that a state is about.
fn instance(state: State) -> Option<u64> {
    match state {
        State::Starting { g, .. }
        | State::Armed { g, .. }
        | State::Up { g, .. }
        | State::Reasserting { g, .. }
        | State::Stopping { g, .. } => Some(g.number()),
        State::Idle | State::StayDown | State::Failed(_) => None,
    }
}

fn wall_ms() -> u64 {
    clock::millis(clock::now().wall.since_origin())
}
