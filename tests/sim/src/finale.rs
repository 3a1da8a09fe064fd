//! The end of every schedule: faults end, and everything that was promised comes true.

use std::rc::Rc;

use ledger::Folder;
use lifecycle::{Input, MAINTENANCE_DOUBTED_AFTER, Mode, Origin, Rule, State, StopReason};

use crate::broken::Promise;
use crate::disk::number;
use crate::process::Who;
use crate::weather::Weather;
use crate::world::{Event, Workers, World};

/// Steps in which a calm world comes to rest. The longest ways seen take a third of it.
const STEPS_MAX: u32 = 600;

impl World {
    /// Runs a schedule from its beginning to its end.
    pub(crate) fn run(self: &Rc<Self>) {
        self.after(0, Event::StartDaemon);
        self.after(self.chance.below(500_000), Event::Fate);
        if self.demand.borrow().on {
            self.after(0, Event::Program);
        }
        while self.is_stormy() && self.step() {}
        self.weather.set(Weather::default());
        self.forget_fate();
        self.reach_the_wanted_state();
        self.go_down();
        self.work_everything_off();
        self.look_back();
    }

    /// Steps until it is so; false if it never is.
    fn until(self: &Rc<Self>, so: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..STEPS_MAX {
            if self.is_broken() || so(self) {
                return true;
            }
            if !self.step() {
                return so(self);
            }
        }
        false
    }

    /// Somebody uses the host from now on, and the machine finds out.
    fn be_awake(self: &Rc<Self>) {
        self.wake_for_good();
        self.until(|world| world.running(Who::Daemon).is_none() || world.is_ready());
        let us = u64::try_from(MAINTENANCE_DOUBTED_AFTER.as_micros()).unwrap_or(u64::MAX) + 1;
        let by = self.at.get() + us;
        self.after(us, Event::Calm);
        self.until(|world| matches!(world.mode(), Some(Mode::Awake) | None) || world.at.get() >= by);
        if let Some(mode @ (Mode::Asleep | Mode::Maintenance | Mode::Unsure)) = self.mode() {
            self.broke(Promise::L13NoPairs, || {
                format!("the host is in use for 120 s and taken for {mode}")
            });
        }
    }

    fn is_ready(&self) -> bool {
        self.with(|daemon| daemon.ready) == Some(true)
    }

    fn reach_the_wanted_state(self: &Rc<Self>) {
        self.say(|| "FAULTS END".to_owned());
        self.network(Rule::Connect);
        self.be_awake();
        // A process that is about to end is not what the wish was said to.
        let settled = |world: &Self| match world.state() {
            Some(State::Stopping { .. }) => false,
            Some(_) => world.is_ready(),
            None => false,
        };
        for _ in 0..3 {
            if self.running(Who::Daemon).is_none() {
                self.start_daemon();
            }
            if self.until(settled) {
                break;
            }
        }
        if !settled(self) && !self.is_broken() {
            return self.broke(Promise::L9WantedState, || {
                format!("it does not come to rest: {:?}", self.state())
            });
        }
        if !self.wanted.get() {
            let state = self.state();
            if !matches!(state, Some(State::Idle | State::Failed(_))) {
                self.broke(Promise::L9WantedState, || {
                    format!("it is wanted down, and is {state:?}")
                });
            }
            return;
        }
        for _ in 0..4 {
            match self.state() {
                None => self.start_daemon(),
                // It was refused for good, and a person has to say it again.
                Some(State::Failed(_) | State::Idle | State::StayDown) => {
                    self.feed(Input::Start { origin: Origin::User });
                }
                // The host may still be being set up, or be taken for asleep.
                Some(State::Armed { .. }) => {
                    let ready = |world: &Self| world.is_watched() && world.mode() == Some(Mode::Awake);
                    self.until(|world| ready(world) || !matches!(world.state(), Some(State::Armed { .. })));
                    self.packet();
                }
                Some(
                    State::Starting { .. } | State::Up { .. } | State::Reasserting { .. } | State::Stopping { .. },
                ) => {}
            }
            self.until(|world| {
                matches!(
                    world.state(),
                    Some(State::Up { .. } | State::Armed { .. } | State::Failed(_)) | None
                )
            });
        }
        if !matches!(self.state(), Some(State::Up { .. })) {
            self.broke(Promise::L9WantedState, || {
                format!("it is wanted up, and is {:?}", self.state())
            });
        }
    }

