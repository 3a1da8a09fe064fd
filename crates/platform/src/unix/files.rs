//! Files with secrets (nobody else may read or change them) and files that a crash must leave whole.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::PlatformError;

/// Writes `bytes` to `path`, readable and writable by the owner only. Afterwards the file is either as before or whole, also
/// after a power loss: temporary file, fsync, rename, fsync of the folder.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), PlatformError> {
    write(path, bytes, None)
}

/// As [`write_private`]; but if the file is there, the new one gets its owner and group and what the group may read, so
/// that a daemon which was given the file can still read it.
pub fn replace_private(path: &Path, bytes: &[u8]) -> Result<(), PlatformError> {
    match fs::metadata(path) {
        Ok(old) => write(path, bytes, Some(&old)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => write(path, bytes, None),
        Err(source) => Err(PlatformError::io(format!("read {}", path.display()), source)),
    }
}

/// Opens a lock file, made if missing. What root makes by hand in a service's folder is given to the folder's owner, or it
/// would lock the service out. A link is refused: root must not be made to write, or give away, what it leads to.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            give_to_folder_owner(&file, path)?;
            return Ok(file);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no plain file of its own; remove it",
        ));
    }
    Ok(file)
}

/// Opens a plain file for reading. A link is not followed, and a FIFO, which would hold us for ever, is refused.
pub(crate) fn open_plain(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// Only root can; for anybody else it does nothing.
fn give_to_folder_owner(file: &File, path: &Path) -> io::Result<()> {
    let (own, folder) = (file.metadata()?, fs::metadata(folder_of(path))?);
    if (own.uid(), own.gid()) == (folder.uid(), folder.gid()) {
        return Ok(());
    }
    match fchown(file, Some(folder.uid()), Some(folder.gid())) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

fn write(path: &Path, bytes: &[u8], old: Option<&Metadata>) -> Result<(), PlatformError> {
    let failed = |source| PlatformError::io(format!("write {}", path.display()), source);
    let temporary = temporary_beside(path).map_err(failed)?;
    let result = write_new(&temporary, bytes, old).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = result {
        let _ = fs::remove_file(&temporary);
        return Err(failed(error));
    }
    File::open(folder_of(path))
        .and_then(|folder| folder.sync_all())
        .map_err(failed)
}

fn write_new(path: &Path, bytes: &[u8], old: Option<&Metadata>) -> io::Result<()> {
    // What a killed predecessor with our process number left.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if let Some(old) = old {
        fchown(&file, Some(old.uid()), Some(old.gid()))?;
        file.set_permissions(Permissions::from_mode(old.mode() & 0o640))?;
    }
    file.write_all(bytes)?;
    file.sync_all()
}

/// A hidden name: path units and listings ignore it.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.tmp", std::process::id()));
    Ok(folder_of(path).join(hidden))
}

pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Refuses a file that others could read or change.
///
/// Allowed: owned by us or root, no access for others, and for the group at most reading, which only root may grant (the
/// `ssl-cert` custom of Debian, and systemd credentials, whose access list shows as group access).
pub fn check_private(path: &Path) -> Result<(), PlatformError> {
    let metadata =
        fs::metadata(path).map_err(|source| PlatformError::io(format!("read {}", path.display()), source))?;
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    let own = unsafe { libc::geteuid() };
    match fault(metadata.mode(), metadata.uid(), own) {
        None => Ok(()),
        Some((reason, fix)) => Err(PlatformError::NotPrivate {
            path: path.to_owned(),
            reason,
            fix: format!("{fix} {}", path.display()),
        }),
    }
}

fn fault(mode: u32, owner: u32, own: u32) -> Option<(String, &'static str)> {
    let mode = mode & 0o777;
    if owner != own && owner != 0 {
        return Some((format!("it belongs to another user (number {owner})"), "chown root"));
    }
    let allowed = if owner == 0 { 0o740 } else { 0o700 };
    if mode & !allowed != 0 {
        return Some((format!("others may read or change it (mode {mode:04o})"), "chmod 600"));
    }
    None
}

