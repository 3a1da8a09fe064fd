//! The folder of a ledger, through descriptors and without following links.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsString};
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use ledger::{Disk, DiskError, FileName, Folder, MAX_JOBS, MAX_RECORD};
use libc::{O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY, c_int};

use super::files::folder_of;
use crate::PlatformError;
use crate::disk::{Keeper, KeeperLock};
use crate::lock::{Holder, after_the_dead};

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: libc::mode_t = 0o600;

/// Access that others must not have to the root when we find it.
const WRITABLE_BY_OTHERS: u32 = 0o022;

const WORKER_LOCK: &CStr = c"worker.lock";

const KEEPER_LOCK: &CStr = c"keeper.lock";

/// A process number and a line end.
const NOTE: usize = 11;

/// One ledger's root folder. Cheap to clone; holds no descriptor.
#[derive(Clone, Debug)]
pub struct FolderDisk {
    root: PathBuf,
}

/// Nobody else works on the ledger while this lives. Free again when dropped, or when the process ends in any way.
#[derive(Debug)]
pub struct WorkerLock(File);

impl WorkerLock {
    /// A descriptor that holds the lock as well: it is free when this one and all others are closed, in whichever process.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.0.try_clone().map(OwnedFd::from)
    }
}

impl FolderDisk {
    /// Makes the root and its folders, if missing, and checks that the root is a folder of ours (if we are root, of
    /// anybody's) which others cannot write. Others' permission to read is taken away.
    pub fn open(root: &Path) -> Result<Self, PlatformError> {
        let disk = Self { root: root.to_owned() };
        disk.prepare()
            .map_err(|source| PlatformError::io(format!("use the ledger {}", root.display()), source))?;
        Ok(disk)
    }

    /// The root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Waits until nobody else works on the ledger, and takes the worker lock. Blocks the thread, for as long as the other
    /// works.
    pub fn lock_worker_waiting(&self) -> Result<WorkerLock, DiskError> {
        let file = self.lock_file(WORKER_LOCK).map_err(disk_error)?;
        file.lock().map_err(disk_error)?;
        Ok(WorkerLock(file))
    }

    /// Makes the ledger ours, unless another process lives that has it. Blocks the thread for at most two seconds, if what is
    /// left of a dead process holds it.
    ///
    /// # Errors
    /// The lock file can be neither made nor opened.
    pub fn lock_keeper(&self) -> Result<Keeper, DiskError> {
        after_the_dead(
            || self.try_keeper(),
            |attempt| match attempt {
                Keeper::Ours(_) => Holder::Nobody,
                Keeper::Another { pid } => Holder::of(*pid),
            },
        )
        .map_err(disk_error)
    }

