//! Namespaces.
use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::process::Command;

use ipnet::IpNet;

use crate::PlatformError;
use crate::netns::ChildView;
use crate::network::HostState;

type Result<T> = std::result::Result<T, PlatformError>;

/// Moves this process into a network (and mount) namespace of its own. `user`: also into a user namespace, even as root.
pub fn unshare_process(_user: bool) -> Result<()> {
    Err(PlatformError::Unsupported("namespaces"))
}

/// Kills the child when the thread that spawned it ends.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    command
}

/// A network namespace, held by a descriptor.
#[derive(Debug)]
pub struct Namespace {
    _fd: OwnedFd,
}

impl Namespace {
    /// Makes a new one, with `lo` up.
    pub fn create() -> Result<Self> {
        Err(PlatformError::Unsupported("namespaces"))
    }
    /// The one this process is in.
    pub fn current() -> Result<Self> {
        Err(PlatformError::Unsupported("namespaces"))
    }
    /// Runs `f` inside, on a thread of its own.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let _ = f;
        Err(PlatformError::Unsupported("namespaces"))
    }
    /// A command whose child runs inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        self.command_with(program, &ChildView::default())
    }
    /// A command whose child runs inside, with a changed view of the file system.
    pub fn command_with(&self, _program: impl AsRef<OsStr>, _view: &ChildView) -> Result<Command> {
        Err(PlatformError::Unsupported("namespaces"))
    }
    /// Gives it a name under /run/netns for `ip netns exec`.
    pub fn publish(&self, _name: &str) -> Result<()> {
        Err(PlatformError::Unsupported("namespaces"))
    }
    /// Lays a cable to `peer`.
    pub fn veth(&self, _peer: &Self, _name: &str, _peer_name: &str) -> Result<()> {
        Err(PlatformError::Unsupported("namespaces"))
    }
    /// Adds an address (without duplicate address detection).
    pub fn address(&self, _interface: &str, _net: IpNet) -> Result<()> {
        Err(PlatformError::Unsupported("namespaces"))
    }
    /// Sets an interface up.
    pub fn up(&self, _interface: &str) -> Result<()> {
        Err(PlatformError::Unsupported("namespaces"))
    }
    /// Sets an interface down.
    pub fn down(&self, _interface: &str) -> Result<()> {
        Err(PlatformError::Unsupported("namespaces"))
    }
    /// Sets the MTU of an interface, in bytes.
    pub fn set_mtu(&self, _interface: &str, _mtu: u16) -> Result<()> {
        Err(PlatformError::Unsupported("namespaces"))
    }
    /// Adds a route to `net` by way of `via`, out of `interface`, or both.
    pub fn route(&self, _net: IpNet, _via: Option<IpAddr>, _interface: Option<&str>) -> Result<()> {
        Err(PlatformError::Unsupported("namespaces"))
    }
    /// Adds the default route of `via`'s family.
    pub fn default_route(&self, _via: IpAddr) -> Result<()> {
        Err(PlatformError::Unsupported("namespaces"))
    }
    /// Switches forwarding of IPv4 and IPv6.
    pub fn forwarding(&self, _on: bool) -> Result<()> {
        Err(PlatformError::Unsupported("namespaces"))
    }
    /// The state of this host, for comparing.
    pub fn snapshot(&self) -> Result<HostState> {
        Err(PlatformError::Unsupported("namespaces"))
    }
}
