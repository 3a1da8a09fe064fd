//! This host's side of the tunnel: slot, device, addresses, routes and rules, and taking all of it off again.

use std::future::Future;

use config::client::ClientConfig;
use ipnet::IpNet;
use plan::NetworkPlan;
use platform::PlatformError;
use platform::capabilities::has_net_admin;
use platform::network::{Network, Restored, strict_reverse_path};
use platform::slot::SlotLock;
use platform::tun::{Tun, TunOptions};
use tracing::{info, warn};

use crate::ClientError;
use crate::device::{Device, MemoryDevice};

/// Routes of other tunnels that are named in the log.
const SHOWN_OVERLAPS: usize = 5;

/// Proof that the host is as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Nothing was put on it.
    Untouched,
    /// It is being restored still.
    Unfinished([String; 1]),
    /// What the platform removed, and what it could not.
    Restored(Restored),
}

impl Proof {
    /// For a stop whose budget is used up.
    pub(crate) fn unfinished() -> Self {
        Self::Unfinished(["still being removed".to_owned()])
    }

    /// What is left, one sentence each.
    pub(crate) fn residue(&self) -> &[String] {
        match self {
            Self::Untouched => &[],
            Self::Unfinished(words) => words,
            Self::Restored(restored) => restored.residue(),
        }
    }
}

/// The proofs of this shell. Nothing is owed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShellProofs;

impl lifecycle::Proofs for ShellProofs {
    type Restored = Proof;
    type Owed = ();
}

/// Where the tunnel's packets and routes go.
pub(crate) enum Host {
    /// The kernel of this host.
    Real(RealHost),
    /// Memory; the host is not touched.
    Memory(Option<MemoryDevice>),
}

/// The kernel of this host, and what we put on it.
pub(crate) struct RealHost {
    lock: SlotLock,
    network: Network,
    interface: String,
    applied: Option<Applied>,
}

struct Applied {
    tun_index: u32,
    plan: NetworkPlan,
}

/// A change of the host that failed.
pub(crate) enum InstallError {
    /// Nothing was left behind.
    Clean(ClientError),
    /// The tunnel that was there is damaged.
    Damaged(ClientError),
}

impl Host {
    /// Locks a slot for this tunnel, and sweeps what a killed process left in it.
    pub(crate) async fn open(config: &ClientConfig) -> Result<Self, ClientError> {
        if !has_net_admin() {
            return Err(ClientError::Platform(PlatformError::NotPermitted {
                what: "configure the network of this host".to_owned(),
                hint: "CAP_NET_ADMIN is needed; run as root, or give the service `AmbientCapabilities=CAP_NET_ADMIN`"
                    .to_owned(),
            }));
        }
        let lock = SlotLock::acquire(&config.tunnel.runtime_dir, &config.tunnel.name)?;
        let network = Network::open().await?;
        let swept = network.sweep(&lock.slot()).await;
        if !swept.removed().is_empty() {
            warn!(
                removed = swept.removed().join("; "),
                "removed what an earlier run left on this host"
            );
        }
        if !swept.is_complete() {
            warn!(
                residue = swept.residue().join("; "),
                "could not remove all that an earlier run left"
            );
        }
        Ok(Self::Real(RealHost {
            lock,
            network,
            interface: config.tunnel.interface.clone(),
            applied: None,
        }))
    }

    /// The mark that keeps the tunnel's own packets out of the tunnel.
    pub(crate) fn mark(&self) -> Option<u32> {
        match self {
            Self::Real(real) => Some(real.lock.slot().mark()),
            Self::Memory(_) => None,
        }
    }

    /// The networks this host reaches directly, but for the tunnel's own.
    pub(crate) async fn local_networks(&self) -> Result<Vec<(String, IpNet)>, ClientError> {
        let Self::Real(real) = self else { return Ok(Vec::new()) };
        let own = real.applied.as_ref().map(|applied| applied.tun_index);
        let networks = real.network.connected_networks(own).await?;
        Ok(networks
            .into_iter()
            .map(|network| (network.interface, network.net))
            .collect())
    }

    /// Puts `plan` on the host. `device` gets the device if there is none yet.
    pub(crate) async fn install(&mut self, plan: NetworkPlan, device: &mut Option<Device>) -> Result<(), InstallError> {
        match self {
            Self::Real(real) => real.install(plan, device).await,
            Self::Memory(memory) => {
                if let Some(memory) = memory.take() {
                    *device = Some(Device::Memory(memory));
                }
                Ok(())
            }
        }
    }

    /// Takes everything off the host but the device itself. The future owns what it needs.
    pub(crate) fn release(&mut self) -> impl Future<Output = Proof> + Send + 'static {
        let work = match self {
            Self::Real(real) => {
                let slot = real.lock.slot();
                real.applied
                    .take()
                    .map(|applied| (real.network.clone(), slot, applied.tun_index))
            }
            Self::Memory(_) => None,
        };
        async move {
            match work {
                Some((network, slot, tun_index)) => Proof::Restored(network.release(&slot, tun_index).await),
                None => Proof::Untouched,
            }
        }
    }

    /// Takes the device of a tunnel that is down.
    pub(crate) fn take_back(&mut self, device: Option<Device>) {
        match (self, device) {
            (Self::Memory(slot), Some(Device::Memory(memory))) => *slot = Some(memory),
            // The kernel removes the device; about 20 ms.
            (_, device) => drop(device),
        }
    }
}

impl RealHost {
    async fn install(&mut self, plan: NetworkPlan, device: &mut Option<Device>) -> Result<(), InstallError> {
        let slot = self.lock.slot();
        if let Some(applied) = &mut self.applied {
            if applied.plan != plan {
                let (index, old) = (applied.tun_index, &applied.plan);
                let replaced = self.network.replace_plan(&slot, index, old, &plan).await;
                replaced.map_err(|error| InstallError::Damaged(error.into()))?;
                applied.plan = plan;
            }
            return Ok(());
        }
        let clean = |error: PlatformError| InstallError::Clean(error.into());
        let tun = Tun::create(&TunOptions {
            name: self.interface.clone(),
            mtu: plan.mtu,
        })
        .map_err(clean)?;
        self.network.apply(&slot, tun.index(), &plan).await.map_err(clean)?;
        self.applied = Some(Applied {
            tun_index: tun.index(),
            plan,
        });
        *device = Some(Device::Tun(tun));
        self.warn_of_conflicts().await;
        Ok(())
    }

    /// What makes a tunnel that is set up correctly misbehave all the same.
    async fn warn_of_conflicts(&self) {
        let Some(Applied { plan, .. }) = &self.applied else {
            return;
        };
        let strict = if plan.default_v4 {
            strict_reverse_path()
        } else {
            Vec::new()
        };
        if !strict.is_empty() {
            warn!(
                interfaces = strict.join(" "),
                "strict reverse path filter drops the gateway's answers; set net.ipv4.conf.INTERFACE.rp_filter=2"
            );
        }
        let others = self
            .network
            .other_tunnel_routes(&self.lock.slot())
            .await
            .unwrap_or_default();
        let shared = others
            .iter()
            .filter(|(_, net)| plan.routes.iter().any(|route| route.net == *net));
        for (slot, net) in shared.take(SHOWN_OVERLAPS) {
            info!(%net, slot = slot.number(), "another tunnel on this host has the same route; the lower slot wins");
        }
    }
}
