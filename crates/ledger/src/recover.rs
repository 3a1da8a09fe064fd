//! The first thing a worker does: look at what the one before left.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use now::Wall;

use crate::record::to_ms;
use crate::steps::Look;
use crate::{Damaged, Disk, FileName, Folder, Job, JobId, Ledger, LedgerError};

/// The proof that the worker lock is held and that recovery was done. The lock is given back when this is dropped.
#[derive(Debug)]
pub struct Work<L> {
    lock: L,
    pub(crate) queue: VecDeque<FileName>,
    pub(crate) damaged: Vec<Damaged>,
    /// What claims could not move out of due/.
    pub(crate) left: BTreeSet<FileName>,
}

impl<L> Work<L> {
    /// The worker lock.
    pub fn lock(&self) -> &L {
        &self.lock
    }

    /// Files that claims, and drains of waiting/, came upon since the last call, and that are no jobs.
    pub fn take_damaged(&mut self) -> Vec<Damaged> {
        std::mem::take(&mut self.damaged)
    }

    /// Notes what is no job, once if it stays.
    pub(crate) fn come_upon(&mut self, file: Damaged) {
        let stays = file.folder == Folder::Due && file.kept_as.is_none();
        if !stays || self.left.insert(file.name.clone()) {
            self.damaged.push(file);
        }
    }
}

/// What recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Jobs that ran when their worker ended; they are due again.
    pub interrupted: Vec<JobId>,
    /// Jobs that were in the hands of a worker that ended too often; they are in failed/ now.
    pub given_up: Vec<JobId>,
    /// Copies that crashes left, and that are removed now.
    pub copies: u32,
    /// Files that are not readable as what they should be.
    pub damaged: Vec<Damaged>,
}

/// Where jobs lie, most final first: of several copies of one job, the first counts.
const PRECEDENCE: [Folder; 6] = [
    Folder::Done,
    Folder::Failed,
    Folder::Waiting,
    Folder::Running,
    Folder::Due,
    Folder::Open,
];

impl<D: Disk> Ledger<D> {
    /// Takes the worker lock without waiting; `None` while somebody else works on this ledger.
    ///
    /// # Errors
    /// The disk's.
    pub fn lock_worker(&self) -> Result<Option<D::Lock>, LedgerError> {
        self.disk.lock_worker().map_err(LedgerError::Lock)
    }

    /// Puts in order what crashes and ended workers left: temporary files are removed, of several copies of a job the most
    /// final stays, what ran is due again, and files that are not jobs are moved to failed/ unchanged. Records of sessions
    /// that may be alive are left alone.
    ///
    /// # Errors
    /// The disk's. Recovery can be tried again at any point.
    pub fn recover(&self, lock: D::Lock, now: Wall) -> Result<(Work<D::Lock>, Recovered), LedgerError> {
        let mut found = Recovered::default();
        let mut places: BTreeMap<JobId, Vec<Folder>> = BTreeMap::new();
        for folder in Folder::ALL {
            self.sweep(folder)?;
        }
        for folder in PRECEDENCE {
            for name in self.names(folder)? {
                match JobId::of_file(&name) {
                    Some(id) => places.entry(id).or_default().push(folder),
                    None if folder == Folder::Failed => {}
                    None => found
                        .damaged
                        .push(self.set_aside(folder, &name, "not the name of a job")),
                }
            }
        }
        for (id, folders) in &places {
            if folders.len() > 1 {
                self.keep_one(*id, folders, &mut found)?;
            }
        }
        for name in self.names(Folder::Running)? {
            self.take_back(&name, now, &mut found)?;
        }
        let work = Work {
            lock,
            queue: VecDeque::new(),
            damaged: Vec::new(),
            left: BTreeSet::new(),
        };
        Ok((work, found))
    }

    fn sweep(&self, folder: Folder) -> Result<(), LedgerError> {
        let failed = |error| LedgerError::Disk {
            what: "remove temporary files".to_owned(),
            folder,
            error,
        };
        self.disk.remove_temporaries(folder).map_err(failed)
    }

