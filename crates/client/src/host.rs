//! This host's side of the tunnel: slot, device, addresses, routes and rules, and taking all of it off again.
//!
//! What changes the host is a task of its own that holds [`Kernel::on_host`]: whoever loses interest does not leave a change
//! half made, and the release that follows waits for its end.

mod survey;

use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, MutexGuard, PoisonError};

use config::client::ClientConfig;
use ipnet::IpNet;
use plan::{Flows, NetworkPlan, Undo};
use platform::PlatformError;
use platform::capabilities::has_net_admin;
use platform::firewall::{Nft, Purpose, Table};
use platform::network::{Network, Restored, strict_reverse_path};
use platform::service::Descriptor;
use platform::slot::{Slot, SlotLock};
use platform::tun::{Tun, TunOptions, identify};
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};

use crate::ClientError;
use crate::device::{Device, MemoryDevice};
use crate::flows::{self, Steered, Told};
use crate::gate::{Gate, report};
use crate::names::Names;
use crate::proof::Proof;
use crate::status::{DnsStatus, Status};

pub(crate) use survey::Survey;

/// Routes of other tunnels that are named in the log.
const SHOWN_OVERLAPS: usize = 5;

/// Where the tunnel's packets and routes go.
pub(crate) enum Host {
    /// The kernel of this host.
    Real(RealHost),
    /// Memory; the host is not touched.
    Memory(Option<MemoryDevice>),
}

/// The kernel of this host.
pub(crate) struct RealHost {
    kernel: Arc<Kernel>,
}

/// What changes the host, beside the loop.
pub(crate) struct Installer {
    kernel: Option<Arc<Kernel>>,
}

/// The kernel of this host, and what we put on it.
struct Kernel {
    lock: SlotLock,
    network: Network,
    names: Names,
    interface: String,
    /// The tunnel's name.
    tunnel: String,
    /// Make the device with offloads.
    offload: bool,
    gate: Gate,
    on_host: Mutex<OnHost>,
    /// A device that nobody has fetched yet. It has a lock of its own, which nobody holds for long: whoever looks at the host holds the other.
    fresh: std::sync::Mutex<Option<Tun>>,
    /// The last device, on its way out: its name is free when the other end is dropped. Here, so that whoever installs finds also the one
    /// that was let go after the order to install; locked for moments only.
    closing: std::sync::Mutex<Option<watch::Receiver<()>>>,
}

#[derive(Default)]
struct OnHost {
    applied: Option<Applied>,
    /// Flow rules in the kernel.
    steered: Option<Steered>,
    /// Something was tried that may have left anything of the slot behind.
    touched: bool,
}

struct Applied {
    tun_index: u32,
    plan: NetworkPlan,
}

/// What a plan may be put on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Onto {
    /// Whatever is there, if anything.
    Anything,
    /// Another plan, or it is not put there at all.
    Plan,
}

/// A change of the host that failed.
pub(crate) enum InstallError {
    /// Nothing was left behind.
    Clean(ClientError),
    /// The tunnel that was there is damaged.
    Damaged(ClientError),
}

impl Host {
    /// Locks a slot for this tunnel. What is on the host stays as it is. `status` is told of its name servers.
    pub(crate) async fn open(config: &ClientConfig, status: watch::Sender<Status>) -> Result<Self, ClientError> {
        if !has_net_admin() {
            return Err(ClientError::Platform(PlatformError::NotPermitted {
                what: "configure the network of this host".to_owned(),
                hint: "CAP_NET_ADMIN is needed; run as root, or give the service `AmbientCapabilities=CAP_NET_ADMIN`"
                    .to_owned(),
            }));
        }
        let lock = SlotLock::acquire(&config.tunnel.runtime_dir, &config.tunnel.name)?;
        let network = Network::open().await?;
        Ok(Self::Real(RealHost {
            kernel: Arc::new(Kernel {
                gate: Gate::new(lock.slot(), config),
                lock,
                network,
                names: Names::new(&config.dns, &config.tunnel.interface, status),
                interface: config.tunnel.interface.clone(),
                tunnel: config.tunnel.name.clone(),
                offload: config.tunnel.offload,
                on_host: Mutex::default(),
                fresh: std::sync::Mutex::default(),
                closing: std::sync::Mutex::default(),
            }),
        }))
    }

