//! The disk as the ledger sees it: seven folders, and steps so small that a crash can come between any two.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most names a listing returns. A gateway that ends ten thousand sessions at once still sees all of them; listing more
/// would hold a worker up for seconds.
pub const MAX_JOBS: usize = 10_000;

/// Longest file name in bytes: below the 255 of common file systems, with room for what is added to set a file aside.
const MAX_NAME: usize = 200;

/// Where a record lies says what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Folder {
    /// One record for each session that lives.
    Open,
    /// Owed and claimed by nobody: the only folder a service manager watches.
    Due,
    /// Claimed by the holder of the worker lock.
    Running,
    /// Failed, until its time comes.
    Waiting,
    /// Given up, or not readable; named in status.
    Failed,
    /// Done; kept for a while, so that a copy left by a crash is known as done.
    Done,
    /// Sessions of the past, one file each.
    History,
}

impl Folder {
    /// All folders, in the order in which a job passes them.
    pub const ALL: [Self; 7] = [
        Self::Open,
        Self::Due,
        Self::Running,
        Self::Waiting,
        Self::Failed,
        Self::Done,
        Self::History,
    ];

    /// Its name on the disk.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Due => "due",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Done => "done",
            Self::History => "history",
        }
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The name of a file in a folder of the ledger: 1 to 200 bytes of text, no slash, no control character, no dot in front
/// (hidden names are temporary files).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileName(String);

