//! This host's side of the tunnel: slot, device, addresses, routes and rules, and taking all of it off again.

use std::future::Future;

use config::client::ClientConfig;
use ipnet::IpNet;
use plan::NetworkPlan;
use platform::PlatformError;
use platform::capabilities::has_net_admin;
use platform::network::{Network, strict_reverse_path};
use platform::slot::{Slot, SlotLock};
use platform::tun::{Tun, TunOptions};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::ClientError;
use crate::device::{Device, MemoryDevice};
use crate::proof::Proof;

/// Routes of other tunnels that are named in the log.
const SHOWN_OVERLAPS: usize = 5;

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
    /// An installer went out and has not come back: it may have left anything of the slot behind.
    touched: bool,
    /// The last device, on its way out: its name is free when the other end is dropped.
    closing: Option<watch::Receiver<()>>,
}

/// What is on the host.
#[derive(Clone)]
pub(crate) struct Applied {
    tun_index: u32,
    plan: NetworkPlan,
}

/// What changes the host, beside the loop. Dropped halfway, it leaves what [`Host::release`] clears.
pub(crate) enum Installer {
    /// The kernel of this host.
    Real {
        network: Network,
        slot: Slot,
        interface: String,
        applied: Option<Applied>,
        closing: Option<watch::Receiver<()>>,
    },
    /// Memory.
    Memory,
}

/// What an installer put on the host.
pub(crate) struct Installed(Option<(Applied, Option<Tun>)>);

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
            touched: false,
            closing: None,
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
    pub(crate) fn local_networks(&self) -> impl Future<Output = Result<Vec<(String, IpNet)>, ClientError>> + use<> {
        let real = match self {
            Self::Real(real) => {
                let own = real.applied.as_ref().map(|applied| applied.tun_index);
                Some((real.network.clone(), own))
            }
            Self::Memory(_) => None,
        };
        async move {
            let Some((network, own)) = real else {
                return Ok(Vec::new());
            };
            let networks = network.connected_networks(own).await?;
            Ok(networks
                .into_iter()
                .map(|network| (network.interface, network.net))
                .collect())
        }
    }

    /// What can change the host, once. Its result goes to [`Host::installed`].
    pub(crate) fn installer(&mut self) -> Installer {
        match self {
            Self::Real(real) => {
                real.touched = true;
                Installer::Real {
                    network: real.network.clone(),
                    slot: real.lock.slot(),
                    interface: real.interface.clone(),
                    applied: real.applied.clone(),
                    closing: real.closing.clone(),
                }
            }
            Self::Memory(_) => Installer::Memory,
        }
    }

    /// Takes note of what an installer did. Returns the device if there was none before.
    pub(crate) fn installed(&mut self, installed: Installed) -> Option<Device> {
        match (self, installed.0) {
            (Self::Real(real), Some((applied, tun))) => {
                real.applied = Some(applied);
                tun.map(Device::Tun)
            }
            (Self::Real(_), None) => None,
            (Self::Memory(memory), _) => memory.take().map(Device::Memory),
        }
    }

    /// Takes everything off the host but the device itself. The future owns what it needs.
    pub(crate) fn release(&mut self) -> impl Future<Output = Proof> + Send + use<> {
        let work = match self {
            Self::Real(real) => {
                let touched = std::mem::take(&mut real.touched);
                let index = real.applied.take().map(|applied| applied.tun_index);
                touched.then(|| (real.network.clone(), real.lock.slot(), index))
            }
            Self::Memory(_) => None,
        };
        async move {
            match work {
                Some((network, slot, Some(index))) => Proof::Restored(network.release(&slot, index).await),
                Some((network, slot, None)) => Proof::Restored(network.sweep(&slot).await),
                None => Proof::Untouched,
            }
        }
    }

    /// Takes the device of a tunnel that is down. What is returned ends when the host is rid of it: about 20 ms later.
    pub(crate) fn take_back(&mut self, device: Device) -> Option<impl Future<Output = ()> + Send + use<>> {
        match (self, device) {
            (Self::Memory(slot), Device::Memory(memory)) => {
                *slot = Some(memory);
                None
            }
            (Self::Real(real), Device::Tun(tun)) => {
                let (open, closing) = watch::channel(());
                real.closing = Some(closing);
                let close = tokio::task::spawn_blocking(move || {
                    drop(tun);
                    drop(open);
                });
                Some(async move { drop(close.await) })
            }
            (Self::Real(_), Device::Memory(_)) | (Self::Memory(_), Device::Tun(_)) => None,
        }
    }
}

impl Installer {
    /// Puts `plan` on the host, in place of what is there.
    pub(crate) async fn install(self, plan: NetworkPlan) -> Result<Installed, InstallError> {
        let Self::Real {
            network,
            slot,
            interface,
            applied,
            closing,
        } = self
        else {
            return Ok(Installed(None));
        };
        if let Some(applied) = applied {
            if applied.plan != plan {
                let replaced = network
                    .replace_plan(&slot, applied.tun_index, &applied.plan, &plan)
                    .await;
                replaced.map_err(|error| InstallError::Damaged(error.into()))?;
            }
            let tun_index = applied.tun_index;
            return Ok(Installed(Some((Applied { tun_index, plan }, None))));
        }
        if let Some(mut closing) = closing {
            // Ends with an error when the other end is dropped, which is what is waited for.
            let _ = closing.changed().await;
        }
        let clean = |error: PlatformError| InstallError::Clean(error.into());
        let tun = Tun::create(&TunOptions {
            name: interface,
            mtu: plan.mtu,
        })
        .map_err(clean)?;
        network.apply(&slot, tun.index(), &plan).await.map_err(clean)?;
        warn_of_conflicts(&network, slot, &plan).await;
        let tun_index = tun.index();
        Ok(Installed(Some((Applied { tun_index, plan }, Some(tun)))))
    }
}

/// What makes a tunnel that is set up correctly misbehave all the same.
async fn warn_of_conflicts(network: &Network, slot: Slot, plan: &NetworkPlan) {
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
    let others = network.other_tunnel_routes(&slot).await.unwrap_or_default();
    let shared = others
        .iter()
        .filter(|(_, net)| plan.routes.iter().any(|route| route.net == *net));
    for (slot, net) in shared.take(SHOWN_OVERLAPS) {
        info!(%net, slot = slot.number(), "another tunnel on this host has the same route; the lower slot wins");
    }
}
