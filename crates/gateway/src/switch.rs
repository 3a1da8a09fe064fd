//! The only reader of the device, and the map from addresses to sessions.
//!
//! ```text
//!   device --Reader--> run() --by destination--> queue of the session (bounded; full = counted drop)
//!   session --uplink()--by destination--> queue of another session, if clients may talk to each other
//!                                    \--> device
//! ```
//! The source of a session's packets has been checked before they come here (`session::gateway::Established`).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use bytes::Bytes;
use ipnet::IpNet;
use packet::{DropCounters, DropReason, IpPacket};
use session::gateway::{Lease, SessionId};
use tokio::sync::mpsc;

use crate::device::{Reader, Writer};

/// Packets read from the device before other tasks get a turn.
const READ_BUDGET: u32 = 64;

/// Where the packets for one address go.
struct Port {
    session: SessionId,
    /// `None` while the session has no connection.
    queue: Option<mpsc::Sender<Bytes>>,
    /// Packets from the device that did not fit.
    drops: DropCounters,
}

/// Forwards packets between the device and the sessions.
pub(crate) struct Switch {
    ports: RefCell<HashMap<IpAddr, Port>>,
    /// The gateway's own address and network of each pool.
    pools: Vec<IpNet>,
    writer: Writer,
    client_to_client: Cell<bool>,
    /// Packets from the device that are for no session.
    drops: RefCell<DropCounters>,
}

impl Switch {
    /// A switch without sessions. `pools` are the gateway's own addresses with the networks of the pools.
    pub(crate) fn new(writer: Writer, pools: Vec<IpNet>, client_to_client: bool) -> Self {
        Self {
            ports: RefCell::default(),
            pools,
            writer,
            client_to_client: Cell::new(client_to_client),
            drops: RefCell::default(),
        }
    }

    /// Whether clients may send packets to each other, from now on.
    pub(crate) fn allow_client_to_client(&self, allow: bool) {
        self.client_to_client.set(allow);
    }

    /// Packets for `lease` go to `queue` from now on, whoever got them before.
    pub(crate) fn plug(&self, session: SessionId, lease: &Lease, queue: mpsc::Sender<Bytes>) {
        let mut ports = self.ports.borrow_mut();
        for address in lease.addresses() {
            let port = ports.entry(address).or_insert(Port {
                session,
                queue: None,
                drops: DropCounters::default(),
            });
            if port.session != session {
                *port = Port {
                    session,
                    queue: None,
                    drops: DropCounters::default(),
                };
            }
            port.queue = Some(queue.clone());
        }
    }

    /// The session has no connection for now; its packets are dropped under [`DropReason::ChannelDown`].
    pub(crate) fn unplug(&self, session: SessionId, lease: &Lease) {
        let mut ports = self.ports.borrow_mut();
        for address in lease.addresses() {
            if let Some(port) = ports.get_mut(&address).filter(|port| port.session == session) {
                port.queue = None;
            }
        }
    }

    /// The session is over. Returns what was dropped on the way to it.
    pub(crate) fn remove(&self, session: SessionId, lease: &Lease) -> DropCounters {
        let mut ports = self.ports.borrow_mut();
        let mut drops = DropCounters::default();
        for address in lease.addresses() {
            if ports.get(&address).is_some_and(|port| port.session == session) {
                if let Some(port) = ports.remove(&address) {
                    drops.add(&port.drops);
                }
            }
        }
        drops
    }

    /// Forwards a packet that came from a session.
    ///
    /// # Errors
    /// Why it was dropped; the caller counts it under its session.
    pub(crate) fn uplink(&self, packet: Bytes) -> Result<(), DropReason> {
        let destination = IpPacket::parse(&packet)?.destination();
        if let Some(own) = self.pools.iter().find(|pool| pool.contains(&destination)) {
            if own.addr() != destination {
                return self.to_client(destination, packet);
            }
        }
        self.writer.try_send(packet)
    }

    /// Reads the device until it is gone, and says why.
    pub(crate) async fn run(&self, mut reader: Reader) -> io::Error {
        loop {
            for _ in 0..READ_BUDGET {
                match reader.recv().await {
                    Ok(packet) => self.downlink(packet),
                    Err(error) => return error,
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Packets from the device that were for no session, by reason.
    pub(crate) fn drops(&self) -> DropCounters {
        *self.drops.borrow()
    }

    /// A packet between two clients. It never reaches the device: the kernel would send it back to us.
    fn to_client(&self, destination: IpAddr, packet: Bytes) -> Result<(), DropReason> {
        if self.client_to_client.get() {
            self.deliver(destination, packet)
        } else {
            Err(DropReason::ClientToClient)
        }
    }

    fn downlink(&self, packet: Bytes) {
        let destination = match IpPacket::parse(&packet) {
            Ok(packet) => packet.destination(),
            Err(reason) => return self.drops.borrow_mut().count(reason),
        };
        if let Err(reason) = self.deliver(destination, packet) {
            match self.ports.borrow_mut().get_mut(&destination) {
                Some(port) => port.drops.count(reason),
                None => self.drops.borrow_mut().count(reason),
            }
        }
    }

    fn deliver(&self, destination: IpAddr, packet: Bytes) -> Result<(), DropReason> {
        let ports = self.ports.borrow();
        let port = ports.get(&destination).ok_or(DropReason::NoRoute)?;
        let queue = port.queue.as_ref().ok_or(DropReason::ChannelDown)?;
        queue.try_send(packet).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => DropReason::QueueFull,
            mpsc::error::TrySendError::Closed(_) => DropReason::ChannelDown,
        })
    }
}
