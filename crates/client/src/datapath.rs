//! The sockets of the data channel, and the machine that says what to do with them.
//!
//! ```text
//!   packets --Datagrams::seal--> records, gathered --try_send_many--> the socket of their path
//!   socket --try_recv--> Datagrams::received --> packets (ToHost), answers, a handshake's next flight
//! ```
//! It belongs to the pump, which polls it with everything else. Over a reconnect it is handed to the next pump, sockets and
//! all: a stock gateway takes the error that a closed socket provokes for the end of the session (measured).

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use lifecycle::LossKind;
use now::{Deadline, Gap, Now};
use packet::{Batch, DropCounters, DropReason, Ecn};
use platform::udp::{Inbox, SendFault, Udp, Unsent};
use session::client::{Ask, DataOutput, Datagrams, PathId, Terms, Token};
use session::park::Via;
use tracing::{debug, info};

use crate::route::route_source;
use crate::to_host::ToHost;

/// Calls that read a socket before something else gets its turn. A prototype was fastest, and quickest to answer, with four.
const BUDGET: usize = 4;

/// Calls that take what waits in one socket after a gap. A receive buffer of 212,992 bytes (the default of Linux) holds less, and one
/// that is filled faster than it is emptied must not hold up the turn.
const MAX_LATE: usize = 4096;

