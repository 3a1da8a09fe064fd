//! What the processes do beside their loops: the look at what was left, the disk's work, and the workers.

use std::rc::Rc;

use ledger::{Damaged, End, Folder, LedgerError, OpenRecord, Owed};
use lifecycle::{Generation, Input, Origin};

use crate::books::mark_of;
use crate::broken::Promise;
use crate::host::{Mark, Things};
use crate::planted::Planted;
use crate::process::{Process, Who};
use crate::shell::{Down, Instance};
use crate::worker::Worker;
use crate::world::{Event, Stored, World};

/// Something under way in a process.
pub(crate) struct Task {
    pub(crate) id: u32,
    pub(crate) process: Process,
    /// None while it runs.
    kind: Option<Kind>,
    /// The record that it writes or removes.
    record: Option<usize>,
    /// It writes it to open/.
    opens: bool,
}

pub(crate) enum Kind {
    /// The first thing a daemon does.
    Boot,
    /// Looks again for records that could not be read at the start.
    Look,
    /// Makes the record of a session durable.
    Open { attempt: u32, record: usize },
    /// Makes a job of it.
    Close(Close),
    /// Makes the record of an armed tunnel durable.
    Arm { mark: Mark, record: usize },
    /// Takes back the record of a session that never came to life, or of an armed tunnel that must be released first.
    Withdraw { record: usize, mark: Option<Mark> },
    /// Tries again what was given up, because a person said so.
    Retry,
    /// Works off jobs.
    Work(Box<Worker>),
}

/// A record on its way from open/ to due/.
pub(crate) struct Close {
    record: usize,
    /// The instance that must be released first.
    mark: Option<Mark>,
    reason: &'static str,
}

impl Kind {
    pub(crate) fn close(record: usize, mark: Option<Mark>, reason: &'static str) -> Self {
        Self::Close(Close { record, mark, reason })
    }
}

/// What comes of a task.
pub(crate) enum Next {
    /// It goes on after this many microseconds.
    In(u64),
    Done,
}

impl World {
    pub(crate) fn spawn(&self, process: Process, kind: Kind, after: u64) -> u32 {
        let id = self.next_number();
        let (record, opens) = match &kind {
            Kind::Open { record, .. } | Kind::Arm { record, .. } => (Some(*record), true),
            Kind::Close(Close { record, .. }) | Kind::Withdraw { record, .. } => (Some(*record), false),
            Kind::Boot | Kind::Look | Kind::Retry | Kind::Work(_) => (None, false),
        };
        self.tasks.borrow_mut().push(Task {
            id,
            process,
            kind: Some(kind),
            record,
            opens,
        });
        self.after(after, Event::Task(id));
        id
    }

    pub(crate) fn run_task(self: &Rc<Self>, id: u32) {
        let taken = {
            let mut tasks = self.tasks.borrow_mut();
            let task = tasks.iter_mut().find(|task| task.id == id);
            task.and_then(|task| Some((task.process, task.kind.take()?)))
        };
        let Some((process, mut kind)) = taken else { return };
        let next = match &mut kind {
            Kind::Boot => self.boot(process),
            Kind::Look => self.look_again(process),
            Kind::Open { attempt, record } => self.open(process, id, *attempt, *record),
            Kind::Close(close) => self.close(process, close),
            Kind::Arm { mark, record } => self.write_arm(process, *mark, *record),
            Kind::Withdraw { record, mark } => self.withdraw(process, *record, *mark),
            Kind::Retry => self.retry(process),
            Kind::Work(worker) => self.work(process, id, worker),
        };
        // A process that died took its tasks along.
        let mut tasks = self.tasks.borrow_mut();
        let Some(at) = tasks.iter().position(|task| task.id == id) else {
            drop(tasks);
            drop(kind);
            return;
        };
        match next {
            Next::In(us) => {
                tasks[at].kind = Some(kind);
                self.after(us, Event::Task(id));
            }
            Next::Done => drop(tasks.swap_remove(at)),
        }
    }

    fn open(self: &Rc<Self>, process: Process, id: u32, attempt: u32, record: usize) -> Next {
        // One record has one temporary file: what an aborted attempt is still writing comes to its end first.
        let others = |task: &Task| task.id != id && task.opens && task.record == Some(record) && task.kind.is_none();
        if self.tasks.borrow().iter().any(others) {
            return Next::In(10_000);
        }
        let open = self.books.borrow().entries[record].record.clone();
        let result = self.ledger(process).open(&open);
        if self.is_alive(process) {
            self.say(|| format!("open {}: {result:?}", open.id));
            self.opened(process.life, attempt, record, result.is_ok());
        }
        Next::Done
    }

