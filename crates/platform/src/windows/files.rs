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

/// Files belong to whoever makes them.
pub(crate) fn give_to_folder_owner(_file: &File, _path: &Path) -> io::Result<()> {
    Ok(())
}
