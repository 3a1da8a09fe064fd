//! TUN.
use std::io;

use crate::PlatformError;
use crate::tun::TunOptions;

/// A TUN device of our own. Dropping it removes the device with its addresses and routes.
#[derive(Debug)]
pub struct Tun {
    name: String,
    index: u32,
}

impl Tun {
    /// Makes the device, down and without addresses. Needs a tokio runtime with I/O.
    pub fn create(_options: &TunOptions) -> Result<Self, PlatformError> {
        Err(PlatformError::Unsupported("TUN"))
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Index of the interface.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Waits for one packet of the host. Cancel safe.
    pub async fn recv(&self, _packet: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Takes a packet if one is waiting.
    pub fn try_recv(&self, _packet: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Hands one packet to the host. Cancel safe.
    pub async fn send(&self, _packet: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Hands one packet to the host if it takes it at once.
    pub fn try_send(&self, _packet: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Changes the MTU, in bytes.
    pub fn set_mtu(&self, _mtu: u16) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Whether this error of [`Tun::recv`] or [`Tun::send`] means that the device was removed.
pub fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADFD)
}
