//! One of the threads that carry packets: its queue of the device, its sockets, and the tunnels of the sessions that are its own.
//!
//! ```text
//!   main thread --Command--> obey() --> seats, switch, room of datagrams, tunnels
//!   tunnels --Notice--> desk of the main thread
//!   queue of the device --> switch --+--> tunnels --> sockets, device, control connections
//!   sockets --> room of datagrams ---+
//!   other workers <--parcels, words--> (team)
//! ```
//! Everything here belongs to one thread with a current-thread runtime. The first worker is the main thread itself: it obeys at once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::TcpStream;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use channel::Channel;
use ipnet::IpNet;
use platform::udp::UdpListener;
use rustls::Connection;
use session::gateway::{DatagramTerms, Lease, SessionId};
use session::{EndReason, Traffic};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, spawn_local, yield_now};
use tokio::time::sleep;
use tracing::error;

use crate::GatewayError;
use crate::access::Access;
use crate::admission::{SESSION_QUEUE, SESSION_QUEUE_BYTES};
use crate::clock::{Clock, TICK};
use crate::datagrams::{DatagramRoom, Granted, Inheritance, Port};
use crate::desk::{Desk, News, Notice};
use crate::device::{Part, Reader};
use crate::listener::Guest;
use crate::load::Load;
use crate::losses::Losses;
use crate::queue::{Receiver, Weighs, queue};
use crate::sessions::Left;
use crate::switch::{Place, Switch};
use crate::tally::PERIOD;
use crate::team::{Parcel, Post, Team};
use crate::tunnel::{self, Line, Manners, Terms};

/// Parcels taken from other workers before other tasks get a turn.
const PARCEL_BUDGET: usize = 64;

/// Bytes that they keep: with what the switch reads in a turn they fit into the queue of one session.
const PARCEL_BYTES: usize = 32 * 1024;
const _: () = assert!(PARCEL_BYTES + 65_600 + crate::switch::BYTES < SESSION_QUEUE_BYTES);

/// What a tunnel is told from outside. At most one is ever sent: each ends it.
#[derive(Debug)]
pub(crate) enum Order {
    /// A newer connection of the same session took over: close without a word, the client is on the other one, and leave it
    /// the data channel.
    GiveWay(oneshot::Sender<Inheritance>),
    /// The session is over: tell the client, then close.
    End(EndReason),
}

/// What the main thread wants of a worker. As many wait as sessions come and go while it is busy with one batch of packets; the sessions have their limit.
#[derive(Debug)]
pub(crate) enum Command {
    /// A seat for a new connection of a session; the tunnel before, if it has one, is one of this worker and gives way.
    Seat {
        session: SessionId,
        epoch: u64,
        lease: Lease,
        drops: Arc<Losses>,
        taken: Taken,
    },
    /// Datagrams that begin with this App-ID are for that seat. Answered when it is so.
    Port {
        session: SessionId,
        epoch: u64,
        app_id: Vec<u8>,
        open: oneshot::Sender<()>,
    },
    /// Nobody came.
    Vacate { session: SessionId, epoch: u64 },
    /// A client has its grant: from now on its connection is the worker's.
    Carry(Box<Carriage>),
    /// A session is over.
    End {
        session: SessionId,
        epoch: u64,
        reason: EndReason,
    },
    /// Packets for a session go to another worker, or nowhere while it waits.
    Place {
        session: SessionId,
        lease: Lease,
        worker: Option<usize>,
        drops: Arc<Losses>,
    },
    /// A session has no connection for now.
    Unplug { session: SessionId, lease: Lease },
    /// A session is not there any more.
    Forget { session: SessionId, lease: Lease },
    /// Whether clients may send packets to each other.
    ClientToClient(bool),
    /// What clients may talk to.
    Access(Arc<Access>),
}

