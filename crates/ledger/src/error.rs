//! What can go wrong with the ledger, and whose fault it is.

use thiserror::Error;

use crate::{Damage, DiskError, Folder, JobId};

/// Why the ledger did not do what was asked. Nothing that was durable before is lost by an error.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LedgerError {
    /// The disk's fault.
    #[error("cannot {what} in {folder}/: {error}")]
    Disk {
        /// What was tried, with the file it was tried on.
        what: String,
        /// In which folder.
        folder: Folder,
        /// What the disk said.
        error: DiskError,
    },
    /// The worker lock could not be asked for.
    #[error("cannot take the worker lock: {0}")]
    Lock(DiskError),
    /// The caller's fault: the record does not fit.
    #[error("cannot write a record of {0} bytes; {max} are possible", max = crate::MAX_RECORD)]
    TooLarge(usize),
    /// There is no such job where it was looked for.
    #[error("there is no job {0} that failed or waits")]
    NoSuchJob(JobId),
    /// The disk's fault, or that of whoever wrote there: the job is there and cannot be read.
    #[error("job {id} cannot be read: {damage}")]
    Damaged {
        /// Which job.
        id: JobId,
        /// What is wrong with it.
        damage: Damage,
    },
}
