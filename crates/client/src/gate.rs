//! The lockdown of this host, as this tunnel has it: closed before anything is dialled, opened for a gateway before it is dialled, and
//! lifted by a stop if its policy says so.
//!
//! ```text
//!   order to start --> close --> admit (addresses to dial) --> admit (UDP) --> follow (plan) --> ... --> lift, or it stays
//!                        | no nft, or no permission: no start          process gone: it stays
//! ```
//! The table lies in the kernel and needs nobody. What is known of it here says what the status may claim, so it is compared with
//! the kernel at each connection and each question.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::Lockdown as Shown;
use config::LockdownMode;
use config::client::ClientConfig;
use plan::{Lockdown, MAX_OPENINGS, NetworkPlan, Openings, Place, Transport};
use platform::PlatformError;
use platform::firewall::{Nft, Purpose, Table};
use platform::network::Restored;
use platform::slot::{MARK_FAMILY, MARK_FAMILY_MASK, SLOTS, Slot};
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};

use crate::ClientError;
use crate::cleanup::Cleaning;

/// The bits of a mark that all tunnels' sockets have in common: but for the slot all of them, as a flow that a rule sends past the tunnel has a mark of
/// the same family, and is none of a tunnel's.
const SOCKETS: u32 = !(SLOTS as u32 - 1);

/// Marks of flows that rules have chosen for a tunnel ("mb"), and the bits that count.
const FLOWS: (u32, u32) = (plan::flows::INSIDE, MARK_FAMILY_MASK);

/// A handle; without a host it is open for ever.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    slot: Slot,
    tunnel: String,
    interface: String,
    held: Mutex<Held>,
    /// The tunnel is wanted. What closes a lockdown may come late, and must not close what a stop has opened.
    wanted: AtomicBool,
    shown: watch::Sender<Shown>,
}

#[derive(Debug, Default)]
struct Held {
    /// What is in the kernel.
    closed: Option<Lockdown>,
    openings: Openings,
}

/// What the configuration asks for; `None` for no lockdown.
pub(crate) fn policy(config: &ClientConfig) -> Option<Lockdown> {
    let lockdown = &config.lockdown;
    let always = match lockdown.mode {
        LockdownMode::Off => return None,
        LockdownMode::WhileUp => false,
        LockdownMode::Always => true,
    };
    Some(Lockdown {
        always,
        allow_lan: lockdown.allow_lan,
        interfaces: lockdown.allow_interfaces.clone(),
    })
}

impl Gate {
    pub(crate) fn new(slot: Slot, config: &ClientConfig) -> Self {
        Self(Some(Arc::new(Inner {
            slot,
            tunnel: config.tunnel.name.clone(),
            interface: config.tunnel.interface.clone(),
            held: Mutex::default(),
            wanted: AtomicBool::new(false),
            shown: watch::Sender::new(Shown::Off),
        })))
    }

    /// What may be claimed, as far as it was seen last.
    pub(crate) fn shown(&self) -> Shown {
        self.0.as_ref().map_or(Shown::Off, |inner| *inner.shown.borrow())
    }

    /// The same after a look at the kernel: somebody else may have removed it.
    pub(crate) async fn verified(&self) -> Shown {
        let Some(inner) = &self.0 else { return Shown::Off };
        if self.shown() == Shown::On {
            let held = inner.held.lock().await;
            if held.closed.is_some() && !inner.is_there().await {
                inner.failed();
            }
        }
        self.shown()
    }

    /// Whether nothing but what is admitted leaves this host.
    pub(crate) fn is_closed(&self) -> bool {
        self.shown() != Shown::Off
    }

    /// Notes whether the tunnel is wanted.
    pub(crate) fn want(&self, wanted: bool) {
        if let Some(inner) = &self.0 {
            inner.wanted.store(wanted, Ordering::Relaxed);
        }
    }

    /// Puts in place what `config` asks for, in one transaction with what was there; or takes away what it does not ask for.
    ///
    /// # Errors
    /// [`ClientError::Unprotected`]: nothing may be started.
    pub(crate) async fn close(&self, config: &ClientConfig) -> Result<(), ClientError> {
        // It goes on if nobody waits any more: what the kernel has must be known here.
        let (gate, wanted) = (self.clone(), policy(config));
        let closed = tokio::spawn(async move { gate.close_by(wanted).await });
        let broken = |_| Err(ClientError::Local("the set-up of the lockdown failed".to_owned()));
        closed.await.unwrap_or_else(broken)
    }

