//! The ledger, and the steps that all its operations are made of.

use crate::{Damage, Disk, DiskError, FileName, Folder, JobId, LedgerError, Limits, Record};

/// How often a record is written again because its temporary file was swept away by a worker that cleans up after crashes.
const WRITES: u32 = 3;

/// Names tried for a file that is set aside. More copies of one file come from nobody but a broken disk.
const ASIDES: u32 = 100;

/// What is owed for the sessions of one tunnel. It keeps nothing in memory: any number of these, in any number of
/// processes, may stand on one folder.
#[derive(Clone, Debug)]
pub struct Ledger<D> {
    pub(crate) disk: D,
    pub(crate) limits: Limits,
}

/// A file that cannot be read as what its folder should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Where it was found.
    pub folder: Folder,
    /// The name it had.
    pub name: FileName,
    /// Its name in failed/, unchanged inside; none if it could not be moved and is where it was.
    pub kept_as: Option<FileName>,
    /// What is wrong with it.
    pub why: String,
}

/// What a file turned out to be.
pub(crate) enum Look<T> {
    Good(T),
    Gone,
    Bad(Damage),
}

impl<D: Disk> Ledger<D> {
    /// A ledger on a disk.
    pub fn new(disk: D, limits: Limits) -> Self {
        Self { disk, limits }
    }

    /// The disk below.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Its limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Writes a record so that it is there whatever happens next: content first, then the name.
    pub(crate) fn put<T: Record>(&self, folder: Folder, name: &FileName, record: &T) -> Result<(), LedgerError> {
        let bytes = record.to_bytes()?;
        let failed = trouble("write", folder, name);
        let mut writes = 1;
        loop {
            match self.publish(folder, name, &bytes) {
                Err(DiskError::NotFound) if writes < WRITES => writes += 1,
                published => break published.map_err(&failed)?,
            }
        }
        self.disk.sync_folder(folder).map_err(failed)
    }

    fn publish(&self, folder: Folder, name: &FileName, bytes: &[u8]) -> Result<(), DiskError> {
        self.disk.write_temporary(folder, name, bytes)?;
        self.disk.sync_temporary(folder, name)?;
        self.disk.publish(folder, name)
    }

    /// Moves a file; `false` if it is not there. Not durable before both folders are synced.
    pub(crate) fn shift(&self, name: &FileName, from: Folder, to: Folder) -> Result<bool, LedgerError> {
        match self.disk.rename((from, name), (to, name)) {
            Ok(()) => Ok(true),
            Err(DiskError::NotFound) => Ok(false),
            Err(error) => Err(trouble("move", from, name)(error)),
        }
    }

    /// Removes a file that may be gone already. Not durable before the folder is synced.
    pub(crate) fn remove(&self, folder: Folder, name: &FileName) -> Result<(), LedgerError> {
        match self.disk.remove(folder, name) {
            Ok(()) | Err(DiskError::NotFound) => Ok(()),
            Err(error) => Err(trouble("remove", folder, name)(error)),
        }
    }

    pub(crate) fn sync(&self, folder: Folder) -> Result<(), LedgerError> {
        let failed = |error| LedgerError::Disk {
            what: "make the names durable".to_owned(),
            folder,
            error,
        };
        self.disk.sync_folder(folder).map_err(failed)
    }

    pub(crate) fn names(&self, folder: Folder) -> Result<Vec<FileName>, LedgerError> {
        let failed = |error| LedgerError::Disk {
            what: "list the files".to_owned(),
            folder,
            error,
        };
        self.disk.list(folder).map_err(failed)
    }

    /// Reads a record and checks that it is the one of that name.
    pub(crate) fn look<T: Record>(&self, folder: Folder, name: &FileName) -> Result<Look<T>, LedgerError> {
        let bytes = match self.disk.read(folder, name) {
            Ok(bytes) => bytes,
            Err(DiskError::NotFound) => return Ok(Look::Gone),
            Err(DiskError::Foreign) => return Ok(Look::Bad(Damage::Foreign)),
            Err(error) => return Err(trouble("read", folder, name)(error)),
        };
        Ok(match T::from_bytes(&bytes) {
            Ok(record) if Some(record.id()) == JobId::of_file(name) => Look::Good(record),
            Ok(_) => Look::Bad(Damage::Name),
            Err(damage) => Look::Bad(damage),
        })
    }

    /// Moves a file that cannot be read to failed/ as it is, under a name that no job has or will have.
    pub(crate) fn set_aside(&self, folder: Folder, name: &FileName, why: impl ToString) -> Damaged {
        let kept_as = self.free_name(name).filter(|free| {
            let moved = self.disk.rename((folder, name), (Folder::Failed, free));
            moved.is_ok() && self.disk.sync_folder(Folder::Failed).is_ok()
        });
        Damaged {
            folder,
            name: name.clone(),
            kept_as,
            why: why.to_string(),
        }
    }

    fn free_name(&self, name: &FileName) -> Option<FileName> {
        let taken = self.disk.list(Folder::Failed).ok()?;
        (1..=ASIDES)
            .filter_map(|n| match n {
                1 => FileName::new(format!("{name}.damaged")),
                _ => FileName::new(format!("{name}.damaged-{n}")),
            })
            .find(|free| !taken.contains(free))
    }
}

pub(crate) fn trouble(what: &str, folder: Folder, name: &FileName) -> impl Fn(DiskError) -> LedgerError {
    move |error| LedgerError::Disk {
        what: format!("{what} {name}"),
        folder,
        error,
    }
}
