//! Signals: this system has none. Never run on this system yet.

use std::convert::Infallible;
use std::io;

use crate::signals::Signal;

/// There is none on this system: [`Signals::new`] says so.
#[derive(Debug)]
pub struct Signals(Infallible);

impl Signals {
    /// Not supported.
    pub fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// See [`Signals::new`].
    pub async fn next(&mut self) -> Signal {
        match self.0 {}
    }
}

/// Not supported.
pub fn send(_pid: u32, _signal: Signal) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not supported.
pub fn stop_process(_pid: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not supported.
pub fn continue_process(_pid: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not supported.
pub fn kill_process(_pid: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not known on this system: no.
pub fn is_alive(_pid: u32) -> bool {
    false
}