    /// Removes what a process that ended without a stop left: what its records say, and whatever else is in our slot.
    pub(crate) async fn clear(&self, records: &[Undo]) -> Vec<Restored> {
        let Self::Real(real) = self else { return Vec::new() };
        let Kernel {
            lock,
            network,
            names,
            interface,
            tunnel,
            ..
        } = &*real.kernel;
        let mut cleared = Vec::new();
        for undo in records {
            let Some(slot) = Slot::new(undo.slot) else { continue };
            // A tunnel is not bound to one slot: the lock files may have gone since, or lie elsewhere.
            let borrowed = if slot == lock.slot() {
                Ok(None)
            } else {
                lock.borrow(slot)
            };
            match borrowed {
                Ok(None) if slot != lock.slot() => {}
                Ok(_borrowed) => {
                    cleared.push(swept(slot, tunnel, network.undo(undo).await).await);
                    cleared.push(names.clear(&undo.interface, undo.plan.dns.is_usable()).await);
                }
                Err(error) => warn!("what an earlier run left in slot {slot} stays: {error}"),
            }
        }
        cleared.push(swept(lock.slot(), tunnel, network.sweep(&lock.slot()).await).await);
        cleared.push(names.clear(interface, false).await);
        cleared
    }

    /// Goes on with the device and the plan of the process before, as they are.
    ///
    /// # Errors
    /// They are not what the record says; the descriptor is closed.
    pub(crate) fn adopt(&mut self, descriptor: Descriptor, undo: &Undo) -> Result<(), PlatformError> {
        let refuse = |why: &str| {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, why.to_owned());
            Err(PlatformError::Io {
                what: "go on with the tunnel of the process before".to_owned(),
                source,
            })
        };
        let Self::Real(real) = self else {
            return refuse("it is in memory");
        };
        let Kernel { lock, interface, .. } = &*real.kernel;
        if undo.slot != lock.slot().number() || undo.interface != *interface {
            return refuse("it has another slot or name");
        }
        let tun = Tun::adopt(descriptor, interface)?;
        let Ok(mut on_host) = real.kernel.on_host.try_lock() else {
            return refuse("it is busy");
        };
        real.kernel.names.inherit(tun.index(), &undo.plan.dns);
        *on_host = OnHost {
            applied: Some(Applied {
                tun_index: tun.index(),
                plan: undo.plan.clone(),
            }),
            steered: None,
            touched: true,
        };
        *real.kernel.fresh() = Some(tun);
        Ok(())
    }

    /// Removes the device of the process before, which the service manager may hold open: the one that `descriptor` belongs
    /// to, and no other of the name that is configured now.
    pub(crate) async fn remove_device(&self, descriptor: &Descriptor) {
        let Self::Real(real) = self else { return };
        real.kernel.remove_device(descriptor).await;
    }

    /// The mark that keeps the tunnel's own packets out of the tunnel.
    pub(crate) fn mark(&self) -> Option<u32> {
        match self {
            Self::Real(real) => Some(real.kernel.lock.slot().mark()),
            Self::Memory(_) => None,
        }
    }

    /// The lockdown of this host; always open where the tunnel ends in memory.
    pub(crate) fn gate(&self) -> Gate {
        match self {
            Self::Real(real) => real.kernel.gate.clone(),
            Self::Memory(_) => Gate::default(),
        }
    }

    /// Whoever asks which way packets take; none where there are no routes.
    pub(crate) fn wayfinder(&self) -> Option<Wayfinder> {
        self.kernel().map(Wayfinder)
    }

    /// Name of the device; none if it is in memory.
    pub(crate) fn interface(&self) -> Option<&str> {
        match self {
            Self::Real(real) => Some(&real.kernel.interface),
            Self::Memory(_) => None,
        }
    }

    /// The name servers of the tunnel, and what became of them.
    pub(crate) fn dns(&self) -> Option<DnsStatus> {
        match self {
            Self::Real(real) => real.kernel.names.status(),
            Self::Memory(_) => None,
        }
    }

    /// What it will take to remove `plan`, once it is here.
    pub(crate) fn undo(&self) -> impl FnOnce(NetworkPlan) -> Option<Undo> + Send + use<> {
        let names = match self {
            Self::Real(real) => Some((real.kernel.lock.slot().number(), real.kernel.interface.clone())),
            Self::Memory(_) => None,
        };
        move |plan| names.map(|(slot, interface)| Undo { slot, interface, plan })
    }

    /// The networks this host reaches directly, but for the tunnel's own.
    pub(crate) fn local_networks(&self) -> impl Future<Output = Result<Vec<(String, IpNet)>, ClientError>> + use<> {
        let kernel = self.kernel();
        async move {
            let Some(kernel) = kernel else { return Ok(Vec::new()) };
            let on_host = kernel.on_host.lock().await;
            let own = on_host.applied.as_ref().map(|applied| applied.tun_index);
            let networks = kernel.network.connected_networks(own).await?;
            Ok(networks
                .into_iter()
                .map(|network| (network.interface, network.net))
                .collect())
        }
    }

    /// What puts a plan on the host.
    pub(crate) fn installer(&self) -> Installer {
        Installer { kernel: self.kernel() }
    }

    /// Replaces the flow rules of the tunnel that is there, if one is. The future owns what it needs.
    pub(crate) fn steer(&self, flows: Option<Flows>) -> impl Future<Output = Result<(), ClientError>> + Send + use<> {
        let kernel = self.kernel();
        async move {
            match kernel {
                Some(kernel) => kernel.steer(flows).await,
                None => Ok(()),
            }
        }
    }

    /// The flow rules that are in the kernel; nothing while something is being changed there.
    pub(crate) fn steered(&self) -> Option<Option<Arc<Told>>> {
        let Self::Real(real) = self else { return Some(None) };
        let on_host = real.kernel.on_host.try_lock().ok()?;
        Some(on_host.steered.as_ref().map(Steered::told))
    }

    /// The device, if there was none before the last plan was installed.
    pub(crate) fn device(&mut self) -> Option<Device> {
        match self {
            Self::Real(real) => real.kernel.take_fresh().map(Device::Tun),
            Self::Memory(memory) => memory.take().map(Device::Memory),
        }
    }

    /// Takes everything off the host but the device itself and its guard; the lockdown too, if `lift` says so. The future owns what it needs.
    pub(crate) fn release(&self, lift: bool) -> impl Future<Output = Proof> + Send + use<> {
        let kernel = self.kernel();
        async move {
            match kernel {
                Some(kernel) => kernel.release(lift).await,
                None => Proof::Untouched,
            }
        }
    }

    /// Takes the device of a tunnel that is down; `shared` says that somebody else has it open, too. What is returned ends
    /// when the host is rid of it: about 20 ms later.
    pub(crate) fn take_back(
        &mut self,
        device: Device,
        shared: bool,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        match (self, device) {
            (Self::Memory(slot), Device::Memory(memory)) => {
                *slot = Some(memory);
                None
            }
            (Self::Real(real), Device::Tun(tun)) => {
                let (open, closing) = watch::channel(());
                let kernel = Arc::clone(&real.kernel);
                kernel.is_closing(closing);
                Some(async move {
                    if shared && let Ok(descriptor) = tun.descriptor() {
                        kernel.remove_device(&descriptor).await;
                    }
                    kernel.let_go(tun).await;
                    drop(open);
                })
            }
            (Self::Real(_), Device::Memory(_)) | (Self::Memory(_), Device::Tun(_)) => None,
        }
    }

    /// Ends when nothing is on its way off this host any more.
    pub(crate) async fn settled(&mut self) {
        let Self::Real(real) = self else { return };
        if let Some(mut closing) = real.kernel.closing() {
            // Ends with an error when the other end is dropped, which is what is waited for.
            let _ = closing.changed().await;
        }
        real.kernel.gate.settled().await;
    }

    fn kernel(&self) -> Option<Arc<Kernel>> {
        match self {
            Self::Real(real) => Some(Arc::clone(&real.kernel)),
            Self::Memory(_) => None,
        }
    }
}

