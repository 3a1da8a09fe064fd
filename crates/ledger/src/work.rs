//! What a worker does: claim a job, note what is done of it, and let go of it.

use std::time::Duration;

use now::Wall;

use crate::record::{clip, from_ms, to_ms};
use crate::recover::stays;
use crate::steps::{Look, trouble};
use crate::{Disk, DiskError, FileName, Folder, Job, JobId, Ledger, LedgerError, Work};

/// Failures before which no job is given up for its age alone. A host that was off, or whose clock was wrong when the session
/// ended, finds a job late that was never tried; and the first attempts may come before the network does.
const MIN_TRIES: u32 = 3;

/// A job in the hands of the worker. Given back by [`Ledger::finish`], [`Ledger::fail`] or [`Ledger::requeue`]; one that is
/// dropped stays in running/ until the next recovery.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim {
    job: Job,
}

impl Claim {
    /// The job.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Notes that a chore need not be done again, durable with the next step that is. For chores whose repetition after a
    /// crash has no effect: noting costs nothing, [`Ledger::progress`] two waits for the disk.
    pub fn note(&mut self, word: impl Into<String>) {
        let word = word.into();
        if !self.job.has_done(&word) {
            self.job.done.push(word);
        }
    }

    /// Which attempt this is: 1 for the first.
    pub fn attempt(&self) -> u32 {
        self.job.attempts.saturating_add(1)
    }
}

/// What became of a job that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is tried again at this time.
    Waiting(Wall),
    /// It is in failed/, until somebody tries it again by hand.
    GivenUp,
}

