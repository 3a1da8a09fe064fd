//! The main thread's side of the workers: which session goes to which, what they are told, and how they begin and end.
//!
//! ```text
//!   main thread = worker 0 --obeys at once
//!               --commands--> worker 1, 2, ... a thread each --ended--> failed(): the gateway stops
//! ```
//! A worker that ends before it is told to, by an error or by a panic, ends the gateway: half of one would lose the packets of half of its sessions.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use ipnet::IpNet;
use packet::DropCounters;
use platform::udp::UdpListener;
use session::EndReason;
use session::gateway::{Lease, SessionId};
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;
use tokio::time::timeout;
use tracing::{dispatcher, warn};

use crate::GatewayError;
use crate::access::Access;
use crate::datagrams::{APP_ID_BYTES, bytes};
use crate::desk::Desk;
use crate::device::Part;
use crate::losses::Losses;
use crate::team::{Handed, assemble, name};
use crate::worker::{Carriage, Command, Parts, Sources, Taken, Worker};

/// UDP sockets beside each listening TCP socket.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    ports: Vec<u16>,
    /// For each address those of the workers, in their order.
    sockets: Vec<Vec<std::net::UdpSocket>>,
}

impl Doors {
    /// Opens one for each worker beside each listening TCP socket, at `port` or at the same one. `None` opens nothing.
    ///
    /// # Errors
    /// Which address cannot be had.
    pub(crate) fn open(
        listeners: &[TcpListener],
        port: Option<Option<u16>>,
        workers: usize,
    ) -> Result<Self, GatewayError> {
        let mut doors = Self::default();
        for listener in listeners.iter().filter(|_| port.is_some()) {
            let mut address: SocketAddr = listener.local_addr().map_err(|source| GatewayError::Io {
                what: "ask for the address of a listening socket",
                source,
            })?;
            if let Some(port) = port.flatten() {
                address.set_port(port);
            }
            let dual_stack = address.is_ipv6() && !SockRef::from(listener).only_v6().unwrap_or(true);
            doors
                .sockets
                .push(UdpListener::bind_group(address, dual_stack, workers)?);
            doors.ports.push(address.port());
        }
        Ok(doors)
    }

    /// The sockets of each worker, one for each address, and the ports of the addresses.
    pub(crate) fn of_workers(self, workers: usize) -> (Vec<Vec<std::net::UdpSocket>>, Vec<u16>) {
        let mut all: Vec<_> = (0..workers).map(|_| Vec::new()).collect();
        for group in self.sockets {
            for (own, socket) in all.iter_mut().zip(group) {
                own.push(socket);
            }
        }
        (all, self.ports)
    }
}

