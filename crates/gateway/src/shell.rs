//! The gateway as a whole: what it starts, what wakes it, and how it stops.
//!
//! ```text
//!   open():   files -> listening sockets
//!   serve():  device and its addresses -> workers -> accept loops | notices of tunnels | timer of the table | clock tick | reload | stop
//! ```
//! One thread does all of it, on one tokio current-thread runtime, and is the first worker; the other workers and argon2 have threads of their own.
//!
//! Stopping: the listening sockets close, every tunnel says the TLS farewell and nothing else, the other workers end, the device goes. As with
//! stock gateways no disconnect frame is sent: clients take it for a broken connection and keep trying. Their sessions wait
//! for them on disk, if there is a folder for them.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use config::gateway::GatewayConfig;
use ipnet::IpNet;
use ledger::JobId;
use platform::children::GRACE;
use platform::network::{Network, forward_ipv4_from, forwarding_enabled};
use platform::service::Manager;
use platform::tun::{TunOptions, TunQueue};
use session::gateway::{Leases, Sessions};
use session::ticket::TicketKeys;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};
use tokio::time::{sleep, sleep_until, timeout};
use tracing::{error, info, warn};

use crate::GatewayError;
use crate::accounts::{self, Accounts, Shelf};
use crate::admission::Admission;
use crate::authentication::Authenticator;
use crate::clock::{Clock, TICK, instant};
use crate::crew::{Crew, Doors, Outfit, Threads};
use crate::desk::{Notice, desk};
use crate::device::{Device, Part};
use crate::flows::Flows;
use crate::housekeep;
use crate::listener::{self, Guests};
use crate::local::{LocalSocket, Served};
use crate::nat::Nat;
use crate::sessions::SessionRoom;
use crate::settings::Settings;
use crate::state::{self, Left, Row, Store};
use crate::tally::{PERIOD, Tallies, Throttle};

/// How long connections may take to end when the gateway stops, within the 250 ms a stop may take.
const STOP: Duration = Duration::from_millis(200);

/// How long the threads of workers may take to end, whose tunnels have.
const THREADS: Duration = Duration::from_millis(40);

/// Notices of tunnels heard before other tasks get a turn.
const NOTICE_BUDGET: usize = 64;

/// How long the disk may take for the records of the sessions that end with the gateway. A thousand take 0.3 to 0.9 s.
const RECORDS: Duration = Duration::from_secs(2);

/// A gateway that listens but does not serve yet.
pub struct Gateway {
    settings: Settings,
    config_path: Option<PathBuf>,
    device: Device,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    doors: Doors,
    reloads: (mpsc::Sender<()>, mpsc::Receiver<()>),
    shelf: Option<Shelf>,
    manager: Option<Manager>,
}

/// Makes a running gateway read its configuration again.
#[derive(Clone, Debug)]
pub struct Reload(mpsc::Sender<()>);

impl Reload {
    /// Asks for a reload; one that has been asked for and not begun yet is enough for both.
    pub fn ask(&self) {
        // Full: it is asked for already. Closed: the gateway has stopped.
        let _ = self.0.try_send(());
    }
}