/// Looks up ways outside of every tunnel. Nothing leaves the host for it.
#[derive(Clone)]
pub(crate) struct Wayfinder(Arc<Kernel>);

impl Wayfinder {
    /// The interface that leads to an address, and the address from which packets leave; nothing where there is no way.
    pub(crate) async fn way_to(&self, to: IpAddr) -> Option<(String, Option<IpAddr>)> {
        let path = self.0.network.path_to(to, Some(self.mark())).await.ok()?;
        Some((path.interface, path.source))
    }

    /// Keeps packets out of every tunnel.
    pub(crate) fn mark(&self) -> u32 {
        self.0.lock.slot().mark()
    }
}

impl Installer {
    /// Puts `plan` on the host, in place of what is there; [`Host::device`] has the device then. Once begun, it goes on when
    /// the future is dropped.
    pub(crate) async fn install(self, plan: NetworkPlan) -> Result<(), InstallError> {
        let Some(kernel) = self.kernel else { return Ok(()) };
        if let Some(mut closing) = kernel.closing() {
            // Ends with an error when the other end is dropped, which is what is waited for.
            let _ = closing.changed().await;
        }
        let installed = tokio::spawn(async move { kernel.install(plan, Onto::Anything).await }).await;
        installed.unwrap_or_else(|_| {
            let broken = ClientError::Local("the host's set-up failed".to_owned());
            Err(InstallError::Damaged(broken))
        })
    }
}

