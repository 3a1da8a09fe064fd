//! Local sockets: not supported yet. Never run on this system yet.

use std::convert::Infallible;
use std::path::Path;

use crate::PlatformError;
use crate::service::Descriptor;

/// There is none on this system: [`listen_unix`] says so.
#[derive(Debug)]
pub struct UnixListener(Infallible);

impl UnixListener {
    /// See [`listen_unix`].
    pub fn never(&self) -> ! {
        match self.0 {}
    }
}

/// Not supported.
pub fn listen_unix(_path: &Path, _mode: u32, _group: Option<&str>) -> Result<UnixListener, PlatformError> {
    Err(PlatformError::Unsupported("listening on a local socket"))
}

/// Not supported.
pub fn adopt_unix(_descriptor: Descriptor) -> Result<UnixListener, PlatformError> {
    Err(PlatformError::Unsupported("listening on a local socket"))
}

/// Not supported.
pub fn set_access_unix(_path: &Path, _mode: u32, _group: Option<&str>) -> Result<(), PlatformError> {
    Err(PlatformError::Unsupported("listening on a local socket"))
}