    fn close(self: &Rc<Self>, process: Process, close: &mut Close) -> Next {
        let Close { record, mark, reason } = *close;
        let opening = self
            .tasks
            .borrow()
            .iter()
            .any(|task| task.opens && task.record == Some(record));
        // The record says how to clean the host until it is clean; and one that is being written would come back.
        if opening || self.is_releasing(mark) && !self.has(Planted::AckBeforeRelease) {
            return Next::In(500_000);
        }
        let tag = record as u64 + 1;
        let mut closed = self.books.borrow().entries[record].record.clone();
        if reason != "crash" {
            closed.undo = None;
            closed.facts.bytes_in = tag;
        }
        let id = closed.id;
        let result = self.ledger(process).close(closed, End::new(self.stamp(), reason));
        if !self.is_alive(process) {
            return Next::Done;
        }
        self.say(|| format!("close {id}: {result:?}"));
        let receipt = match result {
            Ok(receipt) => receipt,
            Err(_) if self.has(Planted::CloseNotRetried) => {
                self.answer_close(mark, Owed::DiskTooSlow("the disk failed".to_owned()), true);
                return Next::Done;
            }
            // Whether it still has to be closed is known to the disk: a worker may have found its job, and be done with it.
            Err(_) if reason == "crash" => {
                self.spawn(process, Kind::Look, 5_000_000);
                return Next::Done;
            }
            Err(error) => {
                if self.chance.once_in(2) {
                    self.answer_close(mark, Owed::DiskTooSlow(error.to_string()), true);
                }
                return Next::In(self.chance.pick(&[10_000, 200_000, 5_000_000]));
            }
        };
        self.counts.borrow_mut().jobs += 1;
        self.counts.borrow_mut().crash_jobs += u32::from(reason == "crash");
        let promise = if reason == "crash" { 0 } else { tag };
        self.books.borrow_mut().entries[record].receipt.get_or_insert(promise);
        self.answer_close(mark, Owed::Recorded(receipt), false);
        self.feed(Input::JobsDue);
        Next::Done
    }

    fn write_arm(self: &Rc<Self>, process: Process, mark: Mark, record: usize) -> Next {
        let open = self.books.borrow().entries[record].record.clone();
        let result = self.ledger(process).open(&open);
        if self.is_alive(process) {
            self.say(|| format!("open {} without a session: {result:?}", open.id));
            self.arm_written(process.life, mark, record, result.is_ok());
        }
        Next::Done
    }

    fn is_releasing(&self, mark: Option<Mark>) -> bool {
        let releasing = |daemon: &mut crate::shell::Daemon| {
            let instance = mark.and_then(|mark| daemon.instance(mark));
            instance.is_some_and(|instance| matches!(instance.down, Down::Releasing { .. }))
        };
        self.with(releasing) == Some(true)
    }

    fn withdraw(self: &Rc<Self>, process: Process, record: usize, mark: Option<Mark>) -> Next {
        let opening = self
            .tasks
            .borrow()
            .iter()
            .any(|task| task.opens && task.record == Some(record));
        if mark.is_some() && (opening || self.is_releasing(mark)) {
            return Next::In(500_000);
        }
        let id = self.books.borrow().entries[record].record.id;
        self.books.borrow_mut().entries[record].withdrawn = true;
        let result = self.ledger(process).withdraw(id);
        self.say(|| format!("withdraw {id}: {result:?}"));
        if result.is_err() {
            return Next::In(1_000_000);
        }
        self.counts.borrow_mut().withdrawn += 1;
        Next::Done
    }

    fn retry(self: &Rc<Self>, process: Process) -> Next {
        let ledger = self.ledger(process);
        let Ok(summary) = ledger.summary() else {
            return Next::Done;
        };
        for job in &summary.jobs {
            if matches!(job.folder, Folder::Failed | Folder::Waiting) {
                let tried = ledger.retry(job.id, self.now().wall);
                self.say(|| format!("retry of {}: {tried:?}", job.id));
            }
        }
        if self.is_alive(process) {
            self.feed(Input::JobsDue);
        }
        Next::Done
    }

    fn answer_close(self: &Rc<Self>, mark: Option<Mark>, owed: Owed, failed: bool) {
        let Some(mark) = mark else { return };
        self.on(mark, |instance| instance.disk_failed |= failed);
        self.recorded(mark, owed);
    }