impl Kernel {
    async fn install(&self, plan: NetworkPlan, onto: Onto) -> Result<(), InstallError> {
        let slot = self.lock.slot();
        let mut on_host = self.on_host.lock().await;
        if onto == Onto::Plan && on_host.applied.is_none() {
            return Ok(());
        }
        on_host.touched = true;
        if on_host.applied.is_some() {
            return self.replace(&mut on_host, plan).await;
        }
        let clean = |error: PlatformError| InstallError::Clean(error.into());
        // Before there is anything to be guarded.
        self.guard(&plan).await;
        self.gate.follow(&plan).await.map_err(InstallError::Clean)?;
        let applied = async {
            let tun = Tun::create(&TunOptions {
                name: self.interface.clone(),
                mtu: plan.mtu,
                offloads: self.offload,
            })?;
            // Before the rules that look at marks: a flow that is to go past the tunnel never enters it.
            on_host.steered = Steered::load(slot, &self.interface, &plan, false).await?;
            self.network.apply(&slot, tun.index(), &plan).await?;
            Ok(tun)
        };
        let tun = match applied.await {
            Ok(tun) => tun,
            Err(error) => {
                if on_host.steered.take().is_some() {
                    // The first error is the one to report; a later sweep finds what might be left.
                    let _ = flows::unload(slot).await;
                }
                self.unguard().await;
                return Err(clean(error));
            }
        };
        self.warn_of_conflicts(&plan).await;
        self.names.apply(tun.index(), &plan.dns).await;
        on_host.applied = Some(Applied {
            tun_index: tun.index(),
            plan,
        });
        *self.fresh() = Some(tun);
        Ok(())
    }

    async fn replace(&self, on_host: &mut OnHost, plan: NetworkPlan) -> Result<(), InstallError> {
        let slot = self.lock.slot();
        let Some(applied) = &mut on_host.applied else {
            return Ok(());
        };
        let damaged = |error: PlatformError| InstallError::Damaged(error.into());
        if applied.plan != plan || on_host.steered.is_some() != plan.flows.is_some() {
            if applied.plan.addresses != plan.addresses {
                self.guard(&plan).await;
            }
            self.gate.follow(&plan).await.map_err(InstallError::Damaged)?;
            let (same_rules, had_rules) = (applied.plan.flows == plan.flows, applied.plan.flows.is_some());
            if !same_rules || applied.plan.addresses != plan.addresses || on_host.steered.is_none() {
                // What was there stays until the new one is, so nothing is between them.
                let steered = Steered::load(slot, &self.interface, &plan, same_rules).await;
                on_host.steered = steered.map_err(damaged)?;
            }
            let replaced = self
                .network
                .replace_plan(&slot, applied.tun_index, &applied.plan, &plan)
                .await;
            replaced.map_err(damaged)?;
            if had_rules && plan.flows.is_none() {
                flows::unload(slot).await.map_err(damaged)?;
            }
            applied.plan = plan;
        }
        // Also those that the process before had told the resolver of.
        self.names.apply(applied.tun_index, &applied.plan.dns).await;
        Ok(())
    }

    async fn steer(&self, flows: Option<Flows>) -> Result<(), ClientError> {
        let mut on_host = self.on_host.lock().await;
        let Some(applied) = &on_host.applied else {
            return Ok(());
        };
        let plan = NetworkPlan {
            flows,
            ..applied.plan.clone()
        };
        let replaced = self.replace(&mut on_host, plan).await;
        replaced.map_err(|(InstallError::Clean(error) | InstallError::Damaged(error))| error)
    }