/// A connection on its way to the worker that carries it.
pub(crate) struct Carriage {
    pub(crate) session: SessionId,
    pub(crate) epoch: u64,
    /// Logged in to which group.
    pub(crate) group: Option<String>,
    pub(crate) socket: TcpStream,
    pub(crate) tls: Connection,
    /// Plaintext that came behind the request.
    pub(crate) received: BytesMut,
    pub(crate) guest: Guest,
    pub(crate) terms: Terms,
    pub(crate) manners: Manners,
    /// Of the data channel, if it was granted.
    pub(crate) data: Option<DatagramTerms>,
}

impl std::fmt::Debug for Carriage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Carriage")
            .field("session", &self.session)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// One more seat of a worker is taken, until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken(Arc<AtomicUsize>);

impl Taken {
    pub(crate) fn one_of(seats: &Arc<AtomicUsize>) -> Self {
        seats.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(seats))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connected session's place: what its tunnel works with.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) session: SessionId,
    pub(crate) epoch: u64,
    pub(crate) lease: Lease,
    /// Packets for the client.
    pub(crate) packets: Receiver<Load>,
    /// What happens to the session from outside.
    pub(crate) orders: oneshot::Receiver<Order>,
    /// The data channel of the connection before, if there was one.
    pub(crate) estate: Option<oneshot::Receiver<Inheritance>>,
    port: Option<Port>,
    _taken: Taken,
}

/// All that a worker is made of, on its way to its thread.
pub(crate) struct Parts {
    pub(crate) device: Part,
    pub(crate) sockets: Vec<std::net::UdpSocket>,
    pub(crate) team: Team,
    pub(crate) post: Post,
    pub(crate) desk: Desk,
    pub(crate) pools: Vec<IpNet>,
    pub(crate) client_to_client: bool,
    pub(crate) access: Arc<Access>,
    pub(crate) lost: Arc<Losses>,
    pub(crate) stopping: watch::Receiver<bool>,
}

/// See the module.
pub(crate) struct Worker {
    pub(crate) clock: Rc<Clock>,
    pub(crate) switch: Switch,
    pub(crate) datagrams: DatagramRoom,
    pub(crate) desk: Desk,
    /// True once the gateway stops.
    pub(crate) stopping: watch::Receiver<bool>,
    /// What clients may talk to; a tunnel looks at each event whether this is still what it goes by.
    access: RefCell<Arc<Access>>,
    team: Rc<Team>,
    /// Whose connection has yet to come.
    seats: RefCell<HashMap<(SessionId, u64), Seat>>,
    /// Of the newest connection of each session.
    orders: RefCell<HashMap<SessionId, (u64, oneshot::Sender<Order>)>>,
}

/// What a worker reads.
pub(crate) struct Sources {
    reader: Option<Reader>,
    parcels: Receiver<Parcel>,
}

impl Worker {
    /// Puts a worker together on its own thread. Needs its runtime.
    ///
    /// # Errors
    /// A socket or the device cannot be watched.
    pub(crate) fn new(parts: Parts) -> Result<(Rc<Self>, Sources), GatewayError> {
        let Parts {
            device,
            sockets,
            team,
            post,
            desk,
            pools,
            client_to_client,
            access,
            lost,
            stopping,
        } = parts;
        let team = Rc::new(team);
        let sockets: std::io::Result<_> = sockets.into_iter().map(UdpListener::adopt).collect();
        let sockets = sockets.map_err(|source| GatewayError::Io {
            what: "register a UDP socket",
            source,
        })?;
        let datagrams = DatagramRoom::new(sockets, Rc::clone(&team), post.words);
        let (reader, writer) = device.open(datagrams.pool())?;
        let own = (Rc::clone(&team), datagrams.pool());
        let worker = Self {
            clock: Rc::new(Clock::new()),
            switch: Switch::new(writer, pools, client_to_client, own, lost),
            datagrams,
            desk,
            stopping,
            access: RefCell::new(access),
            team,
            seats: RefCell::default(),
            orders: RefCell::default(),
        };
        let sources = Sources {
            reader,
            parcels: post.parcels,
        };
        Ok((Rc::new(worker), sources))
    }

