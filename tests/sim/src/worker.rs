//! The model worker: the daemon's background task, and the separate processes.

use std::rc::Rc;
use std::time::Duration;

use ledger::{Chore, Claim, HistoryEntry, JobId, Ledger, LedgerError, Work};
use lifecycle::{Input, Mode};

use crate::books::epoch_of;
use crate::broken::Promise;
use crate::disk::{SimDisk, SimLock};
use crate::planted::Planted;
use crate::process::{Process, Who};
use crate::tasks::{Kind, Next};
use crate::world::{Event, Workers, World};

/// How far it is.
#[derive(Default)]
enum Phase {
    #[default]
    Locking,
    Draining,
    Claiming,
    /// Between two chores of a job.
    Choosing,
    /// In the middle of one.
    Doing(Chore),
    Failing,
}

/// How often a worker that is held looks again, in microseconds.
const HELD_US: u64 = 1_000;

/// A worker.
#[derive(Default)]
pub(crate) struct Worker {
    phase: Phase,
    work: Option<Work<SimLock>>,
    claim: Option<Claim>,
}

/// How it ended.
enum Ending {
    /// Nothing was left.
    Idle,
    /// Somebody else has the lock.
    LockedOut,
    /// The disk failed.
    Failed,
    /// It was told to rest.
    Rested,
}

impl World {
    /// Starts the daemon's own worker, if that is how it is done here.
    pub(crate) fn housekeep(self: &Rc<Self>) {
        let stops = self.with(|daemon| daemon.stops.len());
        if stops != Some(0) {
            self.broke(Promise::L4ChoresLater, || {
                format!("housekeeping begins, {stops:?} stops wait")
            });
        }
        self.check_awake_chore();
        if self.mode() != Some(Mode::Awake) {
            self.broke(Promise::L4ChoresLater, || {
                format!("housekeeping begins while {:?}", self.mode())
            });
        }
        if self.workers == Workers::Units {
            return self.feed(Input::JobsDone);
        }
        let wanted = self.with(|daemon| {
            // One that was told to rest may still be at it.
            daemon.again = daemon.worker.is_some();
            (!daemon.again).then_some(daemon.process)
        });
        if let Some(process) = wanted.flatten() {
            let id = self.spawn(process, Kind::Work(Box::default()), 0);
            self.with(|daemon| {
                daemon.worker = Some(id);
                daemon.resting = false;
            });
        }
    }

    pub(crate) fn work(self: &Rc<Self>, process: Process, id: u32, worker: &mut Worker) -> Next {
        let resting = process.who == Who::Daemon && self.with(|daemon| daemon.resting) == Some(true);
        let held = process.who == Who::Daemon && self.with(|daemon| daemon.held) == Some(true);
        let step = if resting {
            self.rest(process, worker)
        } else if held {
            Ok(HELD_US)
        } else {
            self.work_step(process, worker)
        };
        if !self.is_alive(process) {
            return Next::Done;
        }
        match step {
            Ok(us) => Next::In(us),
            Err(ending) => {
                if let Some(claim) = &worker.claim {
                    self.leave(claim.job().id());
                }
                *worker = Worker::default();
                self.worker_ended(process, id, &ending);
                Next::Done
            }
        }
    }

    fn rest(self: &Rc<Self>, process: Process, worker: &mut Worker) -> Result<u64, Ending> {
        if let (Some(work), Some(claim)) = (&worker.work, worker.claim.take()) {
            let id = claim.job().id();
            self.leave(id);
            let result = self.ledger(process).requeue(work, claim);
            self.say(|| format!("{process} requeues {id}: {result:?}"));
        }
        Err(Ending::Rested)
    }

    /// One step; the time until the next, or the end.
    fn work_step(self: &Rc<Self>, process: Process, worker: &mut Worker) -> Result<u64, Ending> {
        let ledger = self.ledger(process);
        let now = self.now().wall;
        let failed = |error: LedgerError| {
            self.say(|| format!("{process}: {error}"));
            Ending::Failed
        };
        match std::mem::take(&mut worker.phase) {
            Phase::Locking => {
                let Some(lock) = ledger.lock_worker().map_err(failed)? else {
                    return Err(Ending::LockedOut);
                };
                self.counts.borrow_mut().workers += 1;
                let (work, recovered) = ledger.recover(lock, now).map_err(failed)?;
                self.say(|| format!("{process} has the lock: {recovered:?}"));
                self.counts.borrow_mut().recovered += u32::try_from(recovered.interrupted.len()).unwrap_or(0);
                worker.work = Some(work);
                worker.phase = Phase::Draining;
                Ok(100)
            }
            Phase::Draining => {
                if let Some(work) = &mut worker.work {
                    self.drainer(process).drain_waiting(work, now).map_err(failed)?;
                }
                worker.phase = Phase::Claiming;
                Ok(100)
            }
            Phase::Claiming => {
                let Some(work) = &mut worker.work else {
                    return Err(Ending::Failed);
                };
                let Some(claim) = ledger.claim(work).map_err(failed)? else {
                    return Err(Ending::Idle);
                };
                if self.is_alive(process) {
                    self.say(|| format!("{process} claims {}", claim.job().id()));
                    self.take_up(process, claim.job().id());
                }
                worker.claim = Some(claim);
                worker.phase = Phase::Choosing;
                Ok(100)
            }
            Phase::Choosing => self.choose(process, worker),
            Phase::Doing(chore) => self.finish_chore(process, worker, chore),
            Phase::Failing => {
                let (Some(work), Some(claim)) = (&worker.work, worker.claim.take()) else {
                    return Err(Ending::Failed);
                };
                let id = claim.job().id();
                self.leave(id);
                if self.has(Planted::FailureDropped) {
                    ledger.finish(work, claim, now).map_err(failed)?;
                } else {
                    let random = u16::try_from(self.chance.below(65_536)).unwrap_or(0);
                    let fate = ledger.fail(work, claim, "no", now, random).map_err(failed)?;
                    self.say(|| format!("{process} failed {id}: {fate:?}"));
                }
                worker.phase = Phase::Claiming;
                Ok(100)
            }
        }
    }