    async fn close_by(&self, policy: Option<Lockdown>) -> Result<(), ClientError> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let stays = |policy: &Lockdown| policy.always || inner.wanted.load(Ordering::Relaxed);
        let Some(wanted) = policy.filter(stays) else {
            match self.lift().await {
                Some(lifted) => report(&lifted),
                None => drop(inner.shown.send_replace(Shown::Off)),
            }
            return Ok(());
        };
        let mut held = inner.held.lock().await;
        if held.closed.as_ref() == Some(&wanted) && self.shown() == Shown::On && inner.is_there().await {
            return Ok(());
        }
        if let Err(error) = inner.load(&wanted, &held.openings).await {
            inner.failed();
            return Err(ClientError::Unprotected(error));
        }
        let mode = if wanted.always { "always" } else { "while_up" };
        info!(mode, table = %inner.table(), "lockdown: nothing leaves this host beside the tunnel");
        held.closed = Some(wanted);
        inner.shown.send_replace(Shown::On);
        Ok(())
    }

    /// Lets the tunnel's own sockets through to these, before they are dialled.
    ///
    /// # Errors
    /// They stay closed.
    pub(crate) async fn admit(
        &self,
        gateways: impl Iterator<Item = (SocketAddr, Transport)>,
    ) -> Result<(), ClientError> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let mut held = inner.held.lock().await;
        let mut openings = held.openings.clone();
        let new: Vec<_> = gateways
            .filter(|gateway| !openings.gateways.contains(gateway))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        if openings.gateways.len() + new.len() > MAX_OPENINGS {
            // What is only dialled is admitted again when it is dialled again; a data channel that lives is not dialled.
            openings.gateways.retain(|(_, transport)| *transport == Transport::Udp);
        }
        if openings.gateways.len() + new.len() > MAX_OPENINGS {
            openings.gateways.clear();
        }
        openings.gateways.extend(new);
        inner.open(&mut held, openings).await
    }

    /// Keeps the networks of the tunnel off the local network.
    pub(crate) async fn follow(&self, plan: &NetworkPlan) -> Result<(), ClientError> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let mut held = inner.held.lock().await;
        let mut openings = held.openings.clone();
        openings.follow(plan);
        if openings == held.openings {
            return Ok(());
        }
        inner.open(&mut held, openings).await
    }

    /// Lets marked queries through to these name servers while `asking` runs, which it does to its end.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        servers: &[IpAddr],
        asking: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, ClientError> {
        let (gate, servers) = (self.clone(), servers.to_vec());
        let asked = tokio::spawn(async move {
            gate.resolvers(&servers).await?;
            let answer = asking.await;
            // What stays open is closed with the next change.
            if let Err(error) = gate.resolvers(&[]).await {
                warn!("name servers stay open to marked queries: {error}");
            }
            Ok(answer)
        });
        let broken = |_| Err(ClientError::Local("the look-up failed".to_owned()));
        asked.await.unwrap_or_else(broken)
    }

    async fn resolvers(&self, servers: &[IpAddr]) -> Result<(), ClientError> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let mut held = inner.held.lock().await;
        let mut openings = held.openings.clone();
        openings.resolvers = servers.iter().copied().collect();
        inner.open(&mut held, openings).await
    }

    /// Takes the lockdown away; `None` if this process has put none in place.
    pub(crate) async fn lift(&self) -> Option<Restored> {
        let inner = self.0.as_ref()?;
        let mut held = inner.held.lock().await;
        held.closed.as_ref()?;
        let cleared = match Nft::find() {
            Ok(nft) => nft.clear(&[inner.table()]).await,
            Err(error) => Restored::unfinished(format!("firewall table {}: {error}", inner.table())),
        };
        if cleared.is_complete() {
            *held = Held::default();
            inner.shown.send_replace(Shown::Off);
            info!("lockdown lifted");
        }
        Some(cleared)
    }

    /// Ends when nobody is at it any more.
    pub(crate) async fn settled(&self) {
        if let Some(inner) = &self.0 {
            drop(inner.held.lock().await);
        }
    }

    /// Whether a stop takes it away.
    pub(crate) async fn ends_with_a_stop(&self) -> bool {
        let Some(inner) = &self.0 else { return false };
        inner.held.lock().await.closed.as_ref().is_some_and(|held| !held.always)
    }

    /// Sees to what an earlier process left: goes on with it if `config` wants it, and removes it otherwise. `coming`: the tunnel is
    /// about to come up; `stopped`: somebody has stopped it. What is there without a stop was left by a process that died.
    ///
    /// # Errors
    /// As for [`Gate::close`], and what is there stays.
    pub(crate) async fn take_over(
        &self,
        config: &ClientConfig,
        (coming, stopped): (bool, bool),
    ) -> Result<Restored, ClientError> {
        let Some(inner) = &self.0 else {
            return Ok(Restored::nothing());
        };
        let (found, unseen) = inner.found().await;
        let keep = match config.lockdown.mode {
            LockdownMode::Off => false,
            LockdownMode::WhileUp => (coming || !stopped) && !found.is_empty(),
            LockdownMode::Always => true,
        };
        self.want(coming || keep);
        if keep {
            self.close(config).await?;
        }
        let ours = inner.table();
        let rest: Vec<_> = found.into_iter().filter(|table| !keep || *table != ours).collect();
        Ok(clear(&rest).await.and_residue(unseen))
    }

    /// Removes what an earlier process left, as far as the policy allows whoever asks. What stays is said in words.
    pub(crate) async fn clear(&self, config: &ClientConfig, who: Cleaning) -> (Restored, Vec<String>) {
        let Some(inner) = &self.0 else {
            return (Restored::nothing(), Vec::new());
        };
        let (found, unseen) = inner.found().await;
        let why = match (config.lockdown.mode, who) {
            (LockdownMode::Off, _) | (_, Cleaning::Unlock) | (LockdownMode::WhileUp, Cleaning::Asked) => None,
            (LockdownMode::WhileUp, Cleaning::Automatic) => {
                Some("nobody stopped the tunnel; `marmot cleanup` lifts it")
            }
            (LockdownMode::Always, Cleaning::Automatic | Cleaning::Asked) => {
                Some("lockdown.mode is \"always\"; `marmot cleanup --unlock` lifts it")
            }
        };
        match why {
            None => (clear(&found).await.and_residue(unseen), Vec::new()),
            Some(why) => {
                let kept = found.iter().map(|table| format!("firewall table {table}: {why}"));
                (Restored::nothing().and_residue(unseen), kept.collect())
            }
        }
    }
}

