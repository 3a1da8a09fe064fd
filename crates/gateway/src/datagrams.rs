//! Datagrams of all clients: the UDP sockets, and which session a datagram is for.
//!
//! ```text
//!   socket --receive()--> hello?  App-ID known? -- no --> dropped
//!                            |    cookie of this address? -- no --> HelloVerifyRequest, nothing kept
//!                            |    yes --------------------------------+
//!                         record with an id? --> by id ---------------+--> queue of the session (bounded; full = dropped)
//!                         other record?      --> by where it is from -+
//! ```
//! Each worker has a room of its own, with one socket of each address, and the kernel gives a datagram to the worker that its first bytes name
//! (`platform::udp`). One that comes to another worker is handed on once: an App-ID and a connection id name their worker, and where records
//! without an id are at home the workers tell each other ([`crate::team`]).
//!
//! Nothing is kept for an address that has not proven itself: the App-ID is 32 random bytes that only its client was told,
//! over TLS, and the cookie shows that whoever sends it also receives. A reply is never longer than what it replies to.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::rc::Rc;
use std::task::Poll;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use dtls::{ConnectionId, CookieCheck, Cookies, Peek, ProvenHello, peek};
use now::{Awake, Now};
use packet::{Batch, Ecn};
use platform::udp::{Inbox, SendFault, UdpListener, Unsent};
use session::gateway::{DatagramTerms, Datagrams, Key};
use tokio::sync::mpsc;

use crate::buffer::{Buffer, Freight, Pool};
use crate::queue::{Receiver, Sender, Weighs, queue};
use crate::team::{Team, Word};

/// Bytes of a connection id of ours: nobody guesses one, and 2^32 sessions would not collide.
const ID_BYTES: usize = 8;

/// Bytes of an App-ID: what a session id of DTLS takes at most.
pub(crate) const APP_ID_BYTES: usize = 32;

/// Arrivals that wait for one session: one each of small datagrams, up to 64 together of large ones.
const QUEUE: usize = 1024;

/// Bytes that they keep: 120 ms at 100 Mbit/s.
const QUEUE_BYTES: usize = 1536 * 1024;

/// Calls that read a socket before other tasks get a turn. A prototype was fastest, and quickest to answer, with four.
const BUDGET: u32 = 4;

/// Datagrams that are read at least, if they wait, however many calls that takes: twice what a tunnel takes in its turn, and half of what waits for one. So
/// a client that sends more than is taken of it fills the queue of its own session, and not that of the socket, in which everybody waits.
const AT_LEAST: usize = 512;

/// Bytes that are kept by what is read in one turn: what four calls read at most, and what fits into the queue of one session.
const TURN_BYTES: usize = 1024 * 1024;
const _: () = assert!(TURN_BYTES + 4 * 65_600 <= QUEUE_BYTES);

/// How long a cookie of a hello is good: at least this, at most twice this.
const COOKIE_LIFE_S: u64 = 60;

/// Where a datagram came from, and which socket it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Endpoint {
    socket: usize,
    at: platform::udp::Endpoint,
}

impl Endpoint {
    /// One of a socket that is not there.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        let peer = SocketAddr::from(([192, 0, 2, 1], 4711));
        Self {
            socket: 0,
            at: platform::udp::Endpoint {
                peer,
                local: peer.ip(),
                interface: 0,
            },
        }
    }

    /// The client's address.
    pub(crate) fn peer(self) -> SocketAddr {
        self.at.peer
    }
}

/// What arrives for a session.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// The start of a handshake, from an address that has proven itself.
    Hello(Box<ProvenHello>, Vec<u8>, Endpoint),
    /// Anything else: datagrams that came together.
    Datagrams(Option<ConnectionId>, Together, Endpoint),
}

/// Datagrams in one buffer.
#[derive(Debug)]
pub(crate) struct Together {
    pub(crate) buffer: Buffer,
    /// Bytes of each but the last.
    each: usize,
    /// The mark of all.
    pub(crate) ecn: Ecn,
}

impl Together {
    /// One by itself.
    fn one(datagram: Vec<u8>, ecn: Ecn) -> Self {
        Self {
            each: datagram.len(),
            ecn,
            buffer: Buffer::Own(datagram),
        }
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.buffer.len().div_ceil(self.each.max(1)).max(1)
    }

    /// Where each stands in the buffer.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (each, length) = (self.each, self.buffer.len());
        (0..self.count()).map(move |index| index * each..length.min((index + 1) * each))
    }
}