    /// The first thing a daemon does: undo what the process before left on the host, or take it over.
    fn boot(self: &Rc<Self>, process: Process) -> Next {
        let found = self.ledger(process).opens();
        if !self.is_alive(process) {
            return Next::Done;
        }
        let (records, damaged) = match found {
            Ok(found) => found,
            Err(error) => {
                self.say(|| format!("open records: {error}"));
                return Next::In(self.chance.between(50_000, 1_000_000));
            }
        };
        let adopted = match self.to_adopt(process, &records) {
            Ok(adopted) => adopted,
            Err(error) => {
                self.say(|| format!("is it closed? {error}"));
                return Next::In(self.chance.between(50_000, 1_000_000));
            }
        };
        if !self.is_alive(process) {
            return Next::Done;
        }
        let kept = adopted.map(|stored| stored.mark);
        if let Some(stored) = self.stored.get().filter(|_| adopted.is_none()) {
            self.host.borrow_mut().take(stored.mark, Things::LINK);
            self.stored.set(None);
        }
        if !damaged.is_empty() {
            // What they put on the host is found by the slot.
            self.host.borrow_mut().sweep(kept);
        }
        let mut left = Vec::new();
        for record in records {
            let weather = self.weather.get();
            if weather.crashes > 0 && self.is_stormy() && self.chance.once_in(weather.crashes) {
                self.crash(process);
                return Next::Done;
            }
            let mark = mark_of(&record);
            if let Some(mark) = mark.filter(|mark| Some(*mark) != kept && !self.has(Planted::UndoForgotten)) {
                Things::ALL
                    .iter()
                    .for_each(|thing| self.host.borrow_mut().take(mark, *thing));
            }
            let Some(at) = self.books.borrow().find(record.id) else {
                continue;
            };
            // Another record of the instance that is taken over, of an attempt that came to nothing: there is nothing to
            // undo for it, but something to do.
            if adopted.is_none_or(|stored| stored.record != at) {
                left.push(at);
            }
            self.books.borrow_mut().entries[at].record = record;
        }
        if let Some((mark, things)) = self.host.borrow().forgotten(kept) {
            self.broke(Promise::L11CleanAfterCrash, || {
                format!("{process} is ready and {mark} has {things}")
            });
        }
        for record in left {
            self.spawn(process, self.close_left(record), 0);
        }
        self.if_unread(process, &damaged);
        self.with(|daemon| {
            daemon.ready = true;
            if let Some(stored) = adopted {
                let epoch = self.books.borrow().entries[stored.record].epoch;
                let mut instance = Instance::new(Generation::FIRST, stored.mark);
                instance.epoch = Some(epoch);
                instance.record = Some(stored.record);
                // What is on the host is looked at again, for the process before may have died while releasing it.
                daemon.instances.push(instance);
            }
        });
        self.say(|| format!("{process} is ready, adopted: {adopted:?}"));
        self.desired.set(self.wanted.get());
        self.look();
        if self.demand.borrow().on {
            let rule = self.demand.borrow().rule;
            self.feed(Input::NetworkRule(rule));
        }
        if adopted.is_some() {
            self.went_silent();
            self.feed(Input::Start {
                origin: Origin::Restore,
            });
        } else if self.wanted.get() {
            self.feed(Input::Start { origin: Origin::Boot });
        }
        self.feed(Input::JobsDue);
        Next::Done
    }

    /// What the manager keeps, if it is to go on: the tunnel is wanted, and its session has a record and was not closed.
    fn to_adopt(self: &Rc<Self>, process: Process, records: &[OpenRecord]) -> Result<Option<Stored>, LedgerError> {
        let forgetful = self.has(Planted::StopForgotten) || self.has(Planted::ClosedAdopted);
        let Some(stored) = self.stored.get().filter(|_| self.desired.get() || forgetful) else {
            return Ok(None);
        };
        let id = self.books.borrow().entries[stored.record].record.id;
        let ours = |record: &OpenRecord| record.id == id && mark_of(record) == Some(stored.mark);
        if !records.iter().any(ours) {
            return Ok(None);
        }
        let closed = !self.has(Planted::ClosedAdopted) && self.ledger(process).is_closed(id)?;
        // A stop may have come while the disk was asked.
        Ok(Some(stored).filter(|_| !closed && (self.desired.get() || forgetful)))
    }

    fn if_unread(self: &Rc<Self>, process: Process, damaged: &[Damaged]) {
        if damaged.iter().any(|damaged| damaged.kept_as.is_none()) {
            self.spawn(process, Kind::Look, 5_000_000);
        }
    }

    /// Records that could not be read at the start; the sessions of this process are not among them.
    fn look_again(self: &Rc<Self>, process: Process) -> Next {
        let found = self.ledger(process).opens();
        if !self.is_alive(process) {
            return Next::Done;
        }
        let Ok((records, damaged)) = found else {
            return Next::In(5_000_000);
        };
        for record in records {
            let Some(at) = self.books.borrow().find(record.id) else {
                continue;
            };
            let known = self.tasks.borrow().iter().any(|task| task.record == Some(at));
            if self.with(|daemon| daemon.holds(at)) == Some(false) && !known {
                self.books.borrow_mut().entries[at].record = record;
                self.spawn(process, self.close_left(at), 0);
            }
        }
        self.if_unread(process, &damaged);
        Next::Done
    }

    /// Of an armed tunnel nothing is owed when the host is clean.
    fn close_left(&self, record: usize) -> Kind {
        if self.books.borrow().entries[record].bare {
            Kind::Withdraw { record, mark: None }
        } else {
            Kind::close(record, None, "crash")
        }
    }

    pub(crate) fn start_unit(self: &Rc<Self>, who: Who) {
        if self.running(who).is_none() {
            let process = self.bear(who);
            self.say(|| format!("{process} starts"));
            self.spawn(process, Kind::Work(Box::default()), 0);
        }
    }
}