/// What all workers are made of.
pub(crate) struct Outfit {
    /// One for each worker.
    pub(crate) devices: Vec<Part>,
    pub(crate) doors: Doors,
    pub(crate) desk: Desk,
    pub(crate) pools: Vec<IpNet>,
    pub(crate) client_to_client: bool,
    pub(crate) access: Arc<Access>,
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Outfit {
    /// Starts all workers but the first, which is the caller's thread and has to work off the sources that are returned.
    ///
    /// # Errors
    /// Why one of them does not work.
    pub(crate) async fn staff(self, threads: &mut Threads) -> Result<(Crew, Sources), GatewayError> {
        let (lost, handed) = (Arc::default(), Arc::default());
        let (mut parts, ports) = self.parts(&lost, &handed);
        let others = parts.split_off(1);
        let (here, sources) = Worker::new(parts.pop().expect("there is one at least"))?;
        let mut hired = Vec::new();
        for parts in others {
            hired.push(threads.hire(parts).await?);
        }
        Ok((Crew::new(here, hired, ports, (lost, handed)), sources))
    }

    fn parts(self, lost: &Arc<Losses>, handed: &Arc<Handed>) -> (Vec<Parts>, Vec<u16>) {
        let workers = self.devices.len();
        let (sockets, ports) = self.doors.of_workers(workers);
        let sides = assemble(workers, handed).into_iter().zip(sockets);
        let parts = self.devices.into_iter().zip(sides);
        let parts = parts.map(|(device, ((team, post), sockets))| Parts {
            device,
            sockets,
            team,
            post,
            desk: self.desk.clone(),
            pools: self.pools.clone(),
            client_to_client: self.client_to_client,
            access: Arc::clone(&self.access),
            lost: Arc::clone(lost),
            stopping: self.stopping.clone(),
        });
        (parts.collect(), ports)
    }
}

/// See the module.
pub(crate) struct Crew {
    here: Rc<Worker>,
    others: RefCell<Vec<mpsc::UnboundedSender<Command>>>,
    /// Seats taken at each worker.
    seats: Vec<Arc<AtomicUsize>>,
    ports: Vec<u16>,
    lost: Arc<Losses>,
    handed: Arc<Handed>,
    random: SystemRandom,
}

impl Crew {
    /// The main thread's worker and those that were hired.
    fn new(
        here: Rc<Worker>,
        others: Vec<mpsc::UnboundedSender<Command>>,
        ports: Vec<u16>,
        (lost, handed): (Arc<Losses>, Arc<Handed>),
    ) -> Self {
        Self {
            here,
            seats: (0..=others.len()).map(|_| Arc::default()).collect(),
            others: RefCell::new(others),
            ports,
            lost,
            handed,
            random: SystemRandom::new(),
        }
    }

    /// One worker, with a device in memory and without sockets; it obeys, and reads nothing.
    #[cfg(test)]
    pub(crate) fn alone(device: crate::MemoryDevice, pools: Vec<IpNet>) -> Self {
        let (lost, handed) = (Arc::default(), Arc::default());
        let outfit = Outfit {
            devices: Part::of_memory(device, 1),
            doors: Doors::default(),
            desk: crate::desk::desk().0,
            pools,
            client_to_client: false,
            access: Arc::default(),
            stopping: watch::channel(false).1,
        };
        let (mut parts, ports) = outfit.parts(&lost, &handed);
        let (here, _) = Worker::new(parts.pop().expect("one")).expect("a worker");
        Self::new(here, Vec::new(), ports, (lost, handed))
    }

    /// The worker with the fewest seats taken; of several the last one, as the first has the logins beside.
    pub(crate) fn idlest(&self) -> usize {
        let taken = |worker: &usize| self.seats[*worker].load(Ordering::Relaxed);
        let all = (0..self.seats.len()).rev();
        all.min_by_key(taken).unwrap_or(0)
    }

    /// Has a worker make a seat for a new connection of a session, and all know that its packets go there.
    pub(crate) fn seat(&self, worker: usize, (session, epoch): (SessionId, u64), lease: &Lease, drops: &Arc<Losses>) {
        let seat = Command::Seat {
            session,
            epoch,
            lease: *lease,
            drops: Arc::clone(drops),
            taken: Taken::one_of(&self.seats[worker]),
        };
        self.tell(worker, seat);
        self.place(session, lease, Some(worker), drops);
    }

    /// A session that waits for its client, from before a restart.
    pub(crate) fn waits(&self, session: SessionId, lease: &Lease, drops: &Arc<Losses>) {
        self.place(session, lease, None, drops);
    }

    /// Tells all but the worker itself where the packets of a session go.
    fn place(&self, session: SessionId, lease: &Lease, worker: Option<usize>, drops: &Arc<Losses>) {
        for other in (0..self.seats.len()).filter(|other| Some(*other) != worker) {
            let place = Command::Place {
                session,
                lease: *lease,
                worker,
                drops: Arc::clone(drops),
            };
            self.tell(other, place);
        }
    }