/// What every part of a running gateway may use. Borrowed by tasks of one thread; nothing in it is borrowed across an await.
pub(crate) struct Shared {
    settings: RefCell<Rc<Settings>>,
    config_path: Option<PathBuf>,
    /// The addresses it listens on.
    pub(crate) listen: Vec<String>,
    pub(crate) clock: Rc<Clock>,
    pub(crate) guests: Guests,
    pub(crate) authenticator: Authenticator,
    pub(crate) sessions: SessionRoom,
    pub(crate) tallies: Tallies,
    /// True once the gateway stops.
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) exhausted: Throttle,
    pub(crate) full: Throttle,
    pub(crate) too_many: Throttle,
    pub(crate) cannot_accept: Throttle,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("addresses", &self.addresses)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// Reads the files that `config` names and opens its listening sockets. Does not touch the device. Needs a tokio
    /// runtime with I/O and time. Without a `config_path` a reload is refused.
    ///
    /// # Errors
    /// What is wrong with a file, or which address cannot be listened on.
    pub fn open(config: GatewayConfig, config_path: Option<PathBuf>, device: Device) -> Result<Self, GatewayError> {
        let settings = Settings::load(config)?;
        let listeners = listener::open(&settings.config.listen)?;
        let addresses = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<Result<_, _>>()
            .map_err(|source| GatewayError::Io {
                what: "ask for the address of a listening socket",
                source,
            })?;
        let dtls = &settings.config.dtls;
        let workers = settings.config.network.workers;
        let doors = Doors::open(&listeners, dtls.enabled.then_some(dtls.port), workers)?;
        // After the sockets: of a gateway that was started twice, the port is the better known.
        let shelf = accounts::ledger(&settings.config)?.map(Shelf::take).transpose()?;
        Ok(Self {
            settings,
            config_path,
            device,
            listeners,
            addresses,
            doors,
            reloads: mpsc::channel(1),
            shelf,
            manager: None,
        })
    }

    /// Has the service manager told when the gateway is ready and when it stops. Unless the configuration says otherwise, a
    /// managed gateway leaves housekeeping to a unit of the manager.
    #[must_use]
    pub fn managed_by(mut self, manager: Option<Manager>) -> Self {
        self.manager = manager;
        self
    }

    /// The addresses it listens on, with the ports that were chosen for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// How to make it reload while it serves.
    pub fn reload(&self) -> Reload {
        Reload(self.reloads.0.clone())
    }

    /// Serves until `stop` is ready. To be run on a current-thread runtime.
    ///
    /// # Errors
    /// The device cannot be made, or somebody removed it.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), GatewayError> {
        // Whatever task is left when this returns goes with the set.
        LocalSet::new().run_until(self.serve_here(stop)).await
    }

    async fn serve_here(self, stop: impl Future<Output = ()>) -> Result<(), GatewayError> {
        let mut nat = None;
        let outcome = self.serve_behind(&mut nat, stop).await;
        // The device is gone, and with it whoever could send something past the table.
        if let Some(nat) = nat {
            nat.take_down().await;
        }
        outcome
    }

    async fn serve_behind(self, nat: &mut Option<Nat>, stop: impl Future<Output = ()>) -> Result<(), GatewayError> {
        let Self {
            settings,
            config_path,
            device,
            listeners,
            addresses,
            doors,
            reloads,
            shelf,
            manager,
        } = self;
        let leases = Leases::new(
            settings.config.pool.ipv4,
            settings.config.pool.ipv6,
            settings.config.pool.rest,
        );
        let pools: Vec<_> = leases.gateway_addresses().collect();
        let flows = match device {
            Device::Tun => Flows::of_this_host(),
            Device::Memory(_) => Flows::nowhere(),
        };
        let devices = open_device(device, &settings.config, &pools, nat).await?;
        let (stopper, stopping) = watch::channel(false);
        let (desk, mut notices) = desk();
        let outfit = Outfit {
            devices,
            doors,
            desk,
            pools,
            client_to_client: settings.config.network.client_to_client,
            access: Arc::clone(&settings.access),
            stopping: stopping.clone(),
        };
        let mut threads = Threads::new();
        let (crew, sources) = outfit.staff(&mut threads).await?;
        let folder = shelf.as_ref().map(|shelf| shelf.ledger().disk().root().to_owned());
        let tickets = state::keys(folder.as_deref(), platform::clock::now().wall);
        let (store, left) = folder.map_or_else(|| (Store::nowhere(), Left::default()), |folder| Store::open(&folder));
        let kept = left.sessions.iter().filter_map(Row::job).collect();
        let (accounts, housekeeper) = open_books(shelf, kept, &settings.config, manager.is_some(), &stopping)?;
        let names: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
        let local = LocalSocket::open(&settings.config);
        let shared = Rc::new(Shared::new(
            (settings, config_path),
            names.clone(),
            leases,
            crew,
            stopping,
            (accounts, tickets, store),
            flows,
        ));
        shared.restore(&left);
        drop(left);

        for listener in listeners {
            spawn_local(listener::accept_all(listener, Rc::clone(&shared)));
        }
        let here = Rc::clone(shared.sessions.crew().here());
        let mut works = Works {
            here: spawn_local(here.work(sources)),
            threads,
        };
        spawn_local(end_sessions(Rc::clone(&shared)));
        spawn_local(watch_the_clock(Rc::clone(&shared)));
        let _served = local.and_then(|socket| answer(socket, &shared));
        info!("gateway ready on {}", names.join(", "));
        tell(&manager, Manager::ready);

        let outcome = work(&shared, &mut works, &mut notices, reloads, stop).await;
        stopper.send_replace(true);
        tell(&manager, Manager::stopping);
        shared.sessions.accounts().expect_the_rest();
        if !all_left(&shared, &mut notices).await {
            warn!(
                connections = shared.guests.room().open(),
                "some connections did not end in time"
            );
        }
        shared.sessions.end_all(shared.clock.now());
        shared.sessions.crew().dismiss();
        works.threads.all_ended(THREADS).await;
        shared.sessions.finish(RECORDS).await;
        shared.sessions.accounts().finish(RECORDS).await;
        shared.sessions.flows().all_gone().await;
        if let Some(housekeeper) = housekeeper {
            // A hook that does not heed SIGTERM is killed after its grace; its job is put back.
            let _ = timeout(GRACE + STOP, housekeeper).await;
        }
        shared.tallies.write();
        let crew = shared.sessions.crew();
        crew.here().datagrams.write_strays();
        let (datagrams, packets) = crew.handed().unzip();
        info!(
            lost = %crew.drops(),
            handed_datagrams = datagrams,
            handed_packets = packets,
            "gateway stopped"
        );
        outcome
    }
}