impl Arrival {
    /// How many datagrams.
    pub(crate) fn datagrams(&self) -> usize {
        match self {
            Self::Hello(..) => 1,
            Self::Datagrams(_, together, _) => together.count(),
        }
    }
}

impl Weighs for Arrival {
    fn kept(&self) -> usize {
        match self {
            Self::Hello(_, datagram, _) => datagram.len(),
            Self::Datagrams(_, together, _) => together.buffer.kept(),
        }
    }
}

type AppIds = Rc<RefCell<HashMap<Vec<u8>, Route>>>;

/// Who gets a session's datagrams. Its App-ID is forgotten with it.
#[derive(Debug)]
pub(crate) struct Port {
    number: u64,
    app_id: Vec<u8>,
    app_ids: AppIds,
    sender: Sender<Arrival>,
    pub(crate) arrivals: Receiver<Arrival>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.app_ids.borrow_mut().remove(&self.app_id);
    }
}

/// What a tunnel leaves to the one that takes its session over.
#[derive(Debug)]
pub(crate) struct Inheritance {
    pub(crate) datagrams: Datagrams<Endpoint>,
    pub(crate) port: Port,
}

#[derive(Clone, Debug)]
struct Route {
    port: u64,
    queue: Sender<Arrival>,
}

/// Datagrams that reached nobody, since the last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Strays {
    /// No DTLS, or a hello without a living App-ID.
    pub(crate) unknown: u64,
    /// A session could not take it in time.
    pub(crate) crowded: u64,
    /// Hellos that were asked for their cookie.
    pub(crate) asked: u64,
}

/// See the module.
pub(crate) struct DatagramRoom {
    sockets: Vec<UdpListener>,
    team: Rc<Team>,
    by_app_id: AppIds,
    by_key: RefCell<HashMap<Key<Endpoint>, Route>>,
    /// Where records without an id come from that are for a session of another worker.
    elsewhere: RefCell<HashMap<Endpoint, usize>>,
    words: RefCell<mpsc::Receiver<(usize, Word)>>,
    cookies: RefCell<(Cookies, Awake)>,
    pool: Pool,
    /// Records that a tunnel is about to send. Each leaves it empty.
    batch: RefCell<Batch>,
    numbers: Cell<u64>,
    strays: Cell<Strays>,
    random: SystemRandom,
}

/// Whose a datagram is.
enum Owner {
    /// A session of this worker.
    Here(Route),
    /// One of another worker.
    There(usize),
    Nobody,
}

impl DatagramRoom {
    /// A room with these sockets, one for each address that the gateway listens on.
    pub(crate) fn new(sockets: Vec<UdpListener>, team: Rc<Team>, words: mpsc::Receiver<(usize, Word)>) -> Self {
        let random = SystemRandom::new();
        Self {
            sockets,
            team,
            by_app_id: Rc::default(),
            by_key: RefCell::default(),
            elsewhere: RefCell::default(),
            words: RefCell::new(words),
            cookies: RefCell::new((Cookies::new(bytes(&random)), Awake::default())),
            pool: Pool::default(),
            batch: RefCell::default(),
            numbers: Cell::new(0),
            strays: Cell::default(),
            random,
        }
    }

    /// One without sockets, of a gateway with one worker.
    #[cfg(test)]
    pub(crate) fn alone() -> Self {
        let (team, post) = crate::team::assemble(1, &std::sync::Arc::default()).pop().expect("one");
        Self::new(Vec::new(), Rc::new(team), post.words)
    }

    /// Large buffers for whoever reads.
    pub(crate) fn pool(&self) -> Pool {
        self.pool.clone()
    }

    /// Sockets, by number.
    pub(crate) fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// A port for a new connection of a session, with the App-ID that its client is told.
    pub(crate) fn port(&self, app_id: Vec<u8>) -> Port {
        let (sender, arrivals) = queue(QUEUE, QUEUE_BYTES);
        let number = self.numbers.get();
        self.numbers.set(number + 1);
        let route = Route {
            port: number,
            queue: sender.clone(),
        };
        self.by_app_id.borrow_mut().insert(app_id.clone(), route);
        Port {
            number,
            app_id,
            app_ids: Rc::clone(&self.by_app_id),
            sender,
            arrivals,
        }
    }

    /// Datagrams with this key go to `port` from now on.
    pub(crate) fn claim(&self, key: Key<Endpoint>, port: &Port) {
        let route = Route {
            port: port.number,
            queue: port.sender.clone(),
        };
        self.by_key.borrow_mut().insert(key, route);
        if let Key::From(endpoint) = key
            && !self.team.is_alone()
        {
            self.elsewhere.borrow_mut().remove(&endpoint);
            self.team.tell(|| Word::Mine(endpoint));
        }
    }