    fn fresh(&self) -> MutexGuard<'_, Option<Tun>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_fresh(&self) -> Option<Tun> {
        self.fresh().take()
    }

    fn closing(&self) -> Option<watch::Receiver<()>> {
        let closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        closing.clone()
    }

    fn is_closing(&self, closing: watch::Receiver<()>) {
        *self.closing.lock().unwrap_or_else(PoisonError::into_inner) = Some(closing);
    }

    /// Whoever else has the device open loses it.
    async fn remove_device(&self, descriptor: &Descriptor) {
        // Elsewhere its name means another device, or none. One that is gone has no name.
        let Ok(device) = identify(descriptor) else { return };
        if device.here
            && let Err(error) = self.network.remove_link(&device.name).await
        {
            warn!("could not remove the device {}: {error}", device.name);
        }
    }

    async fn release(self: Arc<Self>, lift: bool) -> Proof {
        let slot = self.lock.slot();
        self.names.hurry();
        let mut on_host = self.on_host.lock().await;
        let touched = std::mem::take(&mut on_host.touched);
        let (applied, steered) = (on_host.applied.take(), on_host.steered.take());
        let restore = async {
            let had_rules = steered.is_some();
            let network = async {
                match applied {
                    Some(applied) => {
                        let restored = self.network.release(&slot, applied.tun_index).await;
                        if had_rules || applied.plan.flows.is_some() {
                            let unloaded = flows::unload(slot).await.map(|()| true);
                            restored.and_removed("flow rules", unloaded)
                        } else {
                            restored
                        }
                    }
                    None => swept(slot, &self.tunnel, self.network.sweep(&slot).await).await,
                }
            };
            if !touched {
                return None;
            }
            let (restored, names) = tokio::join!(network, self.names.revert());
            Some(restored.and_residue(names))
        };
        let lifting = async {
            if lift && self.gate.ends_with_a_stop().await {
                self.gate.lift().await
            } else {
                None
            }
        };
        let (restored, lifted) = tokio::join!(restore, lifting);
        if let Some(steered) = steered {
            steered.leave();
        }
        if let Some(tun) = self.take_fresh() {
            // Nobody came to fetch it. The kernel takes 20 ms, which nobody waits for.
            let kernel = Arc::clone(&self);
            tokio::spawn(async move { kernel.let_go(tun).await });
        }
        match (restored, lifted) {
            (None, None) => Proof::Untouched,
            (Some(proof), None) | (None, Some(proof)) => Proof::Restored(proof),
            (Some(restored), Some(lifted)) => Proof::Restored(restored.and(lifted)),
        }
    }

    /// Keeps strangers from the addresses of the tunnel. A host without a packet filter has a tunnel all the same.
    async fn guard(&self, plan: &NetworkPlan) {
        let script = plan::guard(&self.guard_table().to_string(), &self.interface, plan);
        match Nft::find() {
            Ok(nft) => {
                if let Err(error) = nft.load(&script, "guard the addresses of the tunnel").await {
                    warn!("the addresses of the tunnel answer on every interface: {error}");
                }
            }
            Err(why) => info!("the addresses of the tunnel answer on every interface: {why}"),
        }
    }

    fn guard_table(&self) -> Table {
        Table {
            purpose: Purpose::Guard,
            slot: self.lock.slot(),
        }
    }

    async fn unguard(&self) {
        if let Ok(nft) = Nft::find() {
            report(&nft.clear(&[self.guard_table()]).await);
        }
    }

    /// Lets go of the device, and with it of its guard. The kernel takes 20 ms for the last descriptor.
    async fn let_go(&self, tun: Tun) {
        let gone = tokio::task::spawn_blocking(move || drop(tun));
        let (_, ()) = tokio::join!(gone, self.unguard());
    }

    /// What makes a tunnel that is set up correctly misbehave all the same.
    async fn warn_of_conflicts(&self, plan: &NetworkPlan) {
        let strict = if plan.default_v4 {
            strict_reverse_path()
        } else {
            Vec::new()
        };
        if plan.flows.is_some() && strict_reverse_path().contains(&self.interface) {
            warn!(
                interface = self.interface,
                "strict reverse path filter drops the answers to chosen flows; set net.ipv4.conf.INTERFACE.rp_filter=2"
            );
        }
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
        for rule in self.network.rivals(&self.lock.slot(), plan).await.unwrap_or_default() {
            warn!(
                rule,
                "a rule that is not ours comes first and leads elsewhere; what it takes does not enter the tunnel"
            );
        }
        for (slot, net) in shared.take(SHOWN_OVERLAPS) {
            info!(%net, slot = slot.number(), "another tunnel on this host has the same route; the lower slot wins");
        }
    }
}

/// With the flow rules of the slot swept, too.
async fn swept(slot: Slot, tunnel: &str, restored: Restored) -> Restored {
    match flows::sweep(slot, tunnel).await {
        Ok(None) => restored,
        Ok(Some(what)) => restored.and_removed(what, Ok(true)),
        Err(error) => restored.and_removed("flow rules", Err(error)),
    }
}

/// Says what clearing did.
pub(crate) fn report_cleared(cleared: &[Restored]) {
    let removed: Vec<_> = cleared.iter().flat_map(Restored::removed).map(String::as_str).collect();
    if !removed.is_empty() {
        warn!(
            removed = removed.join("; "),
            "removed what an earlier run left on this host"
        );
    }
    let residue: Vec<_> = cleared.iter().flat_map(Restored::residue).map(String::as_str).collect();
    if !residue.is_empty() {
        warn!(
            residue = residue.join("; "),
            "could not remove all that an earlier run left"
        );
    }
}
