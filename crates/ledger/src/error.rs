//! What can go wrong with the ledger, and whose fault it is.

use thiserror::Error;

use crate::{Damage, DiskError, FileName, Folder, JobId};

/// Names that an error repeats.
const MAX_NAMES: usize = 5;

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
    /// The fault of whoever put it there: what is no job, and cannot be moved away either, so that due/ is never empty.
    #[error("due/ holds {}, which cannot be moved away; remove it", words(.names, *.nameless))]
    Stuck {
        /// Names.
        names: Vec<FileName>,
        /// How many more there are with names that are no text, or not one line of it.
        nameless: usize,
    },
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

impl LedgerError {
    /// Whether it is about one file, and others may go well.
    pub(crate) fn is_of_one_file(&self) -> bool {
        matches!(self, Self::Disk { error, .. } if matches!(error, DiskError::Denied | DiskError::Foreign))
    }
}

fn words(names: &[FileName], nameless: usize) -> String {
    let mut words: Vec<_> = names.iter().take(MAX_NAMES).map(ToString::to_string).collect();
    match names.len().saturating_sub(MAX_NAMES) + nameless {
        0 => {}
        more if words.is_empty() => words.push(format!("what has no usable name ({more})")),
        more => words.push(format!("{more} more")),
    }
    words.join(" ")
}