    /// They do not any more, unless they have gone to somebody else meanwhile.
    pub(crate) fn release(&self, key: Key<Endpoint>, port: &Port) {
        let mut keys = self.by_key.borrow_mut();
        if keys.get(&key).is_some_and(|route| route.port == port.number) {
            keys.remove(&key);
            self.tell_of_release(key);
        }
    }

    fn tell_of_release(&self, key: Key<Endpoint>) {
        if let Key::From(endpoint) = key {
            self.team.tell(|| Word::NotMine(endpoint));
        }
    }

    /// Nobody listens at `port` any more, which had claimed these keys.
    pub(crate) fn close(&self, port: &Port, keys: impl Iterator<Item = Key<Endpoint>>) {
        for key in keys {
            self.release(key, port);
        }
    }

    /// App-IDs and keys that lead somewhere.
    #[cfg(test)]
    pub(crate) fn known(&self) -> (usize, usize) {
        (self.by_app_id.borrow().len(), self.by_key.borrow().len())
    }

    /// Random bytes for a handshake, and a connection id.
    pub(crate) fn for_a_handshake(&self) -> ([u8; 32], ConnectionId) {
        let mut id = bytes::<ID_BYTES>(&self.random);
        id[0] = self.team.my_name(id[0]);
        let id = ConnectionId::new(&id).expect("eight bytes are a connection id");
        (bytes(&self.random), id)
    }

    /// Eight random bytes for a challenge.
    pub(crate) fn challenge(&self) -> [u8; 8] {
        bytes(&self.random)
    }

    /// Records to leave out after a gap: 2^24 to 2^36 (design.md section 5).
    pub(crate) fn jump(&self) -> u64 {
        const LEAST: u64 = 1 << 24;
        LEAST + u64::from_be_bytes(bytes(&self.random)) % ((1 << 36) - LEAST)
    }

    /// Sends a datagram, if the socket takes it at once.
    pub(crate) fn send(&self, to: Endpoint, datagram: &[u8]) -> Result<(), SendFault> {
        match self.sockets.get(to.socket) {
            Some(socket) => socket.try_send(datagram, to.at),
            None => Err(SendFault::Unreachable(io::ErrorKind::NotFound.into())),
        }
    }

    /// Writes what reached nobody since the last time, if anything did, and starts over. Forgets keys that lead nowhere: a data
    /// channel that was left to a tunnel which has no use for it, say.
    pub(crate) fn write_strays(&self) {
        self.by_key.borrow_mut().retain(|key, route| {
            let leads_somewhere = !route.queue.is_closed();
            if !leads_somewhere {
                self.tell_of_release(*key);
            }
            leads_somewhere
        });
        let Strays {
            unknown,
            crowded,
            asked,
        } = self.strays.take();
        if unknown + crowded > 0 {
            tracing::info!(unknown, crowded, asked, "datagrams that reached no session");
        }
    }

    /// Sends records to one client, as far as the socket takes them at once.
    pub(crate) fn send_many(&self, to: Endpoint, records: &Batch) -> Result<(), Unsent> {
        match self.sockets.get(to.socket) {
            Some(socket) => socket.try_send_many(records.bytes(), records.each(), records.ecn(), to.at),
            None => Err(Unsent {
                from: 0,
                fault: SendFault::Unreachable(io::ErrorKind::NotFound.into()),
            }),
        }
    }