impl Shared {
    fn new(
        (settings, config_path): (Settings, Option<PathBuf>),
        listen: Vec<String>,
        leases: Leases,
        crew: Crew,
        stopping: watch::Receiver<bool>,
        (accounts, tickets, store): (Accounts, TicketKeys, Store),
        flows: Flows,
    ) -> Self {
        let mut table = Sessions::new(settings.session_limits(), leases);
        table.set_reservations(settings.reservations());
        Self {
            listen,
            clock: Rc::clone(&crew.here().clock),
            guests: Guests::new(Admission::new(settings.config.limits)),
            authenticator: Authenticator::start(settings.users.clone()),
            sessions: SessionRoom::new(table, Rc::new(crew), accounts, (tickets, store)).with_flows(flows),
            tallies: Tallies::default(),
            stopping,
            exhausted: Throttle::default(),
            full: Throttle::default(),
            too_many: Throttle::default(),
            cannot_accept: Throttle::default(),
            settings: RefCell::new(Rc::new(settings)),
            config_path,
        }
    }

    /// Puts back the sessions of the run before.
    fn restore(&self, left: &Left) {
        let settings = self.settings();
        let reserved: HashMap<_, _> = settings.reservations().into_iter().collect();
        self.sessions.restore(
            left,
            |user| reserved.get(user).copied().unwrap_or_default(),
            |user, group| settings.may_stay(user, group),
            self.clock.now(),
        );
    }

    /// The settings in force. Whoever keeps them keeps them through a reload.
    pub(crate) fn settings(&self) -> Rc<Settings> {
        Rc::clone(&self.settings.borrow())
    }

    /// Hears what tunnels say: the next word, and those that wait behind it, some at a time.
    async fn hear(&self, notices: &mut mpsc::Receiver<Notice>) {
        let Some(first) = notices.recv().await else {
            return std::future::pending().await;
        };
        let mut next = Some(first);
        for _ in 0..NOTICE_BUDGET {
            match next.take().or_else(|| notices.try_recv().ok()) {
                Some(notice) => self.sessions.heard(notice, self.clock.now()),
                None => return,
            }
        }
        yield_now().await;
    }

    /// Reads everything again and applies it, or leaves everything as it is.
    fn reload(&self) {
        let Some(path) = &self.config_path else {
            return error!("cannot reload: this gateway was not started from a configuration file");
        };
        let settings = match self.settings().again(path) {
            Ok(settings) => Rc::new(settings),
            Err(error) => return error!(%error, "reload refused; the configuration in force stays"),
        };
        self.guests.room().set_limits(settings.config.limits);
        self.authenticator.replace(settings.users.clone());
        let crew = self.sessions.crew();
        crew.allow_client_to_client(settings.config.network.client_to_client);
        crew.set_access(&settings.access);
        *self.settings.borrow_mut() = Rc::clone(&settings);
        let may_stay = |user: &str, group: Option<&str>| settings.may_stay(user, group);
        self.sessions.reload(
            settings.session_limits(),
            settings.reservations(),
            may_stay,
            self.clock.now(),
        );
        info!(sessions = self.sessions.len(), "configuration reloaded");
    }
}

/// What must not end before the gateway does.
struct Works {
    /// The worker on this thread.
    here: JoinHandle<GatewayError>,
    /// The others.
    threads: Threads,
}

impl Works {
    /// Waits until one of the workers has ended, and says why.
    async fn failed(&mut self) -> GatewayError {
        tokio::select! {
            error = &mut self.here => error.unwrap_or_else(|error| match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => GatewayError::WorkerDied,
            }),
            error = self.threads.failed() => error,
        }
    }
}

/// Hears the tunnels and obeys, until told to stop or until a worker ended, for want of the device say.
async fn work(
    shared: &Shared,
    works: &mut Works,
    notices: &mut mpsc::Receiver<Notice>,
    (keep_open, mut reloads): (mpsc::Sender<()>, mpsc::Receiver<()>),
    stop: impl Future<Output = ()>,
) -> Result<(), GatewayError> {
    let mut stop = pin!(stop);
    let mut failed = pin!(works.failed());
    loop {
        tokio::select! {
            () = &mut stop => break,
            error = &mut failed => return Err(error),
            () = shared.hear(notices) => {}
            Some(()) = reloads.recv() => shared.reload(),
        }
    }
    drop(keep_open);
    Ok(())
}

