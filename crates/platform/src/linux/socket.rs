//! Local sockets: the same as on every Unix, but for how their access is set.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

pub use crate::unix::socket::{UnixListener, adopt_unix, listen_unix, set_access_unix};

/// A file of whatever kind, by descriptor: what is done with it is done with what was found.
pub(crate) struct Place(File);

impl Place {
    /// What is at `path`; a link is found itself.
    pub(crate) fn find(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW);
        options.open(path).map(Self)
    }

    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }

    /// Sets the access; not of a link.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        // fchmod refuses such a descriptor, and fchmodat2 is too new.
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    pub(crate) fn set_group(&self, gid: u32) -> io::Result<()> {
        let (number, unchanged) = (self.0.as_raw_fd(), libc::uid_t::MAX);
        // SAFETY: the descriptor is open and the path is a C string.
        match unsafe { libc::fchownat(number, c"".as_ptr(), unchanged, gid, libc::AT_EMPTY_PATH) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
