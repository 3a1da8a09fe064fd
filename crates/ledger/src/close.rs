//! What the tunnel's own process writes: the record of a session that lives, and the job that it becomes.

use crate::record::to_ms;
use crate::recover::stays;
use crate::steps::Look;
use crate::{Damaged, Disk, End, FileName, Folder, Job, JobId, Ledger, LedgerError, OpenRecord};

/// The proof that a session's job is on the disk, to be found after any crash. Only a [`Ledger`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    job: JobId,
}

impl Receipt {
    /// The job.
    pub fn job(&self) -> JobId {
        self.job
    }
}

/// What a stop owes when it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owed {
    /// It is on the disk.
    Recorded(Receipt),
    /// There was no session.
    Nothing,
    /// The disk did not answer in time, or not well. The record in open/ stays, and the next start finds it.
    DiskTooSlow(String),
}

impl<D: Disk> Ledger<D> {
    /// Writes the record of a session that lives, or replaces it. When this returns, the next start will find it whatever
    /// happens in between.
    ///
    /// # Errors
    /// The disk's, or a record that is too large; the record of that name is then the old one or the new one.
    pub fn open(&self, record: &OpenRecord) -> Result<(), LedgerError> {
        self.put(Folder::Open, &record.id.file_name(), record)
    }

    /// Takes back the record of a session that never came to life. The host must have been cleaned before.
    ///
    /// # Errors
    /// The disk's; the record may then still be there.
    pub fn withdraw(&self, id: JobId) -> Result<(), LedgerError> {
        self.remove(Folder::Open, &id.file_name())?;
        self.sync(Folder::Open)
    }

    /// Makes a job of the record of a session that is over. The record need not be in open/, and counts as it is given
    /// here: leave out `undo` if the host is clean. A session that was closed already stays what it is.
    ///
    /// Costs two waits for the disk.
    ///
    /// # Errors
    /// The disk's, or a record that is too large. The record in open/ then stays.
    pub fn close(&self, mut record: OpenRecord, end: End) -> Result<Receipt, LedgerError> {
        let receipt = Receipt { job: record.id };
        let name = record.id.file_name();
        if !self.has_job(&name)? {
            let deadline = end.at.wall().plus(self.limits.give_up_after);
            record.facts.end = Some(end.clipped());
            let job = Job {
                record,
                done: Vec::new(),
                attempts: 0,
                interrupted: 0,
                not_before_ms: None,
                deadline_ms: to_ms(deadline),
                settled_ms: None,
                last_error: None,
            };
            self.put(Folder::Due, &name, &job)?;
        }
        // The job is safe. Of a record that cannot be removed, or that comes back, recovery knows that it is closed.
        let _ = self.disk.remove(Folder::Open, &name);
        Ok(receipt)
    }

    /// Whether a session was closed, although its record is still in open/: the process before may have ended in between.
    /// Such a session must not be taken over. Its record would be removed, while it lives, as a copy of the job.
    ///
    /// # Errors
    /// The disk's.
    pub fn is_closed(&self, id: JobId) -> Result<bool, LedgerError> {
        self.has_job(&id.file_name())
    }

    /// Looked at in the order in which a job moves, so that one that moves on meanwhile is not missed; and twice, because one
    /// that is tried again moves back.
    fn has_job(&self, name: &FileName) -> Result<bool, LedgerError> {
        for _ in 0..2 {
            for folder in [Folder::Due, Folder::Running, Folder::Waiting, Folder::Failed] {
                match self.look::<Job>(folder, name)? {
                    Look::Good(_) => {
                        self.sync(folder)?;
                        return Ok(true);
                    }
                    Look::Bad(damage) => drop(self.set_aside(folder, name, damage)),
                    Look::Gone => {}
                }
            }
            if self.is_done(name)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The records in open/, oldest first: at the start of the tunnel's process these are sessions that a crash ended. What
    /// they put on the host is to be undone first; then they are to be closed. Files that cannot be read are moved to
    /// failed/ and named; what they had on the host is found by the tunnel's slot.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn opens(&self) -> Result<(Vec<OpenRecord>, Vec<Damaged>), LedgerError> {
        let mut records = Vec::new();
        let mut damaged = Vec::new();
        for name in self.names(Folder::Open)? {
            match self.look(Folder::Open, &name) {
                Ok(Look::Good(record)) => records.push(record),
                Ok(Look::Gone) => {}
                Ok(Look::Bad(damage)) => damaged.push(self.set_aside(Folder::Open, &name, damage)),
                Err(error) => damaged.push(stays(Folder::Open, &name, &error)),
            }
        }
        Ok((records, damaged))
    }
}
