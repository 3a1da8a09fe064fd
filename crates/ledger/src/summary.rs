//! The ledger at a glance, for status.

use crate::steps::Look;
use crate::{Disk, FileName, Folder, Job, JobId, Ledger, LedgerError};

/// Most jobs of one folder that a summary describes; the rest is counted.
const MAX_LISTED: usize = 100;

/// What lies where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Sessions that live, or that a crash ended and nobody has looked at.
    pub open: usize,
    /// Jobs that are due.
    pub due: usize,
    /// Jobs that run, or ran when their worker ended.
    pub running: usize,
    /// Jobs that failed and wait.
    pub waiting: usize,
    /// Jobs and files that were given up.
    pub failed: usize,
    /// Jobs that are done and still kept.
    pub done: usize,
    /// Sessions in the history.
    pub history: usize,
    /// The jobs that are not done, by folder (due, running, waiting, failed) and age, at most a hundred of each folder.
    pub jobs: Vec<Listed>,
    /// Files among them that cannot be read.
    pub damaged: Vec<FileName>,
}

/// A job that is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub id: JobId,
    /// Where it is.
    pub folder: Folder,
    /// How often it failed.
    pub attempts: u32,
    /// Why it failed last.
    pub last_error: Option<String>,
    /// When it is tried again, in wall-clock milliseconds; only if it waits.
    pub not_before_ms: Option<u64>,
    /// The words of the chores that are owed.
    pub owed: Vec<&'static str>,
}

impl<D: Disk> Ledger<D> {
    /// What lies where.
    ///
    /// # Errors
    /// A folder cannot be listed.
    pub fn summary(&self) -> Result<Summary, LedgerError> {
        let mut summary = Summary {
            open: self.names(Folder::Open)?.len(),
            done: self.names(Folder::Done)?.len(),
            history: self.names(Folder::History)?.len(),
            ..Summary::default()
        };
        summary.due = self.describe(Folder::Due, &mut summary)?;
        summary.running = self.describe(Folder::Running, &mut summary)?;
        summary.waiting = self.describe(Folder::Waiting, &mut summary)?;
        summary.failed = self.describe(Folder::Failed, &mut summary)?;
        Ok(summary)
    }

    fn describe(&self, folder: Folder, summary: &mut Summary) -> Result<usize, LedgerError> {
        let names = self.names(folder)?;
        for name in names.iter().take(MAX_LISTED) {
            match self.look::<Job>(folder, name) {
                Ok(Look::Good(job)) => summary.jobs.push(listed(&job, folder)),
                Ok(Look::Gone) => {}
                Ok(Look::Bad(_)) | Err(_) => summary.damaged.push(name.clone()),
            }
        }
        Ok(names.len())
    }
}

fn listed(job: &Job, folder: Folder) -> Listed {
    Listed {
        id: job.id(),
        folder,
        attempts: job.attempts,
        last_error: job.last_error.clone(),
        not_before_ms: job.not_before_ms.filter(|_| folder == Folder::Waiting),
        owed: job.owed().map(|chore| chore.word()).collect(),
    }
}