/// Whether this is a regular file that somebody may execute. Links are followed.
///
/// # Errors
/// What the system says; a link that leads nowhere is one.
pub fn is_executable(path: &Path) -> io::Result<bool> {
    let metadata = fs::metadata(path)?;
    Ok(metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Lets the owner of a file execute it, and nobody else do anything with it.
///
/// # Errors
/// What the system says.
pub fn make_executable(path: &Path) -> Result<(), PlatformError> {
    fs::set_permissions(path, Permissions::from_mode(0o700))
        .map_err(|source| PlatformError::io(format!("make {} executable", path.display()), source))
}

/// Makes a folder, and the missing ones above it, that only the owner may enter.
pub fn create_dir_private(path: &Path) -> Result<(), PlatformError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| PlatformError::io(format!("create the folder {}", path.display()), source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_executable_once_it_was_made_so() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("hook");
        write_private(&path, b"#!/bin/sh\n").expect("write");
        assert!(!is_executable(&path).expect("a file"));
        make_executable(&path).expect("ours");
        assert!(is_executable(&path).expect("a file"));
        check_private(&path).expect("still private");
    }

    #[test]
    fn a_private_file_is_whole_and_only_ours() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("key.pem");
        write_private(&path, b"one").expect("write");
        write_private(&path, b"two").expect("write again");
        assert_eq!(fs::read(&path).expect("read"), b"two");
        assert_eq!(fs::metadata(&path).expect("metadata").mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
        check_private(&path).expect("private");
    }

    #[test]
    fn a_replaced_file_stays_readable_for_its_group_and_for_nobody_else() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("users.toml");
        replace_private(&path, b"one").expect("new");
        assert_eq!(fs::metadata(&path).expect("metadata").mode() & 0o777, 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o664)).expect("chmod");
        replace_private(&path, b"two").expect("replaced");
        assert_eq!(fs::metadata(&path).expect("metadata").mode() & 0o777, 0o640);
        assert_eq!(fs::read(&path).expect("read"), b"two");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_cure() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("key.pem");
        write_private(&path, b"key").expect("write");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
        let text = check_private(&path).expect_err("refused").to_string();
        assert!(text.contains("mode 0644"), "{text}");
        assert!(text.ends_with(&format!("run `chmod 600 {}`", path.display())), "{text}");
    }

    #[test]
    fn only_root_may_let_a_group_read() {
        assert_eq!(fault(0o640, 0, 0), None);
        assert_eq!(fault(0o440, 0, 1000), None);
        assert_eq!(fault(0o600, 1000, 1000), None);
        assert!(fault(0o640, 1000, 1000).is_some());
        assert!(fault(0o660, 0, 0).is_some());
        assert!(fault(0o604, 0, 0).is_some());
        assert!(fault(0o600, 1001, 1000).is_some());
    }

    #[test]
    fn a_lock_file_is_never_somebody_elses_file() {
        let folder = tempfile::tempdir().expect("folder");
        let (lock, link) = (folder.path().join("lock"), folder.path().join("link"));
        open_lock(&lock).expect("made");
        open_lock(&lock).expect("opened");
        std::os::unix::fs::symlink(&lock, &link).expect("link");
        open_lock(&link).expect_err("a symbolic link");
        fs::remove_file(&link).expect("remove");
        fs::hard_link(&lock, &link).expect("link");
        open_lock(&link).expect_err("a hard link");
    }

    #[test]
    fn only_a_plain_file_is_read_and_nothing_waited_for() {
        let folder = tempfile::tempdir().expect("folder");
        let (plain, link, fifo) = (
            folder.path().join("plain"),
            folder.path().join("link"),
            folder.path().join("fifo"),
        );
        fs::write(&plain, "text").expect("write");
        open_plain(&plain).expect("opened");
        std::os::unix::fs::symlink(&plain, &link).expect("link");
        open_plain(&link).expect_err("a link");
        let path = std::ffi::CString::new(fifo.to_str().expect("text")).expect("path");
        // SAFETY: the path is a C string.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        open_plain(&fifo).expect_err("a FIFO");
        open_plain(folder.path()).expect_err("a folder");
    }

    #[test]
    fn a_private_folder_is_made_with_its_parents() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a/b");
        create_dir_private(&path).expect("create");
        create_dir_private(&path).expect("already there");
        assert_eq!(fs::metadata(&path).expect("metadata").mode() & 0o777, 0o700);
    }
}