    fn drainer(self: &Rc<Self>, process: Process) -> Ledger<SimDisk> {
        let mut limits = self.limits;
        if self.has(Planted::WaitsNotShortened) {
            limits.retry_max = Duration::from_secs(100 * 365 * 24 * 3600);
        }
        Ledger::new(SimDisk::new(self, process), limits)
    }

    /// Begins the next chore, or finishes the job.
    fn choose(self: &Rc<Self>, process: Process, worker: &mut Worker) -> Result<u64, Ending> {
        let ledger = self.ledger(process);
        let (Some(work), Some(mut claim)) = (&worker.work, worker.claim.take()) else {
            return Err(Ending::Failed);
        };
        let id = claim.job().id();
        let next = claim.job().owed().next().cloned();
        let early = self.has(Planted::FinishBeforeDeed) && claim.job().owed().count() == 1;
        let Some(chore) = next.clone().filter(|_| !early) else {
            self.leave(id);
            let result = ledger.finish(work, claim, self.now().wall);
            if !self.is_alive(process) {
                return Err(Ending::Failed);
            }
            self.say(|| format!("{process} finishes {id}: {result:?}"));
            worker.phase = Phase::Claiming;
            if let Some(chore) = next {
                let _ = self.deed(process, id, None, &chore);
            }
            return result.map(|()| 100).map_err(|_| Ending::Failed);
        };
        self.check_chore(process, id, &chore);
        if self.has(Planted::DoneBeforeDeed) {
            let _ = ledger.progress(work, &mut claim, chore.word());
        }
        worker.claim = Some(claim);
        let calm = !self.is_stormy();
        let takes = match chore {
            Chore::Hooks if !calm => self.chance.pick(&[1_000, 100_000, 10_000_000]),
            Chore::Logout { .. } => 40_000,
            _ => 500,
        };
        worker.phase = Phase::Doing(chore);
        Ok(takes)
    }

    fn finish_chore(self: &Rc<Self>, process: Process, worker: &mut Worker, chore: Chore) -> Result<u64, Ending> {
        let ledger = self.ledger(process);
        let (Some(work), Some(claim)) = (&worker.work, &mut worker.claim) else {
            return Err(Ending::Failed);
        };
        let weather = self.weather.get();
        let trouble = self.is_stormy() && weather.chore_errors > 0 && self.chance.once_in(weather.chore_errors);
        let entry = HistoryEntry::from(&claim.job().record);
        if let (false, Chore::Prune) = (trouble, &chore) {
            match ledger.prune(work, self.now().wall) {
                Ok(pruned) => self.counts.borrow_mut().pruned += pruned.done,
                Err(_) => worker.phase = Phase::Failing,
            }
        }
        if let Phase::Failing = worker.phase {
            return Ok(100);
        }
        if trouble || self.deed(process, claim.job().id(), Some(&entry), &chore).is_err() {
            self.counts.borrow_mut().chores_failed += 1;
            worker.phase = Phase::Failing;
            return Ok(100);
        }
        self.counts.borrow_mut().chores += 1;
        // One that cannot be noted is noted in the claim, and goes to the disk with the next one.
        let noted = ledger.progress(work, claim, chore.word());
        self.say(|| format!("{process} has done {} of {}: {noted:?}", chore.word(), claim.job().id()));
        worker.phase = Phase::Choosing;
        Ok(100)
    }

