//! The past: the history of sessions, and how much of it is kept.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use now::Wall;

use crate::record::from_ms;
use crate::steps::Look;
use crate::{Disk, FileName, Folder, HistoryEntry, Job, JobId, Ledger, LedgerError, MAX_JOBS, Record, Work};

/// Most files of one folder that are kept, whatever the limits say: half of what is listed, so that the other half shows
/// what is too many.
pub const MAX_KEPT: usize = MAX_JOBS / 2;

/// Sessions of the past.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The newest first, by the start of the session.
    pub entries: Vec<HistoryEntry>,
    /// Files among them that cannot be read.
    pub damaged: Vec<FileName>,
}

/// What pruning removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Jobs of done/.
    pub done: u32,
    /// Sessions of history/.
    pub history: u32,
    /// Jobs of failed/: work that was never done. To be named in a log.
    pub failed: Vec<JobId>,
    /// Files of any of these that could not be read. To be named in a log.
    pub damaged: Vec<FileName>,
}

/// The folders that are pruned, the most worth keeping first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shelf {
    Failed,
    Done,
    History,
}

/// A file that may be removed.
struct Past {
    shelf: Shelf,
    name: FileName,
    id: JobId,
    /// When it was done, given up, or over; of a file that cannot be read, when the session began.
    settled: Wall,
    bytes: u64,
    readable: bool,
}

impl Shelf {
    const fn folder(self) -> Folder {
        match self {
            Self::Failed => Folder::Failed,
            Self::Done => Folder::Done,
            Self::History => Folder::History,
        }
    }

    /// When what is written on a file of this shelf was settled; none if the bytes do not say it.
    fn settled(self, bytes: &[u8]) -> Option<Wall> {
        match self {
            Self::Failed | Self::Done => {
                let job = Job::from_bytes(bytes).ok()?;
                Some(from_ms(
                    job.settled_ms.unwrap_or(job.id().started_s().saturating_mul(1000)),
                ))
            }
            Self::History => {
                let facts = HistoryEntry::from_bytes(bytes).ok()?.facts;
                Some(facts.end.map_or(facts.started, |end| end.at).wall())
            }
        }
    }
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
    /// The folder cannot be listed.
    pub fn history(&self, last: usize) -> Result<History, LedgerError> {
        let mut history = History::default();
        for name in self.names(Folder::History)?.into_iter().rev().take(last) {
            match self.look(Folder::History, &name) {
                Ok(Look::Good(entry)) => history.entries.push(entry),
                Ok(Look::Gone) => {}
                Ok(Look::Bad(_)) | Err(_) => history.damaged.push(name),
            }
        }
        Ok(history)
    }

    /// Removes what is too old, too many or too large of done/, failed/ and history/. The newest are kept, and what failed
    /// before what was done. Files that no ledger wrote stay, and a job of which a crash left another copy.
    ///
    /// # Errors
    /// The disk's.
    pub fn prune(&self, _work: &Work<D::Lock>, now: Wall) -> Result<Pruned, LedgerError> {
        let mut past = self.past(Shelf::Failed)?;
        past.extend(self.past(Shelf::Done)?);
        past.extend(self.past(Shelf::History)?);
        past.sort_by_key(|file| (file.shelf != Shelf::Failed, Reverse((file.settled, file.id))));
        let mut surplus = self.surplus(past, now);
        if surplus.iter().any(|file| file.shelf != Shelf::History) {
            let copies = self.settle_names()?;
            surplus.retain(|file| file.shelf == Shelf::History || !copies.contains(&file.name));
        }
        let mut pruned = Pruned::default();
        for file in surplus {
            self.remove(file.shelf.folder(), &file.name)?;
            match file.shelf {
                _ if !file.readable => pruned.damaged.push(file.name),
                Shelf::Failed => pruned.failed.push(file.id),
                Shelf::Done => pruned.done += 1,
                Shelf::History => pruned.history += 1,
            }
        }
        Ok(pruned)
    }

    /// The files of a shelf that belong to a session. One that the disk does not give is left alone.
    fn past(&self, shelf: Shelf) -> Result<Vec<Past>, LedgerError> {
        let names = self.names(shelf.folder())?;
        let read = |name: FileName| {
            let id = session_of(&name)?;
            let bytes = self.disk.read(shelf.folder(), &name).ok()?;
            let settled = shelf.settled(&bytes);
            Some(Past {
                shelf,
                name,
                id,
                settled: settled.unwrap_or_else(|| from_ms(id.started_s().saturating_mul(1000))),
                bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
                readable: settled.is_some(),
            })
        };
        Ok(names.into_iter().filter_map(read).collect())
    }

    /// Of files in the order in which they are worth keeping, those that are not kept.
    fn surplus(&self, past: Vec<Past>, now: Wall) -> Vec<Past> {
        let limits = &self.limits;
        let [mut failed, mut done, mut history] =
            [limits.keep_failed, limits.keep_done, limits.keep_history].map(|keep| keep.min(MAX_KEPT));
        let mut bytes = limits.keep_bytes;
        let mut stays = |file: &Past| {
            let places = match file.shelf {
                Shelf::Failed => &mut failed,
                Shelf::Done => &mut done,
                Shelf::History => &mut history,
            };
            let fits = *places > 0 && file.bytes <= bytes && now.since(file.settled) < limits.keep_for;
            if fits {
                *places -= 1;
                bytes -= file.bytes;
            }
            fits
        };
        past.into_iter().filter(|file| !stays(file)).collect()
    }

    /// The names in the folders before done/ and failed/, once it is sure that no others come back after a loss of power: a
    /// job may only be forgotten as done when no copy of it is left that could be run.
    fn settle_names(&self) -> Result<BTreeSet<FileName>, LedgerError> {
        self.sync(Folder::Failed)?;
        let mut copies = BTreeSet::new();
        for folder in [Folder::Open, Folder::Due, Folder::Running, Folder::Waiting] {
            self.sync(folder)?;
            copies.extend(self.names(folder)?);
        }
        Ok(copies)
    }
}

/// The session whose file this is or was, before it was set aside.
fn session_of(name: &FileName) -> Option<JobId> {
    let (id, rest) = name.as_str().split_once(".job")?;
    (rest.is_empty() || rest.starts_with(".damaged")).then(|| id.parse().ok())?
}
