//! rtnetlink.
use std::net::IpAddr;

use ipnet::IpNet;
use plan::NetworkPlan;

use crate::PlatformError;
use crate::network::{ConnectedNetwork, HostState, Path, Restored};
use crate::slot::Slot;

type Result<T> = std::result::Result<T, PlatformError>;

/// A conversation with the kernel about the network of this host.
#[derive(Clone, Debug)]
pub struct Network {}

impl Network {
    /// Opens the conversation.
    pub async fn open() -> Result<Self> {
        Err(PlatformError::Unsupported("rtnetlink"))
    }
    /// Removes what a killed process left in this slot.
    pub async fn sweep(&self, _slot: &Slot) -> Restored {
        Restored::new(Vec::new(), Vec::new())
    }
    /// The index of an interface.
    pub async fn link(&self, _name: &str) -> Result<u32> {
        Err(PlatformError::Unsupported("rtnetlink"))
    }
    /// Sets a link up or down, and its MTU.
    pub async fn set_link(&self, _index: u32, _up: bool, _mtu: Option<u16>) -> Result<()> {
        Err(PlatformError::Unsupported("rtnetlink"))
    }
    /// Puts a plan on the host.
    pub async fn apply(&self, _slot: &Slot, _tun_index: u32, _plan: &NetworkPlan) -> Result<()> {
        Err(PlatformError::Unsupported("rtnetlink"))
    }
    /// Changes what is on the host from one plan to another.
    pub async fn replace_plan(
        &self,
        _slot: &Slot,
        _tun_index: u32,
        _old: &NetworkPlan,
        _new: &NetworkPlan,
    ) -> Result<()> {
        Err(PlatformError::Unsupported("rtnetlink"))
    }
    /// Takes everything of this slot off the host.
    pub async fn release(&self, _slot: &Slot, _tun_index: u32) -> Restored {
        Restored::new(Vec::new(), Vec::new())
    }
    /// Gives the gateway's device its addresses.
    pub async fn apply_gateway(&self, _tun_index: u32, _addresses: &[IpNet], _mtu: u16) -> Result<()> {
        Err(PlatformError::Unsupported("rtnetlink"))
    }
    /// The networks that this host reaches directly.
    pub async fn connected_networks(&self, _exclude_index: Option<u32>) -> Result<Vec<ConnectedNetwork>> {
        Err(PlatformError::Unsupported("rtnetlink"))
    }
    /// Routes of other tunnels on this host.
    pub async fn other_tunnel_routes(&self, _slot: &Slot) -> Result<Vec<(Slot, IpNet)>> {
        Err(PlatformError::Unsupported("rtnetlink"))
    }
    /// Where a packet to `to` with this mark would go.
    pub async fn path_to(&self, _to: IpAddr, _mark: Option<u32>) -> Result<Path> {
        Err(PlatformError::Unsupported("rtnetlink"))
    }
    /// The state of the host, for comparing.
    pub async fn snapshot(&self) -> Result<HostState> {
        Err(PlatformError::Unsupported("rtnetlink"))
    }
}

/// Whether this host forwards IPv4, and IPv6.
pub fn forwarding_enabled() -> (bool, bool) {
    (false, false)
}

/// Whether IPv6 addresses can be used on new interfaces.
pub fn ipv6_available() -> bool {
    false
}

/// Interfaces whose strict reverse path filter drops replies when a default route goes through a tunnel.
pub fn strict_reverse_path() -> Vec<String> {
    Vec::new()
}