    /// Reads the device, the sockets and what other workers hand over, until the device is gone. A panic in any of it is a panic of this.
    pub(crate) async fn work(self: Rc<Self>, sources: Sources) -> GatewayError {
        let mut tasks = JoinSet::new();
        if let Some(reader) = sources.reader {
            let worker = Rc::clone(&self);
            tasks.spawn_local(async move { Some(GatewayError::DeviceGone(worker.switch.run(reader).await)) });
        }
        for socket in 0..self.datagrams.sockets() {
            tasks.spawn_local(Rc::clone(&self).receive(socket));
        }
        if !self.team.is_alone() {
            tasks.spawn_local(Rc::clone(&self).unpack(sources.parcels));
            let worker = Rc::clone(&self);
            tasks.spawn_local(async move {
                worker.datagrams.hear().await;
                None
            });
        }
        tasks.spawn_local(Rc::clone(&self).watch_the_clock());
        loop {
            match tasks.join_next().await {
                Some(Ok(Some(gone))) => return gone,
                Some(Ok(None)) => {}
                Some(Err(error)) => {
                    if let Ok(panic) = error.try_into_panic() {
                        resume_unwind(panic);
                    }
                }
                None => std::future::pending().await,
            }
        }
    }

    /// Does what the main thread wants.
    pub(crate) fn obey(self: &Rc<Self>, command: Command) {
        match command {
            Command::Seat {
                session,
                epoch,
                lease,
                drops,
                taken,
            } => self.seat((session, epoch), lease, &drops, taken),
            Command::Port {
                session,
                epoch,
                app_id,
                open,
            } => {
                if let Some(seat) = self.seats.borrow_mut().get_mut(&(session, epoch)) {
                    seat.port = Some(self.datagrams.port(app_id));
                }
                let _ = open.send(());
            }
            Command::Vacate { session, epoch } => {
                self.seats.borrow_mut().remove(&(session, epoch));
                self.over(session, epoch);
            }
            Command::Carry(carriage) => drop(spawn_local(Rc::clone(self).carry(*carriage))),
            Command::End { session, epoch, reason } => self.end(session, epoch, reason),
            Command::Place {
                session,
                lease,
                worker,
                drops,
            } => {
                let place = worker.map_or(Place::Nowhere, Place::There);
                self.switch.plug(session, &lease, &place, &drops);
            }
            Command::Unplug { session, lease } => self.switch.unplug(session, &lease),
            Command::Forget { session, lease } => self.switch.remove(session, &lease),
            Command::ClientToClient(allow) => self.switch.allow_client_to_client(allow),
            Command::Access(access) => *self.access.borrow_mut() = access,
        }
    }

    /// What clients may talk to now, if it is not `known`.
    pub(crate) fn other_access(&self, known: &Arc<Access>) -> Option<Arc<Access>> {
        let access = self.access.borrow();
        (!Arc::ptr_eq(&access, known)).then(|| Arc::clone(&access))
    }