    /// The effect of a chore on the world.
    fn deed(
        self: &Rc<Self>,
        process: Process,
        id: JobId,
        entry: Option<&HistoryEntry>,
        chore: &Chore,
    ) -> Result<(), LedgerError> {
        let at = self.books.borrow().find(id);
        match chore {
            Chore::Account => {
                let mut entry = entry.cloned();
                if let Some(entry) = entry.as_mut().filter(|_| self.has(Planted::HistoryAppended)) {
                    entry.id = JobId::new(entry.id.started_s(), self.chance.draw());
                }
                entry.map_or(Ok(()), |entry| self.ledger(process).history_write(&entry))?;
            }
            Chore::Logout { token, .. } => {
                let mut gateway = self.gateway.borrow_mut();
                if let Some(epoch) = epoch_of(token) {
                    let before = gateway.living(epoch.session);
                    if self.has(Planted::LogoutOfSession) {
                        gateway.end_session(epoch.session);
                    } else {
                        gateway.end(epoch);
                    }
                    let ended = before.filter(|before| *before != epoch && gateway.living(epoch.session).is_none());
                    if let Some(ended) = ended {
                        self.broke(Promise::L7WorkIsDone, || {
                            format!("the logout of {epoch:?} ended {ended:?}")
                        });
                    }
                }
                if let Some(at) = at {
                    self.books.borrow_mut().entries[at].logouts += 1;
                }
            }
            Chore::Hooks => {
                if let Some(at) = at {
                    self.books.borrow_mut().entries[at].hooks += 1;
                }
            }
            Chore::Upload | Chore::ReleaseLease | Chore::Forget | Chore::Prune => {}
        }
        Ok(())
    }

    fn check_chore(&self, process: Process, id: JobId, chore: &Chore) {
        if process.who != Who::Daemon {
            return;
        }
        let waiting = self.with(|daemon| daemon.stops.len()).unwrap_or(0);
        if waiting > 0 {
            self.broke(Promise::L4ChoresLater, || {
                format!("{} of {id} while {waiting} stops wait", chore.word())
            });
        }
        let books = self.books.borrow();
        let entry = books.find(id).map(|at| &books.entries[at]);
        if entry.is_some_and(|entry| entry.unacknowledged) {
            self.broke(Promise::L4ChoresLater, || {
                format!("{} of {id} before its stop is acknowledged", chore.word())
            });
        }
        self.check_awake_chore();
        if self.mode() != Some(Mode::Awake) {
            self.broke(Promise::L4ChoresLater, || {
                format!("{} of {id} while {:?}", chore.word(), self.mode())
            });
        }
    }

    fn take_up(&self, process: Process, id: JobId) {
        let mut books = self.books.borrow_mut();
        let Some(at) = books.find(id) else { return };
        let other = books.entries[at].at_work.replace(process);
        if let Some(other) = other {
            self.broke(Promise::L7WorkIsDone, || {
                format!("{process} and {other} both have job {id}")
            });
        }
    }

    fn leave(&self, id: JobId) {
        let mut books = self.books.borrow_mut();
        if let Some(at) = books.find(id) {
            books.entries[at].at_work = None;
        }
    }

    fn worker_ended(self: &Rc<Self>, process: Process, id: u32, ending: &Ending) {
        if let Ending::LockedOut = ending {
            self.counts.borrow_mut().locked_out += 1;
        }
        let pause = match ending {
            Ending::LockedOut => Some(1_000_000),
            Ending::Failed => Some(self.chance.between(1_000_000, 30_000_000)),
            Ending::Idle | Ending::Rested => None,
        };
        if process.who != Who::Daemon {
            // The path unit starts the next one at once if jobs are due, and the timer looks at the waiting ones.
            self.end(process);
            if let Some(pause) = pause {
                self.unit_comes.set(true);
                self.after(pause, Event::StartUnit(Who::Unit));
            }
            return;
        }
        let life = process.life;
        let facts = self.with(|daemon| {
            daemon.worker = daemon.worker.filter(|worker| *worker != id);
            let rested = std::mem::take(&mut daemon.resting);
            (rested, std::mem::take(&mut daemon.again))
        });
        let Some((rested, again)) = facts else { return };
        if again {
            let id = self.spawn(process, Kind::Work(Box::default()), 0);
            self.with(|daemon| daemon.worker = Some(id));
        } else if !rested {
            // A worker that was told to rest has nothing to say: the machine may have ordered another one since.
            self.feed(Input::JobsDone);
        }
        if let Some(pause) = pause {
            self.after(pause, Event::JobsDue { life });
        } else if let Ok(Some(next)) = self.ledger(process).next_time(self.now().wall) {
            let wait = next.since(self.now().wall).min(Duration::from_secs(3600));
            let us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
            self.after(us, Event::JobsDue { life });
        }
        if !self.is_alive(process) {
            return;
        }
        let kept_back = self.with(|daemon| daemon.kept_back.take()).flatten();
        if let Some(input) = kept_back {
            self.feed(input);
        }
    }

    /// The daemon's alarm: some waiting job's time has come.
    pub(crate) fn alarm(self: &Rc<Self>, life: u32) {
        if !self.is_life(life) {
            return;
        }
        self.feed(Input::JobsDue);
    }
}