impl<D: Disk> Ledger<D> {
    /// Claims the oldest job that is due; none if nothing is. Files that are not jobs are moved to failed/ on the way;
    /// [`Work::take_damaged`] names them. What cannot be moved stays, and holds up no other.
    ///
    /// # Errors
    /// The disk's. A job that cannot be read for the disk's fault stays in running/ until the next recovery.
    pub fn claim(&self, work: &mut Work<D::Lock>) -> Result<Option<Claim>, LedgerError> {
        if work.queue.is_empty() {
            work.queue = self.names(Folder::Due)?.into();
        }
        while let Some(name) = work.queue.pop_front() {
            if JobId::of_file(&name).is_none() {
                let file = self.set_aside(Folder::Due, &name, "not the name of a job");
                work.come_upon(file);
                continue;
            }
            match self.shift(&name, Folder::Due, Folder::Running) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) if error.is_of_one_file() => {
                    work.come_upon(stays(Folder::Due, &name, &error));
                    continue;
                }
                Err(error) => return Err(error),
            }
            if self.is_done(&name)? {
                self.remove(Folder::Running, &name)?;
                continue;
            }
            match self.look::<Job>(Folder::Running, &name)? {
                Look::Good(job) => return Ok(Some(Claim { job })),
                Look::Bad(damage) => work.come_upon(self.set_aside(Folder::Running, &name, damage)),
                Look::Gone => {}
            }
        }
        Ok(None)
    }

    /// Whether due/ holds nothing but jobs, once none is claimed any more. A service manager that starts a worker whenever the
    /// folder is not empty would start one after the other.
    ///
    /// # Errors
    /// [`LedgerError::Stuck`] names what can be neither claimed nor moved away; or the disk's.
    pub fn check_due(&self, work: &Work<D::Lock>) -> Result<(), LedgerError> {
        let failed = |error| LedgerError::Disk {
            what: "list the files".to_owned(),
            folder: Folder::Due,
            error,
        };
        let nameless = self.disk.nameless(Folder::Due).map_err(failed)?;
        let mut names = self.names(Folder::Due)?;
        names.retain(|name| work.left.contains(name));
        if names.is_empty() && nameless == 0 {
            return Ok(());
        }
        Err(LedgerError::Stuck { names, nameless })
    }

    /// Notes that a chore, or a part of one, need not be done again. Durable when it returns.
    ///
    /// # Errors
    /// The disk's, or a record that is too large; it is noted in the claim all the same.
    pub fn progress(
        &self,
        _work: &Work<D::Lock>,
        claim: &mut Claim,
        word: impl Into<String>,
    ) -> Result<(), LedgerError> {
        let word = word.into();
        if claim.job.has_done(&word) {
            return Ok(());
        }
        claim.job.done.push(word);
        self.put(Folder::Running, &claim.job.id().file_name(), &claim.job)
    }

    /// Makes durable what was noted. To be called before the first thing that should not be done twice: on a disk that takes
    /// nothing it would never be known as done.
    ///
    /// # Errors
    /// The disk's, or a record that is too large.
    pub fn save(&self, _work: &Work<D::Lock>, claim: &Claim) -> Result<(), LedgerError> {
        self.put(Folder::Running, &claim.job.id().file_name(), &claim.job)
    }

    /// Everything is done: the job never runs again. Durable when it returns.
    ///
    /// # Errors
    /// The disk's. The job may run again, without the chores noted as done.
    pub fn finish(&self, _work: &Work<D::Lock>, claim: Claim, now: Wall) -> Result<(), LedgerError> {
        let mut job = claim.job;
        job.settled_ms = Some(to_ms(now));
        job.last_error = None;
        self.advance(&job, Folder::Done)
    }

    /// A chore failed: the job waits, longer each time, or is given up when its attempts or its time are used up. `random`
    /// spreads the waits.
    ///
    /// # Errors
    /// The disk's. The job stays in running/ until the next recovery.
    pub fn fail(
        &self,
        _work: &Work<D::Lock>,
        claim: Claim,
        error: impl Into<String>,
        now: Wall,
        random: u16,
    ) -> Result<Fate, LedgerError> {
        let mut job = claim.job;
        job.attempts = job.attempts.saturating_add(1);
        job.last_error = Some(clip(error.into()));
        // A clock that was set back must not make the deadline later than it was ever meant to be.
        job.deadline_ms = job.deadline_ms.min(to_ms(now.plus(self.limits.give_up_after)));
        let late = now >= from_ms(job.deadline_ms) && job.attempts >= MIN_TRIES;
        if job.attempts >= self.limits.attempts || late {
            job.settled_ms = Some(to_ms(now));
            self.advance(&job, Folder::Failed)?;
            return Ok(Fate::GivenUp);
        }
        job.settled_ms = None;
        let until = now.plus(self.limits.wait(job.attempts, random).max(Duration::from_millis(1)));
        job.not_before_ms = Some(to_ms(until));
        self.advance(&job, Folder::Waiting)?;
        Ok(Fate::Waiting(from_ms(to_ms(until))))
    }

    /// The job was interrupted by a stop: it is due again, and nothing is counted. Durable when it returns.
    ///
    /// # Errors
    /// The disk's. The job stays in running/ until the next recovery.
    pub fn requeue(&self, _work: &Work<D::Lock>, claim: Claim) -> Result<(), LedgerError> {
        self.back(claim.job.id(), Folder::Running).map(drop)
    }

    /// As [`Ledger::requeue`], for a job whose claim [`Ledger::finish`] or [`Ledger::fail`] took without being able to settle it:
    /// that the disk takes nothing is no fault of the job's. If it was settled nearly, the next recovery knows.
    ///
    /// # Errors
    /// The disk's. The job stays in running/ until the next recovery.
    pub fn release(&self, _work: &Work<D::Lock>, id: JobId) -> Result<(), LedgerError> {
        self.back(id, Folder::Running).map(drop)
    }

    /// Makes the waiting jobs due whose time has come, and says how many. A wait that is longer than any can be comes from
    /// a wall clock that was set back, and is shortened to the longest. Files that are no jobs are moved to failed/;
    /// [`Work::take_damaged`] names them.
    ///
    /// # Errors
    /// The disk's. Jobs not reached wait on.
    pub fn drain_waiting(&self, work: &mut Work<D::Lock>, now: Wall) -> Result<u32, LedgerError> {
        let mut drained = 0;
        for name in self.names(Folder::Waiting)? {
            let mut job = match self.look::<Job>(Folder::Waiting, &name) {
                Ok(Look::Good(job)) => job,
                Ok(Look::Bad(damage)) => {
                    work.come_upon(self.set_aside(Folder::Waiting, &name, damage));
                    continue;
                }
                // One that the disk does not give is named in the summary, and holds up no other.
                Ok(Look::Gone) | Err(_) => continue,
            };
            let wanted = from_ms(job.not_before_ms.unwrap_or(0));
            let until = self.limits.clamp(wanted, now);
            if until <= now {
                drained += u32::from(self.back(job.id(), Folder::Waiting)?);
            } else if until < wanted {
                job.not_before_ms = Some(to_ms(until));
                self.put(Folder::Waiting, &name, &job)?;
            }
        }
        Ok(drained)
    }

    /// When the next waiting job becomes due; none if none waits.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn next_time(&self, now: Wall) -> Result<Option<Wall>, LedgerError> {
        let mut next = None;
        for name in self.names(Folder::Waiting)? {
            if let Ok(Look::Good(job)) = self.look::<Job>(Folder::Waiting, &name) {
                let until = self.limits.clamp(from_ms(job.not_before_ms.unwrap_or(0)), now);
                next = Some(next.map_or(until, |next: Wall| next.min(until)));
            }
        }
        Ok(next)
    }

    /// Makes a job that waits or was given up due at once. One that was given up gets all its attempts and its time anew.
    ///
    /// # Errors
    /// There is no such job, or it cannot be read; or the disk's.
    pub fn retry(&self, id: JobId, now: Wall) -> Result<(), LedgerError> {
        if self.back(id, Folder::Waiting)? {
            return Ok(());
        }
        let name = id.file_name();
        let mut job = match self.look::<Job>(Folder::Failed, &name)? {
            Look::Good(job) => job,
            Look::Gone => return Err(LedgerError::NoSuchJob(id)),
            Look::Bad(damage) => return Err(LedgerError::Damaged { id, damage }),
        };
        job.attempts = 0;
        job.interrupted = 0;
        job.not_before_ms = None;
        // Settled anew, or a worker that prunes meanwhile could find it too old.
        job.settled_ms = Some(to_ms(now));
        job.deadline_ms = to_ms(now.plus(self.limits.give_up_after));
        // First the new count where the job lies, then one rename: at no time could a worker see it twice.
        self.put(Folder::Failed, &name, &job)?;
        match self.back(id, Folder::Failed)? {
            true => Ok(()),
            false => Err(LedgerError::NoSuchJob(id)),
        }
    }

    /// Whether a job was done before: somebody who tried it again by hand at the wrong moment may have left a copy.
    pub(crate) fn is_done(&self, name: &FileName) -> Result<bool, LedgerError> {
        match self.disk.read(Folder::Done, name) {
            Ok(_) | Err(DiskError::Foreign) => Ok(true),
            Err(DiskError::NotFound) => Ok(false),
            Err(error) => Err(trouble("read", Folder::Done, name)(error)),
        }
    }

    /// Moves a job on to where it counts more: if both copies survive a crash, the new one is the one that stays.
    fn advance(&self, job: &Job, to: Folder) -> Result<(), LedgerError> {
        let name = job.id().file_name();
        self.put(to, &name, job)?;
        self.remove(Folder::Running, &name)
    }

    /// Moves a job back to due/, and waits until it cannot be found in the old folder again: there it would count more.
    fn back(&self, id: JobId, from: Folder) -> Result<bool, LedgerError> {
        let moved = self.shift(&id.file_name(), from, Folder::Due)?;
        if moved {
            self.sync(Folder::Due)?;
            self.sync(from)?;
        }
        Ok(moved)
    }
}