impl FileName {
    /// The name, if it can be one. A disk leaves files with other names alone.
    pub fn new(name: impl Into<String>) -> Option<Self> {
        let name = name.into();
        let fits = (1..=MAX_NAME).contains(&name.len()) && !name.starts_with('.');
        let plain = !name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\'));
        (fits && plain).then_some(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for FileName {
    type Err = NotAName;

    fn from_str(name: &str) -> Result<Self, NotAName> {
        Self::new(name).ok_or(NotAName)
    }
}

impl TryFrom<String> for FileName {
    type Error = NotAName;

    fn try_from(name: String) -> Result<Self, NotAName> {
        Self::new(name).ok_or(NotAName)
    }
}

impl From<FileName> for String {
    fn from(name: FileName) -> Self {
        name.0
    }
}

/// Text that cannot be a [`FileName`] or a [`crate::JobId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a name of the ledger")]
pub struct NotAName;

/// Why a step on the disk was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DiskError {
    /// No such file.
    #[error("no such file")]
    NotFound,
    /// No space, no inode, or over quota.
    #[error("no space left on the disk")]
    Full,
    /// The file system cannot be written.
    #[error("the file system is read-only")]
    ReadOnly,
    /// The process may not.
    #[error("permission denied")]
    Denied,
    /// Something that this program did not put there: no regular file, or not its owner's.
    #[error("not a file of this ledger")]
    Foreign,
    /// This system cannot do that.
    #[error("not possible on this system")]
    Unsupported,
    /// Anything else, in the system's words.
    #[error("{0}")]
    Io(String),
}

/// One ledger's folders. Every method blocks until the step is taken, and is one step: after a crash it happened or not.
///
/// The temporary file of `name` is hidden (`.name.tmp`) and lies in the same folder; there is one at a time for each name.
pub trait Disk {
    /// The worker lock; given back when dropped, or when the process ends.
    type Lock;

    /// The names in a folder, sorted, at most [`MAX_JOBS`]; hidden files and names that [`FileName::new`] refuses are left
    /// out, everything else is not, whatever it is.
    ///
    /// # Errors
    /// A folder that does not exist is empty, not an error.
    fn list(&self, folder: Folder) -> Result<Vec<FileName>, DiskError>;

    /// How many entries of a folder [`Disk::list`] leaves out for their names, hidden ones not counted: whoever watches the
    /// folder sees them all the same.
    ///
    /// # Errors
    /// A folder that does not exist has none.
    fn nameless(&self, folder: Folder) -> Result<usize, DiskError> {
        let _ = folder;
        Ok(0)
    }

    /// The first [`crate::MAX_RECORD`] + 1 bytes of a file.
    ///
    /// # Errors
    /// [`DiskError::Foreign`] for what is not a regular file of the ledger's owner; links are not followed.
    fn read(&self, folder: Folder, name: &FileName) -> Result<Vec<u8>, DiskError>;

    /// Writes the temporary file of `name`, replacing an old one. Nothing of it need be on the disk yet.
    ///
    /// # Errors
    /// As the system says.
    fn write_temporary(&self, folder: Folder, name: &FileName, bytes: &[u8]) -> Result<(), DiskError>;

    /// Waits until the content of the temporary file is on the disk.
    ///
    /// # Errors
    /// As the system says.
    fn sync_temporary(&self, folder: Folder, name: &FileName) -> Result<(), DiskError>;

    /// Renames the temporary file to `name`, replacing a file of that name.
    ///
    /// # Errors
    /// [`DiskError::NotFound`] if there is no temporary file (any more).
    fn publish(&self, folder: Folder, name: &FileName) -> Result<(), DiskError>;

    /// Waits until the names of a folder, as they are now, are on the disk.
    ///
    /// # Errors
    /// As the system says.
    fn sync_folder(&self, folder: Folder) -> Result<(), DiskError>;

    /// Renames a file in one step, replacing one of the new name.
    ///
    /// # Errors
    /// [`DiskError::NotFound`] if it is not there (any more).
    fn rename(&self, from: (Folder, &FileName), to: (Folder, &FileName)) -> Result<(), DiskError>;

    /// Removes a file.
    ///
    /// # Errors
    /// [`DiskError::NotFound`] if it is not there (any more).
    fn remove(&self, folder: Folder, name: &FileName) -> Result<(), DiskError>;

    /// Removes all temporary files of a folder: what crashes left there.
    ///
    /// # Errors
    /// A folder that does not exist has none.
    fn remove_temporaries(&self, folder: Folder) -> Result<(), DiskError>;

    /// Takes the worker lock (`worker.lock`) without waiting; `None` while another worker has it.
    ///
    /// # Errors
    /// As the system says.
    fn lock_worker(&self) -> Result<Option<Self::Lock>, DiskError>;
}

impl<D: Disk + ?Sized> Disk for &D {
    type Lock = D::Lock;

    fn list(&self, folder: Folder) -> Result<Vec<FileName>, DiskError> {
        (**self).list(folder)
    }

    fn nameless(&self, folder: Folder) -> Result<usize, DiskError> {
        (**self).nameless(folder)
    }

    fn read(&self, folder: Folder, name: &FileName) -> Result<Vec<u8>, DiskError> {
        (**self).read(folder, name)
    }

    fn write_temporary(&self, folder: Folder, name: &FileName, bytes: &[u8]) -> Result<(), DiskError> {
        (**self).write_temporary(folder, name, bytes)
    }

    fn sync_temporary(&self, folder: Folder, name: &FileName) -> Result<(), DiskError> {
        (**self).sync_temporary(folder, name)
    }

    fn publish(&self, folder: Folder, name: &FileName) -> Result<(), DiskError> {
        (**self).publish(folder, name)
    }

    fn sync_folder(&self, folder: Folder) -> Result<(), DiskError> {
        (**self).sync_folder(folder)
    }

    fn rename(&self, from: (Folder, &FileName), to: (Folder, &FileName)) -> Result<(), DiskError> {
        (**self).rename(from, to)
    }

    fn remove(&self, folder: Folder, name: &FileName) -> Result<(), DiskError> {
        (**self).remove(folder, name)
    }

    fn remove_temporaries(&self, folder: Folder) -> Result<(), DiskError> {
        (**self).remove_temporaries(folder)
    }

    fn lock_worker(&self) -> Result<Option<Self::Lock>, DiskError> {
        (**self).lock_worker()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_in_its_folder_and_on_its_line() {
        for bad in ["", ".", "..", ".hidden", "a/b", "a\\b", "a\nb", "a\u{1b}[2J", "\0"] {
            assert_eq!(FileName::new(bad), None, "{bad:?}");
        }
        assert_eq!(FileName::new("x".repeat(201)), None);
        for good in ["README", "1700000000-0123456789abcdef.job", "naïve name"] {
            assert_eq!(FileName::new(good).map(String::from).as_deref(), Some(good));
        }
    }
}
