//! Name servers of a tunnel: not supported yet. Never run on this system yet.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use plan::Dns;
use tokio::sync::watch;

use crate::PlatformError;
use crate::dns::{Mode, Places, Reverted, State, Way};
use crate::network::Restored;

const UNSUPPORTED: PlatformError = PlatformError::Unsupported("setting name servers");

/// Name servers that are in use: never here.
#[derive(Debug)]
pub struct Applied(Infallible);

impl Applied {
    /// Never called: there is no such value.
    pub fn way(&self) -> Way {
        match self.0 {}
    }

    /// Never called: there is no such value.
    pub fn note(&self) -> Option<&str> {
        match self.0 {}
    }

    /// Never called: there is no such value.
    pub fn state(&self) -> watch::Receiver<State> {
        match self.0 {}
    }
}

/// There is none that we know how to tell.
#[derive(Clone, Debug)]
pub struct Resolver;

impl Resolver {
    /// Knows nobody.
    pub fn new(_mode: Mode, _places: Places) -> Self {
        Self
    }

    /// Not supported.
    pub async fn apply(&self, _interface: &str, _index: u32, _dns: &Dns) -> Result<Applied, PlatformError> {
        Err(UNSUPPORTED)
    }

    /// Never called: nothing was applied.
    pub async fn revert(&self, _interface: &str, applied: Applied) -> Result<Reverted, PlatformError> {
        match applied.0 {}
    }

    /// Nothing was applied.
    pub async fn clear(&self, _interface: &str, _recorded: bool) -> Restored {
        Restored::new(Vec::new(), Vec::new())
    }
}

/// Not supported.
pub fn serve(_socket: Option<&Path>, _places: &Places, _idle: Duration) -> Result<(), PlatformError> {
    Err(UNSUPPORTED)
}