/// Waits until all tunnels have ended and said so, and says whether they did in time.
async fn all_left(shared: &Shared, notices: &mut mpsc::Receiver<Notice>) -> bool {
    let all = async {
        loop {
            tokio::select! {
                () = shared.guests.all_left() => return,
                () = shared.hear(notices) => {}
            }
        }
    };
    let in_time = timeout(STOP, all).await.is_ok();
    // Each has spoken before it left.
    while let Ok(notice) = notices.try_recv() {
        shared.sessions.heard(notice, shared.clock.now());
    }
    in_time
}

/// Begins to keep records, and to work off what they come to if that is the gateway's own task.
fn open_books(
    shelf: Option<Shelf>,
    kept: HashSet<JobId>,
    config: &GatewayConfig,
    managed: bool,
    stopping: &watch::Receiver<bool>,
) -> Result<(Accounts, Option<JoinHandle<()>>), GatewayError> {
    let Some(shelf) = shelf else {
        return Ok((Accounts::nowhere(), None));
    };
    let due = Arc::new(Notify::new());
    let worker = housekeep::worker(config, shelf.ledger())?;
    let in_daemon = config.housekeeping.run.in_daemon(managed);
    let work = in_daemon.then(|| housekeep::keep_house(worker, Arc::clone(&due), stopping.clone()));
    let sessions = config.limits.sessions as usize;
    Ok((Accounts::in_ledger(shelf, due, sessions, kept)?, work.map(spawn_local)))
}

/// Serves the local socket as long as what is returned lives.
fn answer(socket: LocalSocket, shared: &Rc<Shared>) -> Option<Served> {
    match socket.serve() {
        Ok((served, questions)) => {
            spawn_local(questions.answer_all(Rc::clone(shared)));
            Some(served)
        }
        Err(error) => {
            warn!(%error, "cannot serve the local socket");
            None
        }
    }
}

/// Tells the service manager, if there is one. That it does not listen is its own affair.
fn tell(manager: &Option<Manager>, what: impl FnOnce(&Manager) -> std::io::Result<()>) {
    if let Some(Err(error)) = manager.as_ref().map(what) {
        warn!(%error, "the service manager was not told");
    }
}

/// The parts of the device, one for each worker.
async fn open_device(
    device: Device,
    config: &GatewayConfig,
    addresses: &[IpNet],
    nat: &mut Option<Nat>,
) -> Result<Vec<Part>, GatewayError> {
    let network = &config.network;
    match device {
        Device::Memory(device) => Ok(Part::of_memory(device, network.workers)),
        Device::Tun => {
            Nat::is_possible(config)?;
            let options = TunOptions {
                name: network.interface.clone(),
                mtu: network.mtu,
                offloads: network.offload,
            };
            let queues = TunQueue::create(&options, network.workers)?;
            let index = queues.first().map_or(0, TunQueue::index);
            // The device is ours and still down: nobody else's table has this name, and nothing passes before it is there.
            *nat = Nat::put_up(config).await?;
            Network::open()
                .await?
                .apply_gateway(index, addresses, network.mtu)
                .await?;
            // Of a device of our own, which takes the setting along; where we may not, it says what the host says of new ones.
            let _ = forward_ipv4_from(&network.interface);
            warn_if_not_forwarding(addresses);
            Ok(queues.into_iter().map(Part::Tun).collect())
        }
    }
}

fn warn_if_not_forwarding(addresses: &[IpNet]) {
    let (v4, v6) = forwarding_enabled();
    let served = |is_v4| addresses.iter().any(|net| net.addr().is_ipv4() == is_v4);
    if !v4 && served(true) {
        warn!("this host does not forward IPv4: clients reach only the gateway; set net.ipv4.ip_forward=1");
    }
    if !v6 && served(false) {
        warn!("this host does not forward IPv6: clients reach only the gateway; set net.ipv6.conf.all.forwarding=1");
    }
}

/// Ends each session when its time is over.
async fn end_sessions(shared: Rc<Shared>) {
    loop {
        let now = shared.clock.now();
        shared.sessions.expire(now);
        // There may be more to do at once than is done in one turn.
        yield_now().await;
        let changed = shared.sessions.changed.notified();
        match shared.sessions.deadline(now) {
            Some(deadline) => tokio::select! {
                () = changed => {}
                () = sleep_until(instant(deadline.at, now)) => {}
            },
            None => changed.await,
        }
    }
}

/// Notices when the gateway did not run, and writes the tallies.
async fn watch_the_clock(shared: Rc<Shared>) {
    let mut missed = shared.clock.missed();
    let mut written = shared.clock.now();
    loop {
        sleep(TICK).await;
        let now = shared.clock.now();
        if shared.clock.gap_since(&mut missed).is_some() {
            // Sessions count time that timers do not: the table is looked at anew.
            shared.sessions.changed.notify_one();
        }
        if now.awake.since(written.awake) >= PERIOD {
            shared.tallies.write();
            written = now;
        }
    }
}
