//! The service manager: not supported yet. Never run on this system yet.

use std::convert::Infallible;
use std::io;

/// Something of the system that a service manager could keep.
pub use std::os::windows::io::OwnedHandle as Descriptor;

/// There is none on this system: [`Manager::from_env`] says so.
#[derive(Clone, Debug)]
pub struct Manager(Infallible);

impl Manager {
    /// None on this system.
    pub fn from_env() -> Option<Self> {
        None
    }

    /// See [`Manager::from_env`].
    pub fn ready(&self) -> io::Result<()> {
        match self.0 {}
    }

    /// See [`Manager::from_env`].
    pub fn stopping(&self) -> io::Result<()> {
        match self.0 {}
    }

    /// See [`Manager::from_env`].
    pub fn status(&self, _text: &str) -> io::Result<()> {
        match self.0 {}
    }

    /// See [`Manager::from_env`].
    pub fn can_store(&self) -> bool {
        match self.0 {}
    }

    /// See [`Manager::from_env`].
    pub fn store(&self, _name: &str, _descriptor: &impl std::os::windows::io::AsHandle) -> io::Result<()> {
        match self.0 {}
    }

    /// See [`Manager::from_env`].
    pub fn unstore(&self, _name: &str) -> io::Result<()> {
        match self.0 {}
    }
}

/// None on this system.
pub fn taken() -> Vec<(String, Descriptor)> {
    Vec::new()
}

/// Not supported.
pub fn sealed(_bytes: &[u8]) -> io::Result<Descriptor> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not supported.
pub fn unseal(_descriptor: Descriptor) -> io::Result<Vec<u8>> {
    Err(io::ErrorKind::Unsupported.into())
}