    /// What clients may talk to now.
    pub(crate) fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.borrow())
    }

    fn seat(&self, (session, epoch): (SessionId, u64), lease: Lease, drops: &Arc<Losses>, taken: Taken) {
        let (queue_in, packets) = queue(SESSION_QUEUE, SESSION_QUEUE_BYTES);
        self.switch.plug(session, &lease, &Place::Here(queue_in), drops);
        let (order, orders) = oneshot::channel();
        let before = self.orders.borrow_mut().insert(session, (epoch, order));
        let estate = before.map(|(_, old)| {
            let (heir, estate) = oneshot::channel();
            // Whoever is gone already needs no order.
            let _ = old.send(Order::GiveWay(heir));
            estate
        });
        let seat = Seat {
            session,
            epoch,
            lease,
            packets,
            orders,
            estate,
            port: None,
            _taken: taken,
        };
        self.seats.borrow_mut().insert((session, epoch), seat);
    }

    async fn carry(self: Rc<Self>, carriage: Carriage) {
        let Carriage {
            session,
            epoch,
            group,
            socket,
            tls,
            received,
            guest,
            terms,
            manners,
            data,
        } = carriage;
        let seat = self.seats.borrow_mut().remove(&(session, epoch));
        let socket = tokio::net::TcpStream::from_std(socket);
        let (mut seat, socket) = match (seat, socket) {
            (Some(seat), Ok(socket)) => (seat, socket),
            (_, Err(error)) => {
                self.over(session, epoch);
                return self.left(session, epoch, Left::Detached(error.to_string())).await;
            }
            (None, Ok(_)) => return self.left(session, epoch, Left::Ordered).await,
        };
        let granted = data.zip(seat.port.take()).map(|(terms, port)| Granted { terms, port });
        let line = Line {
            channel: Channel::new(socket, tls, received),
            guest,
        };
        tunnel::carry(&self, (seat, group), line, granted, (terms, manners)).await;
        self.over(session, epoch);
    }

    /// Nobody obeys orders for this connection any more.
    fn over(&self, session: SessionId, epoch: u64) {
        let mut orders = self.orders.borrow_mut();
        if orders.get(&session).is_some_and(|(of, _)| *of == epoch) {
            orders.remove(&session);
        }
    }

    fn end(self: &Rc<Self>, session: SessionId, epoch: u64, reason: EndReason) {
        let order = self.orders.borrow_mut().remove(&session);
        let told = order.is_some_and(|(_, order)| order.send(Order::End(reason)).is_ok());
        if !told {
            // Its tunnel has said that it left, or could not: the room is not to wait for it.
            let worker = Rc::clone(self);
            spawn_local(async move { worker.left(session, epoch, Left::Ordered).await });
        }
    }

    /// What the tunnel of this seat would be told.
    #[cfg(test)]
    pub(crate) fn order_for(&self, session: SessionId, epoch: u64) -> Option<Order> {
        self.seats
            .borrow_mut()
            .get_mut(&(session, epoch))?
            .orders
            .try_recv()
            .ok()
    }

    async fn left(&self, session: SessionId, epoch: u64, left: Left) {
        let news = News::Left(Traffic::default(), left);
        // A room that is gone does not wait.
        let _ = self.desk.send(Notice { session, epoch, news }).await;
    }

    /// Hands out the datagrams of one socket.
    async fn receive(self: Rc<Self>, socket: usize) -> Option<GatewayError> {
        let error = self.datagrams.receive(socket, || self.clock.now()).await;
        error!(%error, "a UDP socket failed; its clients use the control channel");
        None
    }

    /// Takes what other workers hand over.
    async fn unpack(self: Rc<Self>, mut parcels: Receiver<Parcel>) -> Option<GatewayError> {
        while let Some(parcel) = parcels.recv().await {
            let now = self.clock.now();
            let (mut next, mut kept) = (Some(parcel), 0);
            for _ in 0..PARCEL_BUDGET {
                let parcel = next.take().or_else(|| parcels.try_recv());
                kept += parcel.as_ref().map_or(0, Weighs::kept);
                match parcel {
                    Some(Parcel::Load(load)) => self.switch.handed(load),
                    Some(Parcel::Datagrams { bytes, each, ecn, from }) => {
                        self.datagrams.handed((bytes, each, ecn), from, now);
                    }
                    None => break,
                }
                if kept > PARCEL_BYTES {
                    break;
                }
            }
            yield_now().await;
        }
        None
    }

    /// Notices when the gateway did not run, and writes and says what is due from time to time.
    async fn watch_the_clock(self: Rc<Self>) -> Option<GatewayError> {
        let mut written = self.clock.now();
        loop {
            sleep(TICK).await;
            let now = self.clock.now();
            self.datagrams.catch_up();
            if now.awake.since(written.awake) >= PERIOD {
                self.datagrams.write_strays();
                written = now;
            }
        }
    }
}
