//! Private files: not supported yet, for want of access lists. Never run on this system yet.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::PlatformError;

/// Not supported.
pub fn write_private(_path: &Path, _bytes: &[u8]) -> Result<(), PlatformError> {
    Err(PlatformError::Unsupported("writing private files"))
}

/// Not supported.
pub fn check_private(_path: &Path) -> Result<(), PlatformError> {
    Err(PlatformError::Unsupported("checking who may read a file"))
}

/// Not supported.
pub fn create_dir_private(_path: &Path) -> Result<(), PlatformError> {
    Err(PlatformError::Unsupported("making private folders"))
}

/// Not supported.
pub fn replace_private(_path: &Path, _bytes: &[u8]) -> Result<(), PlatformError> {
    Err(PlatformError::Unsupported("writing private files"))
}

/// Not supported.
pub fn is_executable(_path: &Path) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not supported.
pub fn make_executable(_path: &Path) -> Result<(), PlatformError> {
    Err(PlatformError::Unsupported("making files executable"))
}

/// Opens a lock file, made if missing.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).open(path)
}

/// Opens a file for reading.
pub(crate) fn open_plain(path: &Path) -> io::Result<File> {
    File::open(path)
}
