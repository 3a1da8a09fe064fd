//! The client: one tunnel from this host to a gateway, until somebody stops it.
//!
//! ```text
//!   signals, API socket, demo --> Provider                                                     (signals, provider)
//!                                    | orders
//!   config --> Setup --------------> Shell --> lifecycle::Machine --effects--> Attempt: dial, TLS, login, CONNECT
//!   (trust, identity, secrets)       |                                         Opening: slot, TUN, routes, rules
//!                                    +---------------------------------------> Pump:    device <-> channel
//! ```
//! The shell decides nothing that a pure crate could: when to connect is `lifecycle`'s, what a frame means `session`'s, what
//! a grant may do to this host `plan`'s.
#![forbid(unsafe_code)]

mod account;
#[cfg(test)]
mod api_stories;
mod arming;
mod attempt;
mod books;
mod caller;
mod changes;
#[cfg(test)]
mod chore_stories;
mod chores;
mod cleanup;
mod clock;
mod daemon;
mod datapath;
mod device;
mod dial;
mod effects;
mod error;
mod flows;
mod gate;
mod gateway_names;
mod grant;
mod host;
mod leaving;
mod listener;
mod lockdown;
mod login;
mod look;
mod lookout;
mod names;
mod nat64;
mod news;
mod offline;
mod opening;
mod orders;
mod owing;
mod power;
mod probe;
mod proof;
mod provider;
mod pump;
mod quiet;
mod recovery;
mod report;
mod route;
mod rules;
mod secrets;
mod setup;
mod shell;
mod signals;
#[cfg(test)]
mod sleep_stories;
mod status;
#[cfg(test)]
mod stop_stories;
mod store;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod testing;
mod to_host;
mod trust;
mod verify;
mod waiting;
mod wakes;

use std::path::PathBuf;

use config::client::ClientConfig;
use platform::firewall::Nft;
use platform::power::PowerSource;
use platform::service::Manager;
use tokio::sync::watch;

use crate::power::Power;
use crate::store::{Store, Taken};

pub use books::Trouble;
pub use chores::housekeep;
pub use cleanup::{Cleaning, CleanupReport, cleanup};
pub use device::{MemoryDevice, MemoryHost};
pub use dial::DialError;
pub use error::ClientError;
pub use lockdown::{LockdownReport, lock, unlock};
pub use look::{history, owed};
pub use provider::{Outcome, Provider, Refused, Started, Stopped};
pub use signals::SignalSource;
pub use status::{DnsStatus, Status, Tally, Totals, TunnelStatus};

/// Where the tunnel ends on this side.
#[derive(Debug, Default)]
pub enum Place {
    /// This host: a TUN device with addresses, routes and rules. Needs CAP_NET_ADMIN.
    #[default]
    Host,
    /// A packet device in memory; this host is not touched.
    Memory(MemoryDevice),
}

/// What surrounds a client: by default this host and the signals of this process.
#[derive(Debug, Default)]
pub struct Hooks {
    /// Where the tunnel ends.
    pub place: Place,
    /// Where orders come from.
    pub signals: SignalSource,
    /// Gets every change of the status.
    pub status: Option<watch::Sender<Status>>,
    /// Who tells of sleep and wakes. By default this host, where the tunnel ends on it, and nobody otherwise.
    pub power: Option<PowerSource>,
}

/// Runs the client until it is stopped. Blocks; to be called without a runtime. `config_path` is read again on SIGHUP.
///
/// # Errors
/// Why the tunnel failed for good; see [`ClientError::exit_code`]. The host is as it was then, too.
pub fn run(config: ClientConfig, config_path: PathBuf) -> Result<(), ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ClientError::Local(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(run_with(config, config_path, Hooks::default()));
    // A name server that does not answer, or a prompt, may hold a thread; nobody waits for it.
    runtime.shutdown_background();
    result
}

/// As [`run`], inside a tokio runtime and with surroundings of the caller's choice.
///
/// # Errors
/// As for [`run`].
pub async fn run_with(config: ClientConfig, config_path: PathBuf, hooks: Hooks) -> Result<(), ClientError> {
    let mut signals = signals::SignalStream::open(hooks.signals)?;
    let status = hooks.status.unwrap_or_else(|| watch::Sender::new(Status::default()));
    let (place, power) = (hooks.place, hooks.power);
    let mut early = Vec::new();
    let (provider, client) = tokio::select! {
        opened = Client::open_with(config, config_path, place, status, power) => opened?,
        // A prompt, or a disk that does not answer, holds nobody up; what is half cleared up the next start clears up.
        () = signals.termination(&mut early) => return Ok(()),
    };
    tokio::select! {
        biased;
        result = client.run() => result,
        () = signals::obey(signals, early, provider) => Err(ClientError::Local("nobody gives orders any more".to_owned())),
    }
}

/// A client that is ready to run.
#[must_use = "it does nothing until it runs"]
pub struct Client {
    shell: shell::Shell,
    served: Option<listener::Served>,
    tenure: books::Tenure,
}

