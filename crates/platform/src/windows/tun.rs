//! TUN: not supported yet. Wintun wants blocking calls on a thread of its own. Never run on this system yet.

use std::convert::Infallible;
use std::io::{self, IoSlice};

use crate::PlatformError;
use crate::service::Descriptor;
use crate::tun::{Identity, Offloads, TunOptions, name_fault};

/// There is none on this system: [`Tun::create`] says so.
#[derive(Debug)]
pub struct Tun(Infallible);

/// There is none on this system: [`TunQueue::create`] says so.
#[derive(Debug)]
pub struct TunQueue(Infallible);

impl TunQueue {
    /// Not supported.
    pub fn create(options: &TunOptions, _queues: usize) -> Result<Vec<Self>, PlatformError> {
        Tun::create(options).map(|tun| match tun.0 {})
    }

    /// See [`TunQueue::create`].
    pub fn index(&self) -> u32 {
        match self.0 {}
    }

    /// See [`TunQueue::create`].
    pub fn open(self) -> Result<Tun, PlatformError> {
        match self.0 {}
    }
}

impl Tun {
    /// Not supported.
    pub fn create(options: &TunOptions) -> Result<Self, PlatformError> {
        if let Some(reason) = name_fault(&options.name) {
            let name = options.name.clone();
            return Err(PlatformError::InterfaceName { name, reason });
        }
        Err(PlatformError::Unsupported("making TUN devices"))
    }

    /// Not supported.
    pub fn adopt(_descriptor: Descriptor, _expected_name: &str) -> Result<Self, PlatformError> {
        Err(PlatformError::Unsupported("keeping TUN devices"))
    }

    /// See [`Tun::create`].
    pub fn descriptor(&self) -> io::Result<Descriptor> {
        match self.0 {}
    }

    /// See [`Tun::create`].
    pub fn name(&self) -> &str {
        match self.0 {}
    }

    /// See [`Tun::create`].
    pub fn index(&self) -> u32 {
        match self.0 {}
    }

    /// See [`Tun::create`].
    pub fn offloads(&self) -> Option<Offloads> {
        match self.0 {}
    }

    /// See [`Tun::create`].
    pub fn try_send_pieces(&self, _packet: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.0 {}
    }

    /// See [`Tun::create`].
    pub async fn recv(&self, _packet: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }

    /// See [`Tun::create`].
    pub fn try_recv(&self, _packet: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }

    /// See [`Tun::create`].
    pub fn try_send(&self, _packet: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }

    /// See [`Tun::create`].
    pub fn set_mtu(&self, _mtu: u16) -> io::Result<()> {
        match self.0 {}
    }
}

/// Not supported.
pub fn identify(_descriptor: &Descriptor) -> io::Result<Identity> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether this error of a [`Tun`] means that somebody removed the device: there is none to remove.
pub fn is_gone(_error: &io::Error) -> bool {
    false
}
