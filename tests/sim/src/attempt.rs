//! An attempt to connect, as the shell makes it: dial, log in, make the record durable, and only then touch the host.

use std::rc::Rc;

use lifecycle::{FailClass, Generation, How, Input, Mode, Stage, Trigger};

use crate::broken::Promise;
use crate::gateway::Epoch;
use crate::host::{Mark, Things};
use crate::planted::Planted;
use crate::shell::Down;
use crate::tasks::Kind;
use crate::world::{Event, Stored, World};

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Dialling,
    /// The record is on its way to the disk.
    Writing,
    /// The host is being set up.
    Applying,
}

/// An attempt that runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    id: u32,
    g: Generation,
    mark: Mark,
    how: How,
    trigger: Trigger,
    progress: Progress,
    epoch: Option<Epoch>,
    /// The session's number in the books.
    pub(crate) record: Option<usize>,
}

impl World {
    pub(crate) fn connect(self: &Rc<Self>, g: Generation, how: How, trigger: Trigger) {
        self.check_connect(g, trigger);
        self.check_unasked(g, how, trigger);
        if self.mode() != Some(Mode::Awake) {
            self.broke(Promise::L5NoDialAsleep, || {
                format!("an attempt of {g} while {:?}", self.mode())
            });
        }
        let mark = self.mark(g);
        let id = self.next_number();
        let attempt = Attempt {
            id,
            g,
            mark,
            how,
            trigger,
            progress: Progress::Dialling,
            epoch: None,
            record: None,
        };
        let replaced = self.with(|daemon| (daemon.attempt.replace(attempt), daemon.process.life));
        let Some((other, life)) = replaced else { return };
        if let Some(other) = other {
            self.broke(Promise::L10OneForwards, || {
                format!("{other:?} runs, and {g} connects too")
            });
        }
        self.after(self.chance.between(1_000, 80_000), Event::Attempt { life, id });
    }

    pub(crate) fn abort(self: &Rc<Self>, g: Generation) {
        let aborted = self.with(|daemon| (daemon.attempt.take(), daemon.process));
        let Some((Some(attempt), process)) = aborted else {
            return;
        };
        let Attempt {
            mark, epoch, record, ..
        } = attempt;
        // What it got from the gateway is owed, and what is being written is the stop's to close.
        let second = self.with(|daemon| {
            let instance = daemon.instance(mark)?;
            instance.epoch = epoch.or(instance.epoch);
            match (instance.record, record) {
                (None, record) => {
                    instance.record = record;
                    None
                }
                (Some(first), Some(second)) if first != second => Some(second),
                (Some(_), _) => None,
            }
        });
        if let Some(second) = second.flatten() {
            self.spawn(process, Kind::close(second, None, "fatal"), 0);
        }
        // It is in the queue already when its generation is over: the fence is for that.
        let stopping = matches!(self.state(), Some(lifecycle::State::Stopping { .. }));
        if stopping && self.chance.once_in(2) {
            let up = self.chance.once_in(2);
            let life = process.life;
            self.after(self.chance.between(0, 400_000), Event::Late { life, g, up });
        }
    }

    pub(crate) fn late_result(self: &Rc<Self>, life: u32, g: Generation, up: bool) {
        if !self.is_life(life) {
            return;
        }
        self.feed(if up {
            Input::Connected(g)
        } else {
            Input::ConnectFailed {
                g,
                class: FailClass::Fatal,
                stage: Stage::Granted,
            }
        });
    }

    /// The attempt that an event is for, if it is still the one.
    fn attempt(&self, life: u32, id: u32) -> Option<Attempt> {
        if !self.is_life(life) {
            return None;
        }
        self.with(|daemon| daemon.attempt)
            .flatten()
            .filter(|attempt| attempt.id == id)
    }

    pub(crate) fn attempt_goes_on(self: &Rc<Self>, life: u32, id: u32) {
        let Some(attempt) = self.attempt(life, id) else { return };
        match attempt.progress {
            Progress::Dialling => self.dial(attempt, life),
            Progress::Writing => {}
            Progress::Applying => self.apply(attempt, life),
        }
    }

    fn fail_attempt(self: &Rc<Self>, g: Generation, class: FailClass, stage: Stage) {
        self.with(|daemon| daemon.attempt = None);
        self.feed(Input::ConnectFailed { g, class, stage });
    }