    /// Where a tunnel gathers records. Not to be kept across an await, and to be left empty.
    pub(crate) fn batch(&self) -> RefMut<'_, Batch> {
        self.batch.borrow_mut()
    }

    /// Reads one socket for ever. `now` tells the time.
    pub(crate) async fn receive(&self, socket: usize, now: impl Fn() -> Now) -> io::Error {
        let Some(listener) = self.sockets.get(socket) else {
            return io::ErrorKind::NotFound.into();
        };
        let mut inbox = Inbox::default();
        loop {
            if let Err(error) = listener.readable().await {
                return error;
            }
            let (mut calls, mut taken, mut kept) = (0, 0, 0);
            while kept < TURN_BYTES && (calls < BUDGET || taken < AT_LEAST) {
                calls += 1;
                match listener.try_recv(&mut inbox) {
                    Ok(()) => {
                        for bulk in inbox.arrivals() {
                            taken += bulk.datagrams().count();
                            kept += Pool::kept(bulk.length());
                        }
                        self.distribute(&mut inbox, socket, now());
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP error that somebody provoked; it says nothing about this socket.
                    Err(_) => taken += 1,
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn distribute(&self, inbox: &mut Inbox, socket: usize, now: Now) {
        for index in 0..inbox.arrivals().len() {
            let bulk = inbox.arrivals()[index];
            let from = Endpoint { socket, at: bulk.from };
            let buffer = inbox.buffer_mut(index);
            match one_key(bulk.datagrams(), buffer, from) {
                Some((key, id)) => {
                    let owner = self.owner(&key);
                    if let Owner::Nobody = owner {
                        self.stray(bulk.datagrams().count(), |strays| &mut strays.unknown);
                        continue;
                    }
                    let together = Together {
                        buffer: self.pool.part(bulk.length(), buffer),
                        each: bulk.each(),
                        ecn: bulk.ecn,
                    };
                    match owner {
                        Owner::Here(route) => self.hand(&route, Arrival::Datagrams(id, together, from)),
                        Owner::There(worker) => self.hand_on(worker, together, from),
                        Owner::Nobody => {}
                    }
                }
                None => {
                    for range in bulk.datagrams() {
                        if let Some(worker) = self.arrived(&buffer[range.clone()], (from, bulk.ecn), now) {
                            self.hand_on(worker, Together::one(buffer[range].to_vec(), bulk.ecn), from);
                        }
                    }
                }
            }
        }
    }

    /// Takes what came to another worker. It does not go on from here.
    pub(crate) fn handed(&self, (bytes, each, ecn): (Freight, usize, Ecn), from: Endpoint, now: Now) {
        let together = Together {
            buffer: bytes.unload(&self.pool),
            each,
            ecn,
        };
        let count = together.count();
        match one_key(together.ranges(), &together.buffer, from) {
            Some((key, id)) => match self.owner(&key) {
                Owner::Here(route) => self.hand(&route, Arrival::Datagrams(id, together, from)),
                Owner::There(_) | Owner::Nobody => self.stray(count, |strays| &mut strays.unknown),
            },
            None => {
                for range in together.ranges() {
                    if self.arrived(&together.buffer[range], (from, ecn), now).is_some() {
                        self.stray(1, |strays| &mut strays.unknown);
                    }
                }
            }
        }
    }

    /// Whose the records with this key are.
    fn owner(&self, key: &Key<Endpoint>) -> Owner {
        if let Some(route) = self.by_key.borrow().get(key) {
            return Owner::Here(route.clone());
        }
        let other = match key {
            Key::Id(id) => self.team.other(id.as_bytes()),
            Key::From(endpoint) => {
                // Its worker has said so before it answered the client, so that it is to be heard by now.
                self.hear_all();
                self.elsewhere.borrow().get(endpoint).copied()
            }
        };
        other.map_or(Owner::Nobody, Owner::There)
    }

    fn hand_on(&self, worker: usize, together: Together, from: Endpoint) {
        let (count, each, ecn) = (together.count(), together.each, together.ecn);
        let bytes = together.buffer.into_freight();
        if !self.team.hand_datagrams(worker, (bytes, each, ecn), count, from) {
            self.stray(count, |strays| &mut strays.crowded);
        }
    }

    /// Hears what the other workers say, for ever.
    pub(crate) async fn hear(&self) {
        std::future::poll_fn(|context| {
            loop {
                let heard = self.words.borrow_mut().poll_recv(context);
                match heard {
                    Poll::Ready(Some((worker, word))) => self.heard(worker, word),
                    // Nobody is left; that is the end of this worker, too.
                    Poll::Ready(None) | Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    fn hear_all(&self) {
        loop {
            let heard = self.words.borrow_mut().try_recv();
            match heard {
                Ok((worker, word)) => self.heard(worker, word),
                Err(_) => return,
            }
        }
    }

    fn heard(&self, worker: usize, word: Word) {
        let mut elsewhere = self.elsewhere.borrow_mut();
        match word {
            Word::Mine(endpoint) => {
                elsewhere.insert(endpoint, worker);
                // Whoever claims it last has it.
                self.by_key.borrow_mut().remove(&Key::From(endpoint));
            }
            Word::NotMine(endpoint) => {
                if elsewhere.get(&endpoint) == Some(&worker) {
                    elsewhere.remove(&endpoint);
                }
            }
            Word::All(endpoints) => {
                elsewhere.retain(|_, owner| *owner != worker);
                elsewhere.extend(endpoints.into_iter().map(|endpoint| (endpoint, worker)));
            }
        }
    }

    /// Tells everything to workers that have missed something. To be called from time to time.
    pub(crate) fn catch_up(&self) {
        self.team.catch_up(|| {
            let keys = self.by_key.borrow();
            let endpoints = keys.keys().filter_map(|key| match key {
                Key::From(endpoint) => Some(*endpoint),
                Key::Id(_) => None,
            });
            endpoints.collect()
        });
    }

    /// One datagram by itself. Returns the worker that it is for, if that is another one.
    fn arrived(&self, datagram: &[u8], (from, ecn): (Endpoint, Ecn), now: Now) -> Option<usize> {
        match peek(datagram, ID_BYTES) {
            Peek::Hello(hello) => {
                let Some(route) = self.by_app_id.borrow().get(hello.session_id()).cloned() else {
                    let other = self.team.other(hello.session_id());
                    if other.is_none() {
                        self.stray(1, |strays| &mut strays.unknown);
                    }
                    return other;
                };
                match self.cookies(now).check(&hello, &source(from)) {
                    CookieCheck::Proven(proven) => {
                        self.hand(&route, Arrival::Hello(Box::new(proven), datagram.to_vec(), from));
                    }
                    CookieCheck::Ask(question) => {
                        self.stray(1, |strays| &mut strays.asked);
                        if question.len() <= datagram.len() {
                            let _ = self.send(from, &question);
                        }
                    }
                }
            }
            record => match record_key(&record, from).map(|(key, id)| (self.owner(&key), id)) {
                Some((Owner::Here(route), id)) => {
                    self.hand(
                        &route,
                        Arrival::Datagrams(id, Together::one(datagram.to_vec(), ecn), from),
                    );
                }
                Some((Owner::There(worker), _)) => return Some(worker),
                Some((Owner::Nobody, _)) | None => self.stray(1, |strays| &mut strays.unknown),
            },
        }
        None
    }

    fn hand(&self, route: &Route, arrival: Arrival) {
        let datagrams = arrival.datagrams();
        if route.queue.try_send(arrival).is_err() {
            self.stray(datagrams, |strays| &mut strays.crowded);
        }
    }

    fn stray(&self, datagrams: usize, count: impl FnOnce(&mut Strays) -> &mut u64) {
        let mut strays = self.strays.get();
        *count(&mut strays) += datagrams as u64;
        self.strays.set(strays);
    }

    /// The keys of the cookies, renewed if it is time.
    fn cookies(&self, now: Now) -> std::cell::Ref<'_, Cookies> {
        let old = now.awake.since(self.cookies.borrow().1).as_secs() >= COOKIE_LIFE_S;
        if old {
            let mut cookies = self.cookies.borrow_mut();
            cookies.0.rotate(bytes(&self.random));
            cookies.1 = now.awake;
        }
        std::cell::Ref::map(self.cookies.borrow(), |cookies| &cookies.0)
    }
}

/// The key of all datagrams that came together, if it is one, and they are records.
fn one_key(
    datagrams: impl Iterator<Item = Range<usize>>,
    buffer: &[u8],
    from: Endpoint,
) -> Option<(Key<Endpoint>, Option<ConnectionId>)> {
    let mut found = None;
    for range in datagrams {
        let key = record_key(&peek(&buffer[range], ID_BYTES), from)?;
        if found.is_some_and(|found| found != key) {
            return None;
        }
        found = Some(key);
    }
    found
}

/// By which a record is known, and its connection id.
fn record_key(peek: &Peek<'_>, from: Endpoint) -> Option<(Key<Endpoint>, Option<ConnectionId>)> {
    match peek {
        Peek::Identified(id) => Some((Key::Id(*id), Some(*id))),
        Peek::Record { .. } => Some((Key::From(from), None)),
        Peek::Hello(_) | Peek::Foreign => None,
    }
}

/// What a cookie is bound to.
fn source(endpoint: Endpoint) -> Vec<u8> {
    let peer = endpoint.at.peer;
    let mut bytes = match peer.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    bytes.extend(peer.port().to_be_bytes());
    bytes
}

pub(crate) fn bytes<const N: usize>(random: &SystemRandom) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes).expect("the system has randomness once it runs");
    bytes
}

/// A data channel that was granted to a connection.
pub(crate) struct Granted {
    pub(crate) terms: DatagramTerms,
    pub(crate) port: Port,
}

#[cfg(test)]
mod tests;
