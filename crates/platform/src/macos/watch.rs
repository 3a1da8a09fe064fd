//! Changes of the network: nobody tells of them on this system yet. Never run on this system yet.

use std::convert::Infallible;
use std::io;

use crate::PlatformError;
use crate::watch::Changes;

/// There is none on this system: [`NetworkWatch::open`] says so.
#[derive(Debug)]
pub struct NetworkWatch(Infallible);

impl NetworkWatch {
    /// Not supported.
    ///
    /// # Errors
    /// Always.
    pub fn open(_interface: &str) -> Result<Self, PlatformError> {
        Err(PlatformError::Unsupported("listening to changes of the network"))
    }

    /// See [`NetworkWatch::open`].
    ///
    /// # Errors
    /// Never.
    pub async fn next(&mut self) -> io::Result<Changes> {
        match self.0 {}
    }
}