    fn dial(self: &Rc<Self>, mut attempt: Attempt, life: u32) {
        let Attempt { g, mark, how, .. } = attempt;
        let weather = self.weather.get();
        if self.is_stormy() && weather.gateway_errors > 0 && self.chance.once_in(8) {
            self.never_left(attempt.trigger);
            let stage = match how {
                How::Login => Stage::Login,
                How::Cookie => Stage::Connect,
            };
            return self.fail_attempt(g, FailClass::Offline, stage);
        }
        let trouble = self.is_stormy() && weather.gateway_errors > 0 && self.chance.once_in(weather.gateway_errors);
        if trouble && self.chance.once_in(2) {
            let class = self
                .chance
                .pick(&[FailClass::Network, FailClass::Network, FailClass::Unavailable]);
            return self.fail_attempt(g, class, Stage::Login);
        }
        let known = self
            .with(|daemon| daemon.instance(mark).map(|known| (known.epoch, known.record)))
            .flatten();
        let (old_epoch, old_record) = known.unwrap_or_default();
        let epoch = match (how, old_epoch) {
            (How::Cookie, Some(old)) => self.gateway.borrow_mut().resume(old.session),
            (How::Cookie, None) => None,
            (How::Login, _) => Some(self.gateway.borrow_mut().log_in()),
        };
        let Some(epoch) = epoch else {
            return self.fail_attempt(g, FailClass::CookieRefused, Stage::Connect);
        };
        if trouble && how == How::Login {
            let (class, stage) = self.chance.pick(&[
                (FailClass::Network, Stage::Connect),
                (FailClass::AuthRefused, Stage::Login),
                (FailClass::Fatal, Stage::Granted),
                (FailClass::Fatal, Stage::Login),
            ]);
            if stage == Stage::Connect {
                self.on(mark, |instance| instance.epoch = Some(epoch));
            } else {
                self.gateway.borrow_mut().end(epoch);
            }
            return self.fail_attempt(g, class, stage);
        }
        let same = old_epoch.is_some_and(|old| old.session == epoch.session);
        let record = match old_record.filter(|_| same) {
            Some(record) => {
                self.books.borrow_mut().renew(record, epoch);
                record
            }
            None => {
                let random = self.chance.draw();
                let stamp = self.stamp();
                self.books.borrow_mut().add(mark, epoch, g.number(), random, stamp)
            }
        };
        let change_first = self.has(Planted::UndoAfterChange);
        attempt.epoch = Some(epoch);
        attempt.record = Some(record);
        attempt.progress = if change_first {
            Progress::Applying
        } else {
            Progress::Writing
        };
        self.with(|daemon| daemon.attempt = Some(attempt));
        if change_first {
            self.after(0, Event::Attempt { life, id: attempt.id });
        } else {
            self.write(attempt);
        }
    }

    fn write(self: &Rc<Self>, attempt: Attempt) {
        let (Some(record), Some(process)) = (attempt.record, self.with(|daemon| daemon.process)) else {
            return;
        };
        let latency = self.chance.between(100, 3_000);
        let attempt = attempt.id;
        self.spawn(process, Kind::Open { attempt, record }, latency);
    }

    /// The record is durable, or the disk failed.
    pub(crate) fn opened(self: &Rc<Self>, life: u32, id: u32, record: usize, good: bool) {
        self.books.borrow_mut().entries[record].opened |= good;
        let Some(mut attempt) = self.attempt(life, id) else {
            return;
        };
        let Attempt { g, mark, .. } = attempt;
        if good && attempt.progress == Progress::Applying {
            return self.set_up(attempt);
        }
        if good {
            attempt.progress = Progress::Applying;
            self.with(|daemon| daemon.attempt = Some(attempt));
            return self.after(0, Event::Attempt { life, id });
        }
        let known = self.with(|daemon| {
            let instance = daemon.instance(mark)?;
            instance.epoch = attempt.epoch;
            Some((instance.record == Some(record), daemon.process))
        });
        let Some((same, process)) = known.flatten() else { return };
        if same {
            // The old record still says how to undo; the session waits.
            return self.fail_attempt(g, FailClass::Network, Stage::Connect);
        }
        // The start is refused: the undo record cannot be written. It may be there all the same.
        if let Some(epoch) = attempt.epoch {
            self.gateway.borrow_mut().end(epoch);
        }
        let kind = if self.chance.once_in(2) {
            Kind::Withdraw { record, mark: None }
        } else {
            Kind::close(record, None, "fatal")
        };
        self.spawn(process, kind, 0);
        self.fail_attempt(g, FailClass::Fatal, Stage::Granted);
    }

    fn apply(self: &Rc<Self>, attempt: Attempt, life: u32) {
        let Attempt { id, mark, .. } = attempt;
        let facts = self.with(|daemon| {
            let others = daemon.instances.iter().filter(|other| other.mark != mark);
            let in_the_way = others
                .into_iter()
                .any(|other| matches!(other.down, Down::Releasing { .. }));
            (in_the_way, daemon.instance(mark).map(|instance| instance.put))
        });
        let Some((in_the_way, Some(mut put))) = facts else {
            return;
        };
        if in_the_way {
            return self.after(200_000, Event::Attempt { life, id });
        }
        let until = if self.chance.once_in(2) {
            put + 2
        } else {
            Things::ALL.len()
        };
        while put < until.min(Things::ALL.len()) {
            self.host.borrow_mut().put(mark, Things::ALL[put]);
            put += 1;
        }
        self.on(mark, |instance| instance.put = put);
        if put < Things::ALL.len() {
            self.after(self.chance.between(100, 3_000), Event::Attempt { life, id });
        } else if self.has(Planted::UndoAfterChange) {
            self.write(attempt);
        } else {
            self.set_up(attempt);
        }
    }

    /// The host is set up: the new connection takes over.
    fn set_up(self: &Rc<Self>, attempt: Attempt) {
        let Attempt {
            g, mark, epoch, record, ..
        } = attempt;
        let replaced = self.with(|daemon| {
            daemon.attempt = None;
            let process = daemon.process;
            let instance = daemon.instance(mark)?;
            instance.epoch = epoch;
            instance.forwarding = true;
            let old = std::mem::replace(&mut instance.record, record);
            Some((old.filter(|old| Some(*old) != record), process))
        });
        let Some((old, process)) = replaced.flatten() else {
            return;
        };
        if let Some(old) = old {
            self.spawn(process, Kind::close(old, None, "auth_expired"), 0);
        }
        self.send_held(mark);
        self.forget_bare(mark);
        self.demand.borrow_mut().remembered = true;
        if let (true, Some(record)) = (self.can_store, record) {
            self.stored.set(Some(Stored { mark, record }));
        }
        self.was_heard();
        self.feed(Input::Connected(g));
    }
}