impl Client {
    /// Prepares a client that ends at `place`, and the handle that gives it orders: what an earlier run left is cleared up,
    /// and the API socket is served. When the last handle is dropped, the client stops and ends; the API socket holds one. Needs a tokio runtime with
    /// I/O and time.
    ///
    /// # Errors
    /// What is wrong with the configuration or on this host; see [`ClientError::exit_code`].
    pub async fn open(
        config: ClientConfig,
        config_path: PathBuf,
        place: Place,
    ) -> Result<(Provider, Self), ClientError> {
        Self::open_with(config, config_path, place, watch::Sender::new(Status::default()), None).await
    }

    async fn open_with(
        config: ClientConfig,
        config_path: PathBuf,
        place: Place,
        status: watch::Sender<Status>,
        power: Option<PowerSource>,
    ) -> Result<(Provider, Self), ClientError> {
        let login = config.login.clone();
        let secrets = tokio::task::spawn_blocking(move || secrets::Secrets::read_stdin(&login))
            .await
            .map_err(|_| ClientError::Local("cannot read the password".to_owned()))??;
        let setup = setup::Setup::new(config, secrets)?;
        let config = &setup.config;
        let power = match (power, &place) {
            (Some(source), Place::Host | Place::Memory(_)) => Power::new(source),
            (None, Place::Host) => Power::of_this_host(config),
            (None, Place::Memory(_)) => Power::new(PowerSource::none()),
        };
        let mut taken = match &place {
            Place::Host => Taken::now(),
            Place::Memory(_) => Taken::default(),
        };
        let mut host = match place {
            Place::Host => {
                if setup.flows.is_some() {
                    Nft::find()?;
                }
                host::Host::open(config, status.clone()).await?
            }
            Place::Memory(device) => host::Host::Memory(Some(device)),
        };
        let gate = host.gate();
        let manager = Manager::from_env();
        let mut store = Store::open(manager.as_ref(), &taken);
        let tunnel = &config.tunnel;
        let books = books::Books::open(&tunnel.state_dir, &tunnel.name, &config.housekeeping)?;
        let tenure = books.tenure();
        // The first thing that is touched, for then the tunnel is ours.
        let mut records = recovery::leftovers(&books, &tunnel.name).await?;
        let socket = listener::ApiSocket::open(config, taken.api.take())?;
        // A socket that nobody can find any more must not stay in the place of the one that we keep from now on.
        if let Some(store) = &mut store
            && !socket.as_ref().is_some_and(|socket| socket.adopted)
        {
            store.drop_api();
        }
        let wanted = recovery::wanted(&books).await;
        let left = !taken.is_empty();
        // Before anything of the tunnel that was is taken off.
        let coming = lockdown::is_coming(config, wanted, left);
        host::report_cleared(&[gate.take_over(config, (coming, wanted == Some(false))).await?]);
        // What cannot go on is removed by its descriptor.
        let device = taken.tun.as_ref().and_then(|tun| tun.try_clone().ok());
        let resumed = match wanted {
            // It was killed on its way down.
            Some(false) => None,
            Some(true) | None if recovery::is_closed(&books, &taken).await => None,
            Some(true) | None => recovery::resume(&mut host, config, &mut taken, &mut records),
        };
        if resumed.is_none() {
            if left {
                if let Some(store) = &mut store {
                    store.clear();
                }
                drop(taken);
                if let Some(device) = &device {
                    host.remove_device(device).await;
                }
            }
            recovery::restore(&host, &records).await;
        }
        drop(device);
        recovery::close(&books, records).await;

        let (provider, counter) = Provider::pair(&tunnel.name, (books.clone(), gate), status);
        let api = socket.as_ref().map(listener::ApiSocket::descriptor);
        let served = socket.map(|socket| socket.serve(provider.clone())).transpose()?;
        let mut shell = shell::Shell::new(setup, config_path, host, (books, wanted), counter);
        shell.manager = manager;
        shell.store = store;
        shell.api = api;
        shell.power = power;
        shell.around = changes::Surroundings::new(shell.host.watch());
        if let Some((record, ticket)) = resumed
            && let Some(undo) = record.undo.clone()
        {
            let flows = (undo.plan.flows.is_some() || shell.setup.flows.is_some()).then(|| shell.setup.flows.clone());
            shell.take_over(&ticket, record, undo.plan);
            if let Some(flows) = flows {
                // Its table is there; nobody follows the control groups.
                drop(tokio::spawn(shell.steering(flows)));
            }
        }
        Ok((provider, Self { shell, served, tenure }))
    }

    /// Runs until the tunnel is stopped for good.
    ///
    /// # Errors
    /// Why the tunnel failed for good. The host is as it was then, too.
    pub async fn run(self) -> Result<(), ClientError> {
        let Self { shell, served, tenure } = self;
        let (handed_over, result) = shell.run().await;
        if let Some(served) = served {
            served.end(handed_over).await;
        }
        drop(tenure);
        result
    }
}