impl Inner {
    fn table(&self) -> Table {
        Table {
            purpose: Purpose::Lockdown,
            slot: self.slot,
        }
    }

    async fn load(&self, wanted: &Lockdown, openings: &Openings) -> Result<(), PlatformError> {
        let table = self.table().to_string();
        let place = Place {
            table: &table,
            tunnel: &self.tunnel,
            interface: &self.interface,
            mark: self.slot.mark(),
            marks: (MARK_FAMILY, SOCKETS),
            flows: FLOWS,
        };
        let script = wanted.script(&place, openings);
        Nft::find()?.load(&script, "put the lockdown in place").await
    }

    /// Replaces what is open. Without a lockdown it is noted for the next one.
    async fn open(&self, held: &mut Held, openings: Openings) -> Result<(), ClientError> {
        if let Some(closed) = &held.closed {
            let script = Lockdown::opening(&self.table().to_string(), &openings);
            let mut loaded = Nft::find()?.load(&script, "let the gateway through the lockdown").await;
            if loaded.is_err() && !self.is_there().await {
                // Somebody has flushed the tables of this host: it comes back whole.
                loaded = self.load(closed, &openings).await;
                if loaded.is_err() {
                    self.failed();
                }
            }
            loaded?;
        }
        held.openings = openings;
        Ok(())
    }

    /// Whether the kernel has it. Who cannot look takes it that nothing has changed.
    async fn is_there(&self) -> bool {
        let Ok(nft) = Nft::find() else { return false };
        nft.tables().await.is_ok_and(|tables| tables.contains(&self.table()))
    }

    /// The lockdowns of this tunnel: the one in its slot, unless it says that it is another tunnel's, and those that say that they are
    /// this one's. And why nobody knows, if so.
    async fn found(&self) -> (Vec<Table>, Option<String>) {
        let (tables, unseen) = listed().await;
        let Ok(nft) = Nft::find() else {
            return (Vec::new(), unseen);
        };
        let mut found = Vec::new();
        for table in tables {
            let owner = nft.owner(table).await.ok().flatten();
            if owner.map_or(table.slot == self.slot, |owner| owner == self.tunnel) {
                found.push(table);
            }
        }
        (found, unseen)
    }

    fn failed(&self) {
        if self.shown.send_replace(Shown::Failed) != Shown::Failed {
            warn!(table = %self.table(), "the lockdown is not in place: packets may leave this host beside the tunnel");
        }
    }
}

/// Removes the lockdowns of a tunnel, whoever runs it: for whoever asks for that in person while nobody can be asked to.
pub(crate) async fn unlock(tunnel: &str) -> Restored {
    let (tables, unseen) = listed().await;
    let Ok(nft) = Nft::find() else {
        return Restored::nothing();
    };
    let mut found = Vec::new();
    for table in tables {
        if nft.owner(table).await.ok().flatten().as_deref() == Some(tunnel) {
            found.push(table);
        }
    }
    clear(&found).await.and_residue(unseen)
}

/// The lockdowns of this host, and why nobody knows, if so. Without nft there is none that we made.
async fn listed() -> (Vec<Table>, Option<String>) {
    let Ok(nft) = Nft::find() else {
        return (Vec::new(), None);
    };
    match nft.tables().await {
        Ok(tables) => {
            let lockdowns = tables.into_iter().filter(|table| table.purpose == Purpose::Lockdown);
            (lockdowns.collect(), None)
        }
        Err(error) => (Vec::new(), Some(format!("lockdown: {error}"))),
    }
}

/// Says what could not be taken away.
pub(crate) fn report(lifted: &Restored) {
    for residue in lifted.residue() {
        warn!("the lockdown stays: {residue}");
    }
}

async fn clear(tables: &[Table]) -> Restored {
    match Nft::find() {
        Ok(nft) if !tables.is_empty() => nft.clear(tables).await,
        Ok(_) | Err(_) => Restored::nothing(),
    }
}
