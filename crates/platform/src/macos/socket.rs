//! Local sockets: the same as on every Unix, but for how their access is set. Never run on this system yet.

use std::ffi::CString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

pub use crate::unix::socket::{UnixListener, adopt_unix, listen_unix, set_access_unix};

/// A file of whatever kind. This system opens no sockets; what is there by now is taken, but no link is followed.
pub(crate) struct Place(PathBuf);

impl Place {
    /// What is at `path`; a link is found itself.
    pub(crate) fn find(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|_| Self(path.to_owned()))
    }

    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        fs::symlink_metadata(&self.0)
    }

    /// Sets the access.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        let path = CString::new(self.0.as_os_str().as_bytes())?;
        let mode = libc::mode_t::try_from(mode).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the path is a C string.
        match unsafe { libc::fchmodat(libc::AT_FDCWD, path.as_ptr(), mode, libc::AT_SYMLINK_NOFOLLOW) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(crate) fn set_group(&self, gid: u32) -> io::Result<()> {
        lchown(&self.0, None, Some(gid))
    }
}