    /// Removes all copies of a job but the most final that can be read. One in done/ counts even if it cannot be read.
    fn keep_one(&self, id: JobId, folders: &[Folder], found: &mut Recovered) -> Result<(), LedgerError> {
        let name = id.file_name();
        let mut kept = None;
        for folder in folders {
            if let Some(kept) = kept {
                match self.remove_copy(&name, *folder, kept) {
                    Ok(()) => found.copies += 1,
                    // No file, or not ours: whoever put it there made it no copy.
                    Err(error) if error.is_of_one_file() => found.damaged.push(stays(*folder, &name, &error)),
                    Err(error) => return Err(error),
                }
                continue;
            }
            let keep = match (*folder, self.look::<Job>(*folder, &name)) {
                (Folder::Done | Folder::Open, _) | (_, Ok(Look::Good(_))) => true,
                (_, Ok(Look::Gone)) => false,
                (_, Ok(Look::Bad(damage))) => {
                    found.damaged.push(self.set_aside(*folder, &name, damage));
                    false
                }
                (_, Err(error)) => {
                    found.damaged.push(stays(*folder, &name, &error));
                    false
                }
            };
            if keep {
                // It may have got here just before the crash: the others go only when it is sure to stay.
                self.sync(*folder)?;
                kept = Some(*folder);
            }
        }
        Ok(())
    }

    /// Removes a copy of the job that is kept elsewhere.
    fn remove_copy(&self, name: &FileName, folder: Folder, kept: Folder) -> Result<(), LedgerError> {
        match (kept, folder) {
            // Somebody may try the job again at this moment, and then it is the job itself that lies in due/. Whether it is
            // can be told from running/, where nobody else moves anything.
            (Folder::Waiting | Folder::Failed, Folder::Due) => {
                self.shift(name, Folder::Due, Folder::Running)?;
                match self.look::<Job>(kept, name)? {
                    Look::Good(_) | Look::Bad(_) => self.remove_running(name),
                    Look::Gone => Ok(()),
                }
            }
            (_, Folder::Running) => self.remove_running(name),
            (_, folder) => self.remove(folder, name),
        }
    }

    /// A copy in running/ must not come back when the job is due again: there it would count more.
    fn remove_running(&self, name: &FileName) -> Result<(), LedgerError> {
        self.remove(Folder::Running, name)?;
        self.sync(Folder::Running)
    }

    /// Makes a job due again whose worker ended.
    fn take_back(&self, name: &FileName, now: Wall, found: &mut Recovered) -> Result<(), LedgerError> {
        let mut job = match self.look::<Job>(Folder::Running, name) {
            Ok(Look::Good(job)) => job,
            Ok(Look::Gone) => return Ok(()),
            Ok(Look::Bad(damage)) => {
                found.damaged.push(self.set_aside(Folder::Running, name, damage));
                return Ok(());
            }
            Err(error) => {
                found.damaged.push(stays(Folder::Running, name, &error));
                return Ok(());
            }
        };
        let id = job.id();
        job.interrupted = job.interrupted.saturating_add(1);
        if job.interrupted > self.limits.interruptions {
            job.settled_ms = Some(to_ms(now));
            job.last_error = Some(format!("its worker ended {} times while it ran", job.interrupted));
            self.put(Folder::Failed, name, &job)?;
            found.given_up.push(id);
        } else {
            self.put(Folder::Due, name, &job)?;
            found.interrupted.push(id);
        }
        self.remove(Folder::Running, name)?;
        self.sync(Folder::Running)
    }
}

/// A file that the disk does not give is left where it is: it may be readable again.
pub(crate) fn stays(folder: Folder, name: &FileName, error: &LedgerError) -> Damaged {
    Damaged {
        folder,
        name: name.clone(),
        kept_as: None,
        why: error.to_string(),
    }
}