    /// The UDP port for a client that came to this TCP port.
    pub(crate) fn port_beside(&self, tcp: u16) -> Option<u16> {
        let same = self.ports.iter().copied().find(|port| *port == tcp);
        same.or(self.ports.first().copied())
    }

    /// An App-ID that names this worker.
    pub(crate) fn app_id(&self, worker: usize) -> [u8; APP_ID_BYTES] {
        let mut app_id = bytes::<APP_ID_BYTES>(&self.random);
        app_id[0] = name(worker, self.seats.len(), app_id[0]);
        app_id
    }

    /// Datagrams that begin with this App-ID are for that seat, as soon as what is returned is ready.
    pub(crate) fn open_port(
        &self,
        worker: usize,
        (session, epoch): (SessionId, u64),
        app_id: Vec<u8>,
    ) -> oneshot::Receiver<()> {
        let (open, opened) = oneshot::channel();
        let port = Command::Port {
            session,
            epoch,
            app_id,
            open,
        };
        self.tell(worker, port);
        opened
    }

    /// Nobody came for a seat.
    pub(crate) fn vacate(&self, worker: usize, (session, epoch): (SessionId, u64)) {
        self.tell(worker, Command::Vacate { session, epoch });
    }

    /// Hands a connection to the worker of its seat.
    pub(crate) fn carry(&self, worker: usize, carriage: Carriage) {
        self.tell(worker, Command::Carry(Box::new(carriage)));
    }

    /// Has the tunnel of this connection end. It is reported left in any case.
    pub(crate) fn end(&self, worker: usize, (session, epoch): (SessionId, u64), reason: EndReason) {
        self.tell(worker, Command::End { session, epoch, reason });
    }

    /// A session has no connection for now.
    pub(crate) fn unplug(&self, session: SessionId, lease: &Lease) {
        self.tell_all(|| Command::Unplug { session, lease: *lease });
    }

    /// A session is over.
    pub(crate) fn forget(&self, session: SessionId, lease: &Lease) {
        self.tell_all(|| Command::Forget { session, lease: *lease });
    }

    /// Whether clients may send packets to each other, from now on.
    pub(crate) fn allow_client_to_client(&self, allow: bool) {
        self.tell_all(|| Command::ClientToClient(allow));
    }

    /// What clients may talk to, from now on.
    pub(crate) fn set_access(&self, access: &Arc<Access>) {
        self.tell_all(|| Command::Access(Arc::clone(access)));
    }

    /// Packets from the device that were for no session, by reason.
    pub(crate) fn drops(&self) -> DropCounters {
        self.lost.read()
    }

    /// Datagrams, and packets, that went from worker to worker; nothing where there is one.
    pub(crate) fn handed(&self) -> Option<(u64, u64)> {
        (self.seats.len() > 1).then(|| self.handed.read())
    }

    /// The main thread's own worker.
    pub(crate) fn here(&self) -> &Rc<Worker> {
        &self.here
    }

    /// The others have nothing more to do.
    pub(crate) fn dismiss(&self) {
        self.others.borrow_mut().clear();
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        (0..self.seats.len()).for_each(|worker| self.tell(worker, command()));
    }

    /// Whoever has ended already obeys nothing, and that ends the gateway.
    fn tell(&self, worker: usize, command: Command) {
        match worker.checked_sub(1) {
            None => self.here.obey(command),
            Some(other) => {
                if let Some(commands) = self.others.borrow().get(other) {
                    let _ = commands.send(command);
                }
            }
        }
    }
}

/// The threads of the other workers.
pub(crate) struct Threads {
    threads: Vec<JoinHandle<()>>,
    /// How many have said that they ended.
    over: usize,
    ended: mpsc::UnboundedReceiver<Result<(), GatewayError>>,
    says: mpsc::UnboundedSender<Result<(), GatewayError>>,
}

/// Says how a thread ended when it does, also if that is by a panic.
struct Farewell {
    outcome: Option<Result<(), GatewayError>>,
    says: mpsc::UnboundedSender<Result<(), GatewayError>>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or(Err(GatewayError::WorkerDied));
        let _ = self.says.send(outcome);
    }
}