    fn try_keeper(&self) -> io::Result<Keeper> {
        let file = self.lock_file(KEEPER_LOCK)?;
        match file.try_lock() {
            Ok(()) => {
                if let Err(error) = self.sign(&file) {
                    tracing::debug!(%error, "the keeper of a ledger stays without a name");
                }
                Ok(Keeper::Ours(KeeperLock(file)))
            }
            Err(TryLockError::WouldBlock) => Ok(Keeper::Another { pid: signature(&file) }),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Writes our number into a lock file that we hold, over the one of the last holder: that takes no more space.
    fn sign(&self, locked: &File) -> io::Result<()> {
        let file = open_at(&self.open_root()?, KEEPER_LOCK, O_WRONLY | O_NOFOLLOW | O_NONBLOCK)?;
        let (metadata, locked) = (file.metadata()?, locked.metadata()?);
        let same = (metadata.dev(), metadata.ino()) == (locked.dev(), locked.ino());
        if !same || !metadata.is_file() || metadata.nlink() != 1 {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        file.write_all_at(
            format!("{:width$}\n", std::process::id(), width = NOTE - 1).as_bytes(),
            0,
        )
    }

    fn prepare(&self) -> io::Result<()> {
        let root = self.root_for_writing()?;
        let mode = root.metadata()?.mode();
        if mode & WRITABLE_BY_OTHERS != 0 {
            let words = format!(
                "others may write there (mode {:04o}); run `chmod 700` on it",
                mode & 0o7777
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
        }
        if mode & 0o077 != 0 {
            root.set_permissions(Permissions::from_mode(FOLDER_MODE))?;
        }
        for folder in Folder::ALL {
            self.folder_for_writing(folder)?;
        }
        Ok(())
    }

    // Folders.

    fn open_root(&self) -> io::Result<File> {
        let root = OpenOptions::new()
            .read(true)
            .custom_flags(O_DIRECTORY | O_NOFOLLOW)
            .open(&self.root)?;
        let owner = root.metadata()?.uid();
        let own = own_user();
        if owner != own && own != 0 {
            let words = format!("the folder belongs to another user (number {owner})");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
        }
        Ok(root)
    }

    fn root_for_writing(&self) -> io::Result<File> {
        match self.open_root() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        let above = folder_of(&self.root);
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(above)?;
        match DirBuilder::new().mode(FOLDER_MODE).create(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let (root, above) = (self.open_root()?, File::open(above)?);
        give(&root, &above.metadata()?)?;
        above.sync_all()?;
        Ok(root)
    }

    fn open_folder(&self, folder: Folder) -> io::Result<File> {
        open_at(
            &self.open_root()?,
            &name_of(folder)?,
            O_RDONLY | O_DIRECTORY | O_NOFOLLOW,
        )
    }

    fn folder_for_writing(&self, folder: Folder) -> io::Result<File> {
        match self.open_folder(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        let (root, name) = (self.root_for_writing()?, name_of(folder)?);
        // SAFETY: the descriptor is open and the name is a C string.
        match check(unsafe { libc::mkdirat(root.as_raw_fd(), name.as_ptr(), FOLDER_MODE as libc::mode_t) }) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let made = open_at(&root, &name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)?;
        give(&made, &root.metadata()?)?;
        root.sync_all()?;
        Ok(made)
    }

    /// All names in a folder but "." and "..". Only names: whatever is done with them is done through the folder's own
    /// descriptor.
    fn names(&self, folder: Folder) -> io::Result<impl Iterator<Item = io::Result<OsString>> + use<>> {
        self.open_folder(folder)?;
        let entries = fs::read_dir(self.root.join(folder.word()))?;
        Ok(entries.map(|entry| entry.map(|entry| entry.file_name())))
    }

    fn list_folder(&self, folder: Folder) -> io::Result<Vec<FileName>> {
        let mut names = BTreeSet::new();
        for name in self.names(folder)? {
            if let Some(name) = name?.to_str().and_then(FileName::new) {
                names.insert(name);
                if names.len() > MAX_JOBS {
                    names.pop_last();
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    fn count_nameless(&self, folder: Folder) -> io::Result<usize> {
        let mut count = 0;
        for name in self.names(folder)? {
            let name = name?;
            let hidden = name.as_encoded_bytes().starts_with(b".");
            count += usize::from(!hidden && name.to_str().and_then(FileName::new).is_none());
        }
        Ok(count)
    }

    fn clear_temporaries(&self, folder: Folder) -> io::Result<()> {
        let directory = self.open_folder(folder)?;
        for name in self.names(folder)? {
            let name = name?.into_string().unwrap_or_default();
            if name.starts_with('.') && name.ends_with(".tmp") {
                match unlink_at(&directory, &c_string(&name)?) {
                    // A folder, which no ledger made: it is in nobody's way.
                    Err(error) if matches!(error.raw_os_error(), Some(libc::EISDIR | libc::EPERM)) => {}
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    // Files.

    fn read_file(&self, folder: Folder, name: &FileName) -> io::Result<Vec<u8>> {
        let root = self.open_root()?;
        let directory = open_at(&root, &name_of(folder)?, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)?;
        // Without O_NONBLOCK a planted FIFO would hold us for ever.
        let file = open_at(
            &directory,
            &c_string(name.as_str())?,
            O_RDONLY | O_NOFOLLOW | O_NONBLOCK,
        )?;
        let metadata = file.metadata()?;
        let owner = metadata.uid();
        if !metadata.is_file() || (owner != root.metadata()?.uid() && owner != 0) {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        let mut bytes = Vec::new();
        file.take(MAX_RECORD as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write_new(&self, folder: Folder, name: &FileName, bytes: &[u8]) -> io::Result<()> {
        let directory = self.folder_for_writing(folder)?;
        let name = temporary(name)?;
        match unlink_at(&directory, &name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = open_at(&directory, &name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW)?;
        let written = give(&file, &directory.metadata()?).and_then(|()| file.write_all(bytes));
        if written.is_err() {
            // What little space it took may be what the next record needs.
            let _ = unlink_at(&directory, &name);
        }
        written
    }

    fn sync_file(&self, folder: Folder, name: &FileName) -> io::Result<()> {
        open_at(
            &self.open_folder(folder)?,
            &temporary(name)?,
            O_RDONLY | O_NOFOLLOW | O_NONBLOCK,
        )?
        .sync_all()
    }

    fn publish_file(&self, folder: Folder, name: &FileName) -> io::Result<()> {
        let directory = self.open_folder(folder)?;
        rename_at(&directory, &temporary(name)?, &directory, &c_string(name.as_str())?)
    }

    fn rename_file(&self, from: (Folder, &FileName), to: (Folder, &FileName)) -> io::Result<()> {
        let (source, target) = (self.open_folder(from.0)?, self.folder_for_writing(to.0)?);
        rename_at(&source, &c_string(from.1.as_str())?, &target, &c_string(to.1.as_str())?)
    }

    fn remove_file(&self, folder: Folder, name: &FileName) -> io::Result<()> {
        unlink_at(&self.open_folder(folder)?, &c_string(name.as_str())?)
    }

    /// Opened for reading, which is enough for a lock and works on a disk that cannot be written.
    fn lock_file(&self, name: &CStr) -> io::Result<File> {
        let root = self.root_for_writing()?;
        match open_at(&root, name, O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW) {
            Ok(file) => {
                give(&file, &root.metadata()?)?;
                Ok(file)
            }
            // There already, or on a disk that makes no more.
            Err(error) => {
                open_at(&root, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK).map_err(|missing| match missing.kind() {
                    io::ErrorKind::NotFound => error,
                    _ => missing,
                })
            }
        }
    }
}

impl Disk for FolderDisk {
    type Lock = WorkerLock;

    fn list(&self, folder: Folder) -> Result<Vec<FileName>, DiskError> {
        none_if_missing(self.list_folder(folder))
    }

    fn nameless(&self, folder: Folder) -> Result<usize, DiskError> {
        none_if_missing(self.count_nameless(folder))
    }

    fn read(&self, folder: Folder, name: &FileName) -> Result<Vec<u8>, DiskError> {
        self.read_file(folder, name).map_err(disk_error)
    }

    fn write_temporary(&self, folder: Folder, name: &FileName, bytes: &[u8]) -> Result<(), DiskError> {
        self.write_new(folder, name, bytes).map_err(disk_error)
    }

    fn sync_temporary(&self, folder: Folder, name: &FileName) -> Result<(), DiskError> {
        self.sync_file(folder, name).map_err(disk_error)
    }

    fn publish(&self, folder: Folder, name: &FileName) -> Result<(), DiskError> {
        self.publish_file(folder, name).map_err(disk_error)
    }

    fn sync_folder(&self, folder: Folder) -> Result<(), DiskError> {
        self.open_folder(folder)
            .and_then(|directory| directory.sync_all())
            .map_err(disk_error)
    }

    fn rename(&self, from: (Folder, &FileName), to: (Folder, &FileName)) -> Result<(), DiskError> {
        self.rename_file(from, to).map_err(disk_error)
    }

    fn remove(&self, folder: Folder, name: &FileName) -> Result<(), DiskError> {
        self.remove_file(folder, name).map_err(disk_error)
    }

    fn remove_temporaries(&self, folder: Folder) -> Result<(), DiskError> {
        none_if_missing(self.clear_temporaries(folder))
    }

    fn lock_worker(&self) -> Result<Option<WorkerLock>, DiskError> {
        let file = self.lock_file(WORKER_LOCK).map_err(disk_error)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(WorkerLock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(disk_error(error)),
        }
    }
}

fn none_if_missing<T: Default>(result: io::Result<T>) -> Result<T, DiskError> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        other => other.map_err(disk_error),
    }
}

fn disk_error(error: io::Error) -> DiskError {
    match error.raw_os_error() {
        Some(libc::ENOENT) => DiskError::NotFound,
        Some(libc::ENOSPC | libc::EDQUOT) => DiskError::Full,
        Some(libc::EROFS) => DiskError::ReadOnly,
        Some(libc::EACCES | libc::EPERM) => DiskError::Denied,
        // A link, a folder, a socket, a FIFO without a reader.
        Some(libc::ELOOP | libc::ENOTDIR | libc::EISDIR | libc::ENXIO) => DiskError::Foreign,
        None if error.kind() == io::ErrorKind::PermissionDenied => DiskError::Denied,
        _ => DiskError::Io(error.to_string()),
    }
}

/// Gives what root just made in somebody's folder to that somebody; the service could not use it otherwise. Never for what
/// was there before: it might be a link to something of ours.
fn give(made: &File, folder: &Metadata) -> io::Result<()> {
    let own = made.metadata()?;
    if own_user() == 0 && (own.uid(), own.gid()) != (folder.uid(), folder.gid()) {
        fchown(made, Some(folder.uid()), Some(folder.gid()))?;
    }
    Ok(())
}

/// Who signed a lock file.
fn signature(file: &File) -> Option<u32> {
    let mut note = [0; NOTE];
    file.read_exact_at(&mut note, 0).ok()?;
    std::str::from_utf8(&note).ok()?.trim().parse().ok()
}

fn own_user() -> u32 {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    unsafe { libc::geteuid() }
}

fn name_of(folder: Folder) -> io::Result<CString> {
    c_string(folder.word())
}

fn temporary(name: &FileName) -> io::Result<CString> {
    c_string(&format!(".{name}.tmp"))
}

fn c_string(text: &str) -> io::Result<CString> {
    Ok(CString::new(text)?)
}

fn open_at(directory: &File, name: &CStr, flags: c_int) -> io::Result<File> {
    let flags = flags | libc::O_CLOEXEC;
    loop {
        // SAFETY: the descriptor is open, the name is a C string, and the mode is there for when a file is made.
        let number = unsafe {
            libc::openat(
                directory.as_raw_fd(),
                name.as_ptr(),
                flags,
                libc::c_uint::from(FILE_MODE),
            )
        };
        if number >= 0 {
            // SAFETY: just opened, and nobody else knows it.
            return Ok(unsafe { File::from_raw_fd(number) });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn unlink_at(directory: &File, name: &CStr) -> io::Result<()> {
    // SAFETY: the descriptor is open and the name is a C string.
    check(unsafe { libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), 0) })
}

fn rename_at(source: &File, from: &CStr, target: &File, to: &CStr) -> io::Result<()> {
    // SAFETY: both descriptors are open and both names are C strings.
    check(unsafe { libc::renameat(source.as_raw_fd(), from.as_ptr(), target.as_raw_fd(), to.as_ptr()) })
}

fn check(result: c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests;