/// What the pump is to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Which channel packets take: the name of a DTLS cipher suite, or nothing for the control channel.
    Channel(Option<&'static str>),
    /// The session is to be connected anew in the background, and why.
    Renew(&'static str),
    /// This host has another address.
    PathChange,
    /// The gateway knows that this host sleeps.
    Parked,
    /// The gateway knows that this host is awake again.
    Unparked(Via),
    /// The gateway was heard: the first time since a gap, or since it was silent.
    Alive,
    /// The gateway was asked, and did not answer in time.
    Silent,
    /// A packet asks for the tunnel while nobody knows what kind of wake it is.
    Demand,
    /// No program has used the tunnel for as long as was configured.
    Idle,
    /// The control channel is lost, and the data channel goes on alone.
    ControlLost(LossKind, String),
}

/// What became of a packet that was to take the data channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is on its way.
    Sent,
    /// It is to take the control channel.
    NotHere,
    /// The socket takes nothing more for now: it is to be sent again later.
    Stuck,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct DataPath {
    machine: Datagrams,
    sockets: Vec<(PathId, Udp)>,
    gateway: SocketAddr,
    mark: Option<u32>,
    inbox: Inbox,
    /// Records that were not sent yet.
    batch: Batch,
    /// Their path.
    gathered_for: Option<PathId>,
    /// The socket takes nothing more, and this many bytes of the batch have gone.
    stuck: Option<usize>,
    /// Packets that were sealed and could not be sent.
    lost: DropCounters,
    news: Vec<News>,
}

impl DataPath {
    /// A data channel to the gateway's UDP port, after the one of the connection before if there was one.
    pub(crate) fn new(
        terms: Terms,
        (gateway, mark): (SocketAddr, Option<u32>),
        before: Option<Self>,
        now: Now,
    ) -> Self {
        let (machine, sockets) = match before {
            // Another address is another gateway, which knows nothing of these paths.
            Some(before) if before.gateway == gateway => (Datagrams::after(before.machine, terms, now), before.sockets),
            Some(_) | None => (Datagrams::new(terms, now), Vec::new()),
        };
        Self {
            machine,
            sockets,
            gateway,
            mark,
            inbox: Inbox::default(),
            batch: Batch::default(),
            gathered_for: None,
            stuck: None,
            lost: DropCounters::default(),
            news: Vec::new(),
        }
    }

    /// Whether packets take this channel.
    pub(crate) fn is_up(&self) -> bool {
        self.machine.path().is_some()
    }

    /// All paths that have a socket.
    pub(crate) fn paths(&self) -> impl Iterator<Item = PathId> + '_ {
        self.sockets.iter().map(|(path, _)| *path)
    }

    /// The largest packet it carries, in bytes, while packets take it.
    pub(crate) fn mtu(&self) -> Option<u16> {
        self.machine.mtu()
    }

    /// When to call [`DataPath::handle_timeout`].
    pub(crate) fn deadline(&self) -> Option<Deadline> {
        self.machine.deadline()
    }

    /// Handles every timer that is due.
    pub(crate) fn handle_timeout(&mut self, now: Now) {
        self.machine.handle_timeout(now);
        self.carry_out(now);
    }

    /// Waking time in which this process did not run does not count.
    pub(crate) fn rebase(&mut self, gap: &Gap, now: Now) {
        self.machine.rebase(gap, jump(), now);
        self.carry_out(now);
    }

    /// What the pump is to know, once.
    pub(crate) fn news(&mut self) -> Option<News> {
        (!self.news.is_empty()).then(|| self.news.remove(0))
    }

    /// Waits until a datagram has arrived. Cancel safe.
    pub(crate) async fn readable(&self) -> PathId {
        poll_fn(|context| {
            let ready = |(_, socket): &&(PathId, Udp)| socket.poll_readable(context).is_ready();
            match self.sockets.iter().find(ready) {
                Some((path, _)) => Poll::Ready(*path),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Takes everything that waited while this process did not run. Its packets go to `deliver`: they are old.
    pub(crate) fn receive_late(&mut self, now: Now, deliver: &mut dyn FnMut(&mut [u8])) {
        let Self {
            machine,
            sockets,
            inbox,
            ..
        } = self;
        for (path, socket) in sockets {
            for _ in 0..MAX_LATE {
                match socket.try_recv(inbox) {
                    Ok(()) => {
                        for index in 0..inbox.arrivals().len() {
                            let arrival = inbox.arrivals()[index];
                            for range in arrival.datagrams() {
                                let datagram = &mut inbox.buffer_mut(index)[range];
                                machine.received_late(*path, datagram, now, deliver);
                            }
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => {}
                }
            }
        }
        self.carry_out(now);
    }

    /// Tells the gateway that this host is about to sleep; see [`Datagrams::park`].
    pub(crate) fn park(&mut self, now: Now) -> bool {
        let said = self.machine.park(token(), now);
        self.carry_out(now);
        said
    }

    /// Does nothing unasked from now on.
    pub(crate) fn be_quiet(&mut self) {
        self.machine.be_quiet();
    }

    /// The control connection is gone; see [`Datagrams::doubt`].
    pub(crate) fn doubt(&mut self, now: Now) {
        self.machine.doubt(now);
        self.carry_out(now);
    }

    /// Somebody is there again; see [`Datagrams::wake`].
    pub(crate) fn wake(&mut self, ask: Ask, now: Now) -> bool {
        // From where the host is now, so that one round trip tells.
        self.look_at_address(now);
        let asked = self.machine.wake(token(), ask, now);
        self.carry_out(now);
        asked
    }

    /// There is a way to the gateway again; see [`Datagrams::ask_anew`].
    pub(crate) fn ask_anew(&mut self, now: Now) {
        self.machine.ask_anew(now);
        self.carry_out(now);
    }

    /// Takes what has arrived over `path`, and says whether there may be more.
    pub(crate) fn receive(&mut self, path: PathId, now: Now, to_host: &mut ToHost<'_>) -> bool {
        let mut more = true;
        for _ in 0..BUDGET {
            let Self {
                machine,
                sockets,
                inbox,
                ..
            } = self;
            let Some((_, socket)) = sockets.iter().find(|(open, _)| *open == path) else {
                return false;
            };
            match socket.try_recv(inbox) {
                Ok(()) => {
                    for index in 0..inbox.arrivals().len() {
                        let arrival = inbox.arrivals()[index];
                        let buffer = inbox.buffer_mut(index);
                        let origin = to_host.origin((index, arrival.ecn), buffer);
                        for range in arrival.datagrams() {
                            let deliver = &mut |packet: &mut [u8]| to_host.take(packet, origin);
                            machine.received(path, &mut buffer[range], now, deliver);
                        }
                    }
                    to_host.write(inbox.buffers());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                // An ICMP error, say: whether the path is dead is for its watch to find out.
                Err(_) => {}
            }
            self.carry_out(now);
        }
        more
    }

    /// Seals a packet of `length` bytes with this mark, which `write` puts into its place, if the data channel is to carry it. It is sent with
    /// the next [`DataPath::flush`] at the latest. Not to be called while [`DataPath::is_stuck`].
    pub(crate) fn send(&mut self, (length, ecn): (usize, Ecn), write: impl FnOnce(&mut [u8]), now: Now) -> Fate {
        let Some(record) = self.machine.record_length(length) else {
            return Fate::NotHere;
        };
        if !self.batch.takes(record, self.machine.outer(ecn))
            || self
                .gathered_for
                .is_some_and(|before| self.machine.path() != Some(before))
        {
            self.send_gathered(now);
        }
        if self.is_stuck() {
            return Fate::Stuck;
        }
        match self.machine.seal((length, ecn), &mut self.batch, write, now) {
            Some(path) => {
                self.gathered_for = Some(path);
                Fate::Sent
            }
            None => Fate::NotHere,
        }
    }

    /// Whether the socket takes nothing more for now.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.is_some()
    }

    /// Waits until a socket that is stuck may take more; for ever if none is. Cancel safe.
    pub(crate) async fn unstuck(&self) {
        let path = self.gathered_for.filter(|_| self.is_stuck());
        match path.and_then(|path| self.socket(path)) {
            Some(socket) => _ = socket.writable().await,
            None => std::future::pending().await,
        }
    }

    /// Sends what was gathered. Returns what was lost, once.
    pub(crate) fn flush(&mut self, now: Now) -> DropCounters {
        self.send_gathered(now);
        self.carry_out(now);
        self.lost()
    }

    fn send_gathered(&mut self, now: Now) {
        let Some(mut path) = self.gathered_for else { return };
        let (mut from, mut roamed) = (self.stuck.take().unwrap_or(0), false);
        let (each, ecn) = (self.batch.each(), self.batch.ecn());
        while from < self.batch.bytes().len() {
            let sent = match self.socket(path) {
                Some(socket) => socket.try_send_many(&self.batch.bytes()[from..], each, ecn),
                None => Err(Unsent {
                    from: 0,
                    fault: SendFault::Unreachable(io::ErrorKind::NotFound.into()),
                }),
            };
            let Err(unsent) = sent else { break };
            from += unsent.from;
            let left = (self.batch.bytes().len() - from).div_ceil(each) as u64;
            match unsent.fault {
                // On a path that is left anyway nobody waits.
                SendFault::Full if self.machine.path() == Some(path) => {
                    self.stuck = Some(from);
                    return;
                }
                SendFault::Full => self.lost.count_many(DropReason::QueueFull, left),
                // The records are sealed: a link that roams carries them from the new address.
                SendFault::SourceGone(_) if !roamed => match self.roam(now) {
                    Some(new) => {
                        (path, roamed) = (new, true);
                        self.gathered_for = Some(new);
                        continue;
                    }
                    None => self.lost.count_many(DropReason::ChannelDown, left),
                },
                SendFault::TooBig => {
                    self.machine.refused(each, now);
                    self.lost.count_many(DropReason::TooBig, left);
                }
                SendFault::SourceGone(_) | SendFault::Unreachable(_) | SendFault::Other(_) => {
                    self.lost.count_many(DropReason::QueueFull, left);
                }
            }
            break;
        }
        self.gathered_for = None;
        self.batch.clear();
    }

    /// Drops what could not be sent.
    pub(crate) fn forget_stuck(&mut self, reason: DropReason) {
        if let Some(from) = self.stuck.take() {
            let left = (self.batch.bytes().len() - from).div_ceil(self.batch.each());
            self.lost.count_many(reason, left as u64);
            self.gathered_for = None;
            self.batch.clear();
        }
    }

    /// What was lost, once.
    pub(crate) fn lost(&mut self) -> DropCounters {
        std::mem::take(&mut self.lost)
    }

    fn socket(&self, path: PathId) -> Option<&Udp> {
        let (_, socket) = self.sockets.iter().find(|(open, _)| *open == path)?;
        Some(socket)
    }

    /// Notices that the kernel would use another address now than the current path does.
    pub(crate) fn look_at_address(&mut self, now: Now) {
        let Some(path) = self.machine.path() else { return };
        let current = self.sockets.iter().find(|(open, _)| *open == path);
        let Some(Ok(current)) = current.map(|(_, socket)| socket.local_addr()) else {
            return;
        };
        match route_source(self.gateway, self.mark) {
            Ok(source) if source != current.ip() => {
                self.roam(now);
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// Says farewell, as far as the socket takes it at once.
    pub(crate) fn close(&mut self) {
        if let Some((path, record)) = self.machine.close_notify() {
            let _ = send_over(&self.sockets, path, &record);
        }
    }

    /// Goes on from a new address. The path that goes on, if one does.
    fn roam(&mut self, now: Now) -> Option<PathId> {
        info!("the address of this host has changed");
        self.news.push(News::PathChange);
        let path = self.machine.roam(now);
        let opened = path.is_some_and(|path| self.open(path));
        self.carry_out(now);
        path.filter(|_| opened)
    }

    fn open(&mut self, path: PathId) -> bool {
        match Udp::connect(self.gateway, self.mark) {
            Ok(socket) => {
                self.sockets.push((path, socket));
                true
            }
            Err(error) => {
                debug!(%error, "no socket for the data channel");
                false
            }
        }
    }

    /// Does what the machine wants done.
    fn carry_out(&mut self, now: Now) {
        let mut gone = false;
        while let Some(output) = self.machine.poll() {
            match output {
                DataOutput::Open(path) => {
                    if self.open(path) {
                        self.machine.opened(path, random(), now);
                    } else {
                        self.machine.not_opened(path, now);
                    }
                }
                // Without a socket the next question finds none, and there is another one after it.
                DataOutput::Rebind(path) => _ = self.open(path),
                DataOutput::Close(path) => self.sockets.retain(|(open, _)| *open != path),
                DataOutput::Send(path, datagram) => match send_over(&self.sockets, path, &datagram) {
                    Some(SendFault::TooBig) => self.machine.refused(datagram.len(), now),
                    Some(fault) => {
                        debug!(%fault, "a datagram was not sent");
                        gone |= matches!(fault, SendFault::SourceGone(_));
                    }
                    None => {}
                },
                DataOutput::Up {
                    suite,
                    extended_master_secret,
                    roams,
                } => {
                    info!(
                        suite = suite.name(),
                        extended_master_secret, roams, "packets take the data channel"
                    );
                    self.news.push(News::Channel(Some(suite.name())));
                }
                DataOutput::Down(why) => {
                    info!(why, "packets take the control channel");
                    self.news.push(News::Channel(None));
                }
                DataOutput::Mtu(size) => debug!(size, "the path to the gateway was measured"),
                DataOutput::Renew(why) => self.news.push(News::Renew(why)),
                DataOutput::Parked => self.news.push(News::Parked),
                DataOutput::Unparked(via) => self.news.push(News::Unparked(via)),
                DataOutput::Alive => self.news.push(News::Alive),
                DataOutput::Silent => self.news.push(News::Silent),
            }
        }
        if gone {
            // Where there is another address, what follows leaves from there.
            self.look_at_address(now);
        }
    }

    /// Begins: to be called once, before the first wait.
    pub(crate) fn begin(&mut self, now: Now) {
        self.carry_out(now);
        self.news
            .push(News::Channel(self.machine.suite().map(|suite| suite.name())));
    }
}

fn send_over(sockets: &[(PathId, Udp)], path: PathId, datagram: &[u8]) -> Option<SendFault> {
    match sockets.iter().find(|(open, _)| *open == path) {
        Some((_, socket)) => socket.try_send(datagram).err(),
        None => Some(SendFault::Unreachable(io::ErrorKind::NotFound.into())),
    }
}

/// Nobody can guess it.
pub(crate) fn token() -> Token {
    let [a, b, c, d, e, f, g, h, ..] = random();
    [a, b, c, d, e, f, g, h]
}

/// Never the same twice.
fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness once it runs");
    bytes
}

/// Records to leave out after a gap: 2^24 to 2^36, so that a machine that is restored from a snapshot uses no nonce twice.
fn jump() -> u64 {
    const LEAST: u64 = 1 << 24;
    let [a, b, c, d, e, f, g, h, ..] = random();
    LEAST + u64::from_be_bytes([a, b, c, d, e, f, g, h]) % ((1 << 36) - LEAST)
}