impl Threads {
    /// Nobody yet.
    pub(crate) fn new() -> Self {
        let (says, ended) = mpsc::unbounded_channel();
        Self {
            threads: Vec::new(),
            over: 0,
            ended,
            says,
        }
    }

    /// Starts a worker of these parts and waits until it works. Returns the way to it; it ends when that is dropped.
    ///
    /// # Errors
    /// Why it does not work.
    pub(crate) async fn hire(&mut self, parts: Parts) -> Result<mpsc::UnboundedSender<Command>, GatewayError> {
        let (commands, obeyed) = mpsc::unbounded_channel();
        let (ready, began) = oneshot::channel();
        self.start(move || work(parts, obeyed, ready))?;
        match began.await {
            Ok(()) => Ok(commands),
            Err(_) => Err(self.failed().await),
        }
    }

    fn start(&mut self, body: impl FnOnce() -> Result<(), GatewayError> + Send + 'static) -> Result<(), GatewayError> {
        let farewell = Farewell {
            outcome: None,
            says: self.says.clone(),
        };
        // What this thread logs to, if that is its own affair.
        let log = dispatcher::get_default(Clone::clone);
        let number = self.threads.len() + 1;
        let started = thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            // The whole of it, to be dropped here.
            let mut farewell = farewell;
            farewell.outcome = Some(dispatcher::with_default(&log, body));
        });
        let started = started.map_err(|source| GatewayError::Io {
            what: "start the thread of a worker",
            source,
        })?;
        self.threads.push(started);
        Ok(())
    }

    /// Waits until a worker has ended that was not told to, and says why.
    pub(crate) async fn failed(&mut self) -> GatewayError {
        let ended = self.ended.recv().await;
        self.over += 1;
        match ended {
            Some(Err(error)) => error,
            Some(Ok(())) | None => GatewayError::WorkerDied,
        }
    }

    /// Waits until all have ended that were told to ([`Crew::dismiss`]), at most `limit`.
    pub(crate) async fn all_ended(mut self, limit: Duration) {
        let all = async {
            for _ in self.over..self.threads.len() {
                if let Some(Err(error)) = self.ended.recv().await {
                    warn!(%error, "a worker did not end well");
                }
            }
        };
        if timeout(limit, all).await.is_err() {
            return warn!("a worker did not end in time");
        }
        for thread in self.threads {
            // It has said farewell; a panic has been reported.
            let _ = thread.join();
        }
    }
}

/// The life of a worker's thread.
fn work(
    parts: Parts,
    mut commands: mpsc::UnboundedReceiver<Command>,
    ready: oneshot::Sender<()>,
) -> Result<(), GatewayError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| GatewayError::Io {
            what: "start the runtime of a worker",
            source,
        })?;
    runtime.block_on(LocalSet::new().run_until(async move {
        let (worker, sources) = Worker::new(parts)?;
        let mut working = std::pin::pin!(Rc::clone(&worker).work(sources));
        let _ = ready.send(());
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => worker.obey(command),
                    None => break,
                },
                gone = &mut working => return Err(gone),
            }
        }
        worker.datagrams.write_strays();
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_panics_is_an_error_of_the_gateway() {
        let mut threads = Threads::new();
        threads.start(|| panic!("a planted fault")).expect("a thread");
        assert!(matches!(threads.failed().await, GatewayError::WorkerDied));
    }

    #[tokio::test]
    async fn a_thread_that_fails_says_why() {
        let mut threads = Threads::new();
        let gone = || GatewayError::DeviceGone(std::io::ErrorKind::BrokenPipe.into());
        threads.start(move || Err(gone())).expect("a thread");
        assert!(matches!(threads.failed().await, GatewayError::DeviceGone(_)));
    }
}
