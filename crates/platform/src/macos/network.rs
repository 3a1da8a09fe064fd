//! Routes and rules: not supported yet. Never run on this system yet.

use std::convert::Infallible;
use std::net::IpAddr;

use ipnet::IpNet;
use plan::{NetworkPlan, Undo};

use crate::PlatformError;
use crate::network::{ConnectedNetwork, HostState, Path, Restored};
use crate::slot::Slot;

type Result<T> = std::result::Result<T, PlatformError>;

/// There is none on this system: [`Network::open`] says so.
#[derive(Clone, Debug)]
pub struct Network(Infallible);

impl Network {
    /// Not supported.
    pub async fn open() -> Result<Self> {
        Err(PlatformError::Unsupported("configuring routes"))
    }

    /// See [`Network::open`].
    pub async fn sweep(&self, _slot: &Slot) -> Restored {
        match self.0 {}
    }

    /// See [`Network::open`].
    pub async fn link(&self, _name: &str) -> Result<u32> {
        match self.0 {}
    }

    /// See [`Network::open`].
    pub async fn set_link(&self, _index: u32, _up: bool, _mtu: Option<u16>) -> Result<()> {
        match self.0 {}
    }

    /// See [`Network::open`].
    pub async fn apply(&self, _slot: &Slot, _tun_index: u32, _plan: &NetworkPlan) -> Result<()> {
        match self.0 {}
    }

    /// See [`Network::open`].
    pub async fn replace_plan(
        &self,
        _slot: &Slot,
        _tun_index: u32,
        _old: &NetworkPlan,
        _new: &NetworkPlan,
    ) -> Result<()> {
        match self.0 {}
    }

    /// See [`Network::open`].
    pub async fn mend(&self, _slot: &Slot, _tun_index: u32, _plan: &NetworkPlan) -> Result<Vec<String>> {
        match self.0 {}
    }

    /// See [`Network::open`].
    pub async fn release(&self, _slot: &Slot, _tun_index: u32) -> Restored {
        match self.0 {}
    }

    /// See [`Network::open`].
    pub async fn remove_link(&self, _name: &str) -> Result<bool> {
        match self.0 {}
    }

    /// See [`Network::open`].
    pub async fn undo(&self, _undo: &Undo) -> Restored {
        match self.0 {}
    }

    /// See [`Network::open`].
    pub async fn apply_gateway(&self, _tun_index: u32, _addresses: &[IpNet], _mtu: u16) -> Result<()> {
        match self.0 {}
    }

    /// See [`Network::open`].
    pub async fn connected_networks(&self, _exclude_index: Option<u32>) -> Result<Vec<ConnectedNetwork>> {
        match self.0 {}
    }

    /// See [`Network::open`].
    pub async fn other_tunnel_routes(&self, _slot: &Slot) -> Result<Vec<(Slot, IpNet)>> {
        match self.0 {}
    }

    /// See [`Network::open`].
    pub async fn rivals(&self, _slot: &Slot, _plan: &NetworkPlan) -> Result<Vec<String>> {
        match self.0 {}
    }

    /// See [`Network::open`].
    pub async fn path_to(&self, _to: IpAddr, _mark: Option<u32>) -> Result<Path> {
        match self.0 {}
    }

    /// See [`Network::open`].
    pub async fn snapshot(&self) -> Result<HostState> {
        match self.0 {}
    }
}

/// Not known on this system: no.
pub fn forwarding_enabled() -> (bool, bool) {
    (false, false)
}

/// Not known on this system.
pub fn forward_ipv4_from(_interface: &str) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Not known on this system: no.
pub fn ipv6_available() -> bool {
    false
}

/// This system has no such filter.
pub fn strict_reverse_path() -> Vec<String> {
    Vec::new()
}
