//! Network namespaces: this system has none. Never run on this system yet.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::net::IpAddr;
use std::process::Command;

use ipnet::IpNet;

use crate::PlatformError;
use crate::netns::ChildView;
use crate::network::HostState;

type Result<T> = std::result::Result<T, PlatformError>;

const WHAT: &str = "making network namespaces";

/// Not supported.
pub fn unshare_process(_user: bool) -> Result<()> {
    Err(PlatformError::Unsupported(WHAT))
}

/// Does nothing on this system.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    command
}

/// There is none on this system: [`Namespace::create`] says so.
#[derive(Debug)]
pub struct Namespace(Infallible);

impl Namespace {
    /// Not supported.
    pub fn create() -> Result<Self> {
        Err(PlatformError::Unsupported(WHAT))
    }

    /// Not supported.
    pub fn current() -> Result<Self> {
        Err(PlatformError::Unsupported(WHAT))
    }

    /// See [`Namespace::create`].
    pub fn try_clone(&self) -> io::Result<Self> {
        match self.0 {}
    }

    /// See [`Namespace::create`].
    pub fn run<T: Send>(&self, _f: impl FnOnce() -> T + Send) -> Result<T> {
        match self.0 {}
    }

    /// See [`Namespace::create`].
    pub fn command(&self, _program: impl AsRef<OsStr>) -> Result<Command> {
        match self.0 {}
    }

    /// See [`Namespace::create`].
    pub fn command_with(&self, _program: impl AsRef<OsStr>, _view: &ChildView) -> Result<Command> {
        match self.0 {}
    }

    /// See [`Namespace::create`].
    pub fn veth(&self, _peer: &Self, _name: &str, _peer_name: &str) -> Result<()> {
        match self.0 {}
    }

    /// See [`Namespace::create`].
    pub fn address(&self, _interface: &str, _net: IpNet) -> Result<()> {
        match self.0 {}
    }

    /// See [`Namespace::create`].
    pub fn up(&self, _interface: &str) -> Result<()> {
        match self.0 {}
    }

    /// See [`Namespace::create`].
    pub fn down(&self, _interface: &str) -> Result<()> {
        match self.0 {}
    }

    /// See [`Namespace::create`].
    pub fn set_mtu(&self, _interface: &str, _mtu: u16) -> Result<()> {
        match self.0 {}
    }

    /// See [`Namespace::create`].
    pub fn delete(&self, _interface: &str) -> Result<()> {
        match self.0 {}
    }

    /// See [`Namespace::create`].
    pub fn route(&self, _net: IpNet, _via: Option<IpAddr>, _interface: Option<&str>) -> Result<()> {
        match self.0 {}
    }

    /// See [`Namespace::create`].
    pub fn default_route(&self, _via: IpAddr) -> Result<()> {
        match self.0 {}
    }

    /// See [`Namespace::create`].
    pub fn forwarding(&self, _on: bool) -> Result<()> {
        match self.0 {}
    }

    /// See [`Namespace::create`].
    pub fn settle(&self) -> Result<()> {
        match self.0 {}
    }

    /// See [`Namespace::create`].
    pub fn snapshot(&self) -> Result<HostState> {
        match self.0 {}
    }
}