    fn go_down(self: &Rc<Self>) {
        if self.running(Who::Daemon).is_none() {
            self.start_daemon();
            self.until(Self::is_ready);
        }
        self.counts.borrow_mut().stops += 1;
        self.order_stop(StopReason::User, false);
        let down = |world: &Self| matches!(world.state(), Some(State::Idle | State::Failed(_)));
        let gone = |world: &Self| world.with(|daemon| daemon.instances.is_empty()) == Some(true);
        self.until(|world| down(world) && gone(world));
        if !down(self) || !gone(self) {
            self.broke(Promise::L9WantedState, || {
                format!("it is wanted down, and is {:?}", self.state())
            });
        }
        if let Some((mark, things)) = self.host.borrow().forgotten(None) {
            self.broke(Promise::L15CleanAfterStop, || {
                format!("all is over and {mark} has {things}")
            });
        }
    }

    fn work_everything_off(self: &Rc<Self>) {
        for _ in 0..3 {
            self.until(|world| world.unsettled().is_none());
            if self.is_broken() || self.unsettled().is_none() && !self.holds(Folder::Failed) {
                return;
            }
            self.retry_by_hand();
        }
        let folder = self.unsettled().unwrap_or(Folder::Failed);
        self.broke(Promise::L7WorkIsDone, || format!("{folder}/ still holds a job"));
    }

    fn holds(&self, folder: Folder) -> bool {
        self.disk.borrow().names(number(folder)).next().is_some()
    }

    /// A folder with a job that is neither done nor given up. A record that could not be removed when it was closed may
    /// stay until the next recovery, which knows that it is.
    fn unsettled(&self) -> Option<Folder> {
        let disk = self.disk.borrow();
        let closed = |name| {
            let mut settled = disk
                .names(number(Folder::Done))
                .chain(disk.names(number(Folder::Failed)));
            settled.any(|settled| settled == name)
        };
        if disk.names(number(Folder::Open)).any(|name| !closed(name)) {
            return Some(Folder::Open);
        }
        let folders = [Folder::Due, Folder::Running, Folder::Waiting];
        folders
            .into_iter()
            .find(|folder| disk.names(number(*folder)).next().is_some())
    }

    /// A person tries again what was given up.
    fn retry_by_hand(self: &Rc<Self>) {
        let observer = self.running(Who::Observer).unwrap_or_else(|| self.bear(Who::Observer));
        let ledger = self.ledger(observer);
        let summary = match ledger.summary() {
            Ok(summary) => summary,
            Err(error) => return self.broke(Promise::L7WorkIsDone, || error.to_string()),
        };
        for job in summary.jobs.iter().filter(|job| job.folder == Folder::Failed) {
            let tried = ledger.retry(job.id, self.now().wall);
            self.say(|| format!("retry of {}: {tried:?}", job.id));
        }
        if self.workers == Workers::Daemon {
            self.feed(Input::JobsDue);
        }
        self.check();
    }

    /// What was promised for each session, and what came of it.
    fn look_back(self: &Rc<Self>) {
        if self.is_broken() {
            return;
        }
        let observer = self.running(Who::Observer).unwrap_or_else(|| self.bear(Who::Observer));
        let history = match self.ledger(observer).history(100) {
            Ok(history) => history,
            Err(error) => return self.broke(Promise::L7WorkIsDone, || error.to_string()),
        };
        for name in &history.damaged {
            self.broke(Promise::L7WorkIsDone, || {
                format!("{name} of the history cannot be read")
            });
        }
        let books = self.books.borrow();
        for entry in &books.entries {
            let id = entry.record.id;
            let written: Vec<_> = history.entries.iter().filter(|written| written.id == id).collect();
            if !entry.is_promised() {
                continue;
            }
            let facts = written.first().map(|written| written.facts.bytes_in);
            if written.len() != 1 || entry.logouts == 0 || entry.hooks == 0 {
                let (logouts, hooks) = (entry.logouts, entry.hooks);
                self.broke(Promise::L7WorkIsDone, || {
                    format!(
                        "of {id}, {} accounts, {logouts} logouts and {hooks} runs of hooks",
                        written.len()
                    )
                });
            }
            if entry.receipt.is_some_and(|tag| tag != 0) && facts != entry.receipt {
                self.broke(Promise::L7WorkIsDone, || {
                    format!(
                        "of {id} the receipt is for {:?}, the history has {facts:?}",
                        entry.receipt
                    )
                });
            }
        }
        for written in &history.entries {
            if books.find(written.id).is_none() {
                self.broke(Promise::L7WorkIsDone, || {
                    format!("the history has {} and nobody had", written.id)
                });
            }
        }
    }
}
