//! The gateway's side of one session's DTLS data channel.
//!
//! ```text
//!   hello (proven source) --> Server (handshake) --> Link, unproven --first authentic record--> Link that packets take
//!                                                     |                                          links before it fade
//!   record from another address, newer than all before --> challenge there, packets stay here
//!   the challenge echoed from there -----------------------> packets go there
//! ```
//! The client decides when to shake hands; nothing here begins one. A client that sends packets over the control channel
//! gets its packets there, until it is heard here again: it knows best which of its paths work. One of our own that is not
//! heard here gets none anywhere, until it is or says so over the control channel: packets for a stopped process would fill
//! its socket until the kernel gives a healthy connection up (measured).

mod handshake;
mod presence;
mod roaming;

use std::collections::VecDeque;
use std::time::Duration;

use dtls::{ConnectionId, Content, OpenHalf, Psk, SealHalf, Suite, Tail};
use now::{Awake, Deadline, Gap, Now};
use packet::{Batch, Ecn};
use wire::cstp::Kind;

use crate::datagrams::{MAX_ECHO, PathVerdict, PathWatch, record_length, seal_at_the_end, sealed, split};
use crate::park::Via;
use crate::path_mtu::{PathMtu, probe_payload};

use handshake::Shaking;
use roaming::Candidate;

/// Links at a time: the one in use, one that has just been shaken hands for, one that fades.
const MAX_LINKS: usize = 3;

/// How long links before the current one still take what was on its way.
const FADING: Duration = Duration::from_secs(5);

/// Answers and probes that may wait to be sent.
const MAX_OUTPUTS: usize = 64;

/// What one CONNECT agreed on.
#[derive(Clone, Debug)]
pub struct DatagramTerms {
    /// Exported from the TLS connection of the CONNECT.
    pub psk: Psk,
    /// In order of preference.
    pub suites: Vec<Suite>,
    /// The client is one of ours: it echoes probes whole.
    pub ours: bool,
    /// The client takes over to packets what is marked on their datagrams.
    pub ecn: bool,
    /// The largest packet of the tunnel, in bytes.
    pub mtu: u16,
    /// The least that every path carries: 1280 with IPv6 in the tunnel, else 576.
    pub floor: u16,
    /// Find out what the path really carries.
    pub path_mtu_discovery: bool,
    /// Parking was granted: the client may say that it sleeps and that it is awake.
    pub parks: bool,
}

/// What datagrams of a session are known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key<E> {
    /// The connection id in their records.
    Id(ConnectionId),
    /// Where they come from.
    From(E),
}

/// What is to be done next. `E` is an endpoint: where a datagram came from, and where it arrived.
#[derive(Debug)]
pub enum GatewayData<E> {
    /// Send this datagram.
    Send(E, Vec<u8>),
    /// Datagrams with this key are for this session from now on.
    Claim(Key<E>),
    /// They are not any more.
    Release(Key<E>),
    /// Packets to the client take the data channel from now on.
    Up {
        /// Where to.
        endpoint: E,
        /// What it is sealed with.
        suite: Suite,
        /// Whether its keys are bound to the whole handshake (RFC 7627).
        extended_master_secret: bool,
        /// Whether records carry a connection id.
        roams: bool,
    },
    /// Packets to the client take the control channel from now on.
    Down(&'static str),
    /// Packets to the client take no channel from now on: this one does not carry them, and whether the client still uses the
    /// other is not known. Ask it there once.
    Silent(&'static str),
    /// The client is about to sleep. It has its answer.
    Park,
    /// The client is awake, and where it was or somewhere else. It has its answer.
    Awake(Via),
    /// The client is somewhere else now.
    Moved {
        /// Where it was.
        from: E,
        /// Where it is.
        to: E,
    },
}

/// Which channel packets to the client take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// The first proven link.
    Data,
    Control,
    /// None, until the client is heard. See [`GatewayData::Silent`].
    Nowhere,
}

#[derive(Debug)]
struct Link<E> {
    id: Option<ConnectionId>,
    endpoint: E,
    seal: SealHalf,
    open: OpenHalf,
    tail: Tail,
    suite: Suite,
    extended_master_secret: bool,
    watch: PathWatch,
    mtu: Option<PathMtu>,
    /// The client has sent something over it.
    proven: bool,
    until: Option<Awake>,
    candidate: Option<Candidate<E>>,
}

/// The data channel of one session. See the module.
#[derive(Debug)]
pub struct Datagrams<E> {
    terms: DatagramTerms,
    shaking: Option<Shaking<E>>,
    /// Newest first.
    links: Vec<Link<E>>,
    route: Route,
    /// What was heard since somebody asked.
    word: Option<Via>,
    /// Since when no timer of the paths runs: the client sleeps.
    resting: Option<Awake>,
    outputs: VecDeque<GatewayData<E>>,
}

impl<E: Copy + Eq> Datagrams<E> {
    /// A data channel without a link.
    pub fn new(terms: DatagramTerms) -> Self {
        Self {
            terms,
            shaking: None,
            links: Vec::new(),
            route: Route::Control,
            word: None,
            resting: None,
            outputs: VecDeque::new(),
        }
    }

    /// What the connection agreed on.
    pub fn terms(&self) -> &DatagramTerms {
        &self.terms
    }

    /// The terms of another CONNECT hold from now on. Links under the keys before serve until the new ones carry data, if the
    /// client has kept them: packets to it take the control channel until it is heard over one, as it may be another process.
    pub fn renew(&mut self, terms: DatagramTerms) {
        self.give_up_shaking();
        self.route = Route::Control;
        self.resting = None;
        if !(terms.ours && self.terms.ours) {
            while let Some(link) = self.links.pop() {
                self.forget(&link);
            }
        }
        self.terms = terms;
    }

    /// Takes a datagram that is no hello. Its packets go to `deliver`, unchecked, and without what routers marked on it
    /// ([`super::Established::incoming_in`]). Those that waited for the end of a handshake are not its own: what was marked on theirs is forgotten. `challenge` makes random bytes, if
    /// they are needed.
    pub fn received(
        &mut self,
        endpoint: E,
        id: Option<ConnectionId>,
        datagram: &mut [u8],
        challenge: impl FnOnce() -> [u8; 8],
        now: Now,
        deliver: &mut dyn FnMut(&mut [u8]),
    ) {
        let length = datagram.len();
        if id.is_none()
            && let Some(shaking) = &mut self.shaking
            && shaking.endpoint == endpoint
        {
            let outcome = shaking.server.received(datagram, now.awake);
            self.go_on();
            return match outcome {
                Ok(()) => self.stand(now, deliver),
                Err(_) => self.give_up_shaking(),
            };
        }
        let mut challenge = Some(challenge);
        let mut rest = datagram;
        while !rest.is_empty() {
            let Some((index, record)) = self.open(endpoint, id, rest) else {
                // The last flight of a handshake begins with a plain record and goes on with one that has an id.
                return self.hand_to_handshake(endpoint, rest, now, deliver);
            };
            let consumed = record.consumed.max(1).min(rest.len());
            match record.content {
                Content::Data { range, newest } => {
                    let index = self.heard(index, now.awake);
                    if index == 0
                        && newest
                        && self.links[index].endpoint != endpoint
                        && let Some(challenge) = challenge.take()
                    {
                        self.challenge(endpoint, length, challenge(), now.awake);
                    }
                    self.record_in((index, newest), endpoint, &mut rest[range], now, deliver);
                }
                Content::Retransmission => self.resend(index, now.awake),
                Content::Closed => self.closed(index),
                Content::Discarded(_) => {}
            }
            rest = rest.split_at_mut(consumed).1;
        }
    }

    /// The client sent a packet over the control channel: its packets go there, until it is heard here again.
    pub fn client_uses_control(&mut self) {
        self.down("the client uses the control channel");
    }

    /// The client answered over the control channel: if packets to it take no channel, they take that one.
    pub fn client_answers_on_control(&mut self) {
        if self.is_silent() {
            self.down("the client answers on the control channel");
        }
    }

    /// Whether packets to the client take the data channel.
    pub fn is_up(&self) -> bool {
        self.route == Route::Data
    }

    /// Whether they take no channel at all.
    pub fn is_silent(&self) -> bool {
        self.route == Route::Nowhere
    }

    /// Whether the client has used a link that is still there, so that it may be heard without a control connection.
    pub fn has_link(&self) -> bool {
        self.links.iter().any(|link| link.proven)
    }

    /// The largest packet that the data channel carries, in bytes, while packets take it.
    pub fn mtu(&self) -> Option<u16> {
        let link = self.links.first().filter(|_| self.is_up())?;
        Some(link.mtu.as_ref().map_or(self.terms.mtu, PathMtu::current))
    }

    /// Where records of packets go now and how long the one of a packet of `length` bytes is. `None`: the packet is to take the control
    /// channel, or none if [`Datagrams::is_silent`].
    pub fn record_length(&self, length: usize) -> Option<(E, usize)> {
        let fits = self.mtu().is_some_and(|mtu| length <= usize::from(mtu));
        let link = self.links.first().filter(|_| fits)?;
        Some((link.endpoint, record_length(&link.seal, length)))
    }

    /// The mark of the datagram that carries a packet with `inner`: the same, if the client takes it over to the packet again; else none
    /// (RFC 6040 section 4.1).
    pub fn outer(&self, inner: Ecn) -> Ecn {
        if self.terms.ecn { inner } else { Ecn::NotEct }
    }

    /// Seals a packet of `length` bytes, which `write` puts into its place, at the end of `batch`, which has to take a record of
    /// [`Datagrams::record_length`] with the mark of [`Datagrams::outer`]. `None` as there.
    pub fn seal(
        &mut self,
        (length, inner): (usize, Ecn),
        batch: &mut Batch,
        write: impl FnOnce(&mut [u8]),
        now: Now,
    ) -> Option<E> {
        self.record_length(length)?;
        let outer = self.outer(inner);
        let link = self.links.first_mut()?;
        if seal_at_the_end(&mut link.seal, (length, outer), batch, write).is_err() {
            self.lost("the key is used up");
            return None;
        }
        if self.resting.is_none() {
            link.watch.sent(now.awake);
            if let Some(mtu) = &mut link.mtu {
                mtu.traffic(now.awake);
            }
        }
        Some(link.endpoint)
    }

    /// The kernel did not take a datagram of this length: it is longer than the first hop carries.
    pub fn refused(&mut self, datagram: usize, now: Now) {
        let Some(link) = self.links.first_mut() else { return };
        let overhead = link.seal.overhead() + 1;
        if let (Some(mtu), Ok(size)) = (&mut link.mtu, u16::try_from(datagram.saturating_sub(overhead))) {
            mtu.refused(size);
        }
        self.look_at_mtu(now.awake);
    }

    /// When to call [`Datagrams::handle_timeout`].
    pub fn deadline(&self) -> Option<Deadline> {
        let at = |at: Option<Awake>, reason| at.map(|at| Deadline { at, reason });
        let first = self.links.first().filter(|_| self.resting.is_none());
        let watch = first.filter(|_| self.is_up()).and_then(|link| link.watch.deadline());
        let fading = self.links.iter().filter_map(|link| link.until).min();
        [
            self.shaking.as_ref().and_then(|shaking| shaking.server.deadline()),
            at(watch, "liveness of the data channel"),
            first.and_then(|link| link.mtu.as_ref()?.deadline()),
            at(fading, "the end of old keys"),
        ]
        .into_iter()
        .fold(None, Deadline::earliest)
    }

    /// Handles every timer that is due.
    pub fn handle_timeout(&mut self, now: Now) {
        let now = now.awake;
        if let Some(shaking) = &mut self.shaking {
            let outcome = shaking.server.handle_timeout(now);
            self.go_on();
            if outcome.is_err() {
                self.give_up_shaking();
            }
        }
        while let Some(index) = self
            .links
            .iter()
            .position(|link| link.until.is_some_and(|until| until <= now))
        {
            let link = self.links.remove(index);
            self.forget(&link);
        }
        if self.resting.is_some() {
            return;
        }
        self.look_at_path(now);
        if let Some(mtu) = self.links.first_mut().and_then(|link| link.mtu.as_mut()) {
            mtu.handle_timeout(now);
        }
        self.look_at_mtu(now);
    }

    /// Waking time in which the gateway did not run does not count; `jump` records are left out, so that a restored machine
    /// cannot use a nonce twice.
    pub fn rebase(&mut self, gap: &Gap, jump: u64) {
        let by = gap.awake;
        self.resting = self.resting.map(|since| since.plus(by));
        if let Some(shaking) = &mut self.shaking {
            shaking.server.rebase(by);
            shaking.since = shaking.since.plus(by);
        }
        for link in &mut self.links {
            link.watch.rebase(by);
            link.until = link.until.map(|until| until.plus(by));
            // A key without room for the jump ends at its next record, as it should.
            let _ = link.seal.skip(jump);
            if let Some(mtu) = &mut link.mtu {
                mtu.rebase(by);
            }
        }
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<GatewayData<E>> {
        self.outputs.pop_front()
    }

    /// Every key that this session may have claimed.
    pub fn keys(&self) -> impl Iterator<Item = Key<E>> + '_ {
        let ids = self.links.iter().filter_map(|link| link.id.map(Key::Id));
        let links = self.links.iter().map(|link| Key::From(link.endpoint));
        let shaking = self.shaking.iter();
        let shaking = shaking.flat_map(|shaking| [Key::Id(shaking.id), Key::From(shaking.endpoint)]);
        ids.chain(links).chain(shaking)
    }

    /// The record that tells the client that the channel is closed.
    pub fn close_notify(&mut self) -> Option<(E, Vec<u8>)> {
        let link = self.links.first_mut().filter(|link| link.proven)?;
        Some((link.endpoint, link.seal.seal_close()?))
    }

    /// Opens the first record of `datagram` with the keys that its id or its origin names. `None` if there are none.
    fn open(&mut self, endpoint: E, id: Option<ConnectionId>, datagram: &mut [u8]) -> Option<(usize, dtls::Record)> {
        let mut last = None;
        for (index, link) in self.links.iter_mut().enumerate() {
            let meant = match id {
                Some(id) => link.id == Some(id),
                None => link.endpoint == endpoint,
            };
            if !meant {
                continue;
            }
            let record = link.open.open(datagram);
            if !matches!(record.content, Content::Discarded(_)) {
                return Some((index, record));
            }
            last = Some((index, record));
        }
        last
    }

    /// Something authentic arrived over a link. The first time it becomes the one that packets take. Returns where it is now.
    fn heard(&mut self, index: usize, now: Awake) -> usize {
        let link = &mut self.links[index];
        let asked_for = link.watch.heard(now);
        if let Some(mtu) = link.mtu.as_mut().filter(|_| asked_for) {
            mtu.doubt(now);
        }
        if link.proven && index > 0 {
            return index;
        }
        if !std::mem::replace(&mut link.proven, true) {
            let mut link = self.links.remove(index);
            // The next path to a client is mostly as wide as the one before.
            let before = self.links.first().and_then(|link| link.mtu.as_ref());
            let assumed = before.map_or(self.terms.mtu, PathMtu::current);
            link.mtu = (self.terms.path_mtu_discovery && self.terms.ours)
                .then(|| PathMtu::new(self.terms.floor, self.terms.mtu, now).assuming(assumed));
            self.catch_up(now);
            for before in &mut self.links {
                before.until = before.until.or(Some(now.plus(FADING)));
            }
            self.links.insert(0, link);
            self.route = Route::Control;
        }
        self.use_first();
        0
    }

    fn use_first(&mut self) {
        if let Some(link) = self.links.first().filter(|_| !self.is_up()) {
            self.outputs.push_back(GatewayData::Up {
                endpoint: link.endpoint,
                suite: link.suite,
                extended_master_secret: link.extended_master_secret,
                roams: link.id.is_some(),
            });
            self.route = Route::Data;
        }
    }

    fn record_in(
        &mut self,
        (index, newest): (usize, bool),
        endpoint: E,
        plaintext: &mut [u8],
        now: Now,
        deliver: &mut dyn FnMut(&mut [u8]),
    ) {
        let Some((kind, payload)) = split(plaintext) else {
            return;
        };
        if matches!(kind, Kind::Park | Kind::Awake) {
            return self.presence((index, newest), endpoint, kind, payload);
        }
        self.word_from(index, endpoint);
        match kind {
            Kind::Data => deliver(payload),
            Kind::DpdRequest if payload.len() <= MAX_ECHO => self.echo(index, payload),
            Kind::DpdResponse => self.answered(endpoint, payload, now.awake),
            Kind::DpdRequest
            | Kind::Disconnect
            | Kind::Keepalive
            | Kind::Compressed
            | Kind::Terminate
            | Kind::Park
            | Kind::ParkAnswer
            | Kind::Awake
            | Kind::AwakeAnswer
            | Kind::Bundle
            | Kind::Unknown(_) => {}
        }
    }

    /// A probe is answered over the link it came by, exactly: the client measures its path with it.
    fn echo(&mut self, index: usize, payload: &[u8]) {
        if self.outputs.len() >= MAX_OUTPUTS {
            return;
        }
        let Some(link) = self.links.get_mut(index) else { return };
        if let Some(record) = sealed(&mut link.seal, Kind::DpdResponse, payload) {
            self.outputs.push_back(GatewayData::Send(link.endpoint, record));
        }
    }

    fn resend(&mut self, index: usize, now: Awake) {
        let Some(link) = self.links.get_mut(index) else { return };
        for datagram in link.tail.resend(now) {
            self.outputs
                .push_back(GatewayData::Send(link.endpoint, datagram.clone()));
        }
    }

    fn closed(&mut self, index: usize) {
        if index >= self.links.len() {
            return;
        }
        let link = self.links.remove(index);
        self.forget(&link);
        if index == 0 {
            self.down("the client closed it");
        }
    }

    fn down(&mut self, why: &'static str) {
        if std::mem::replace(&mut self.route, Route::Control) != Route::Control {
            self.outputs.push_back(GatewayData::Down(why));
        }
    }

    /// This channel carries nothing to the client any more, which has not asked for the other.
    fn lost(&mut self, why: &'static str) {
        if !self.terms.ours {
            return self.down(why);
        }
        self.route = Route::Nowhere;
        self.outputs.push_back(GatewayData::Silent(why));
    }

    fn look_at_path(&mut self, now: Awake) {
        if !self.is_up() {
            return;
        }
        let Some(link) = self.links.first_mut() else { return };
        match link.watch.look(now) {
            PathVerdict::Wait => {}
            PathVerdict::Probe | PathVerdict::Suspect => {
                if let Some(record) = sealed(&mut link.seal, Kind::DpdRequest, &[]) {
                    self.outputs.push_back(GatewayData::Send(link.endpoint, record));
                }
            }
            PathVerdict::Dead => self.lost("nothing comes back"),
        }
    }

    fn look_at_mtu(&mut self, now: Awake) {
        if self.resting.is_some() {
            return;
        }
        let Some(link) = self.links.first_mut() else { return };
        let Some(mtu) = &mut link.mtu else { return };
        while self.outputs.len() < MAX_OUTPUTS
            && let Some(probe) = mtu.poll(now)
        {
            let payload = probe_payload(probe.id, probe.size);
            if let Some(record) = sealed(&mut link.seal, Kind::DpdRequest, &payload) {
                self.outputs.push_back(GatewayData::Send(link.endpoint, record));
            }
        }
    }

    fn forget(&mut self, link: &Link<E>) {
        if let Some(id) = link.id {
            self.outputs.push_back(GatewayData::Release(Key::Id(id)));
        }
        self.release_endpoint(link.endpoint);
    }

    /// Unless something else of this session still arrives from there.
    fn release_endpoint(&mut self, endpoint: E) {
        let used = self.links.iter().any(|link| link.endpoint == endpoint)
            || self
                .shaking
                .as_ref()
                .is_some_and(|shaking| shaking.endpoint == endpoint);
        if !used {
            self.outputs.push_back(GatewayData::Release(Key::From(endpoint)));
        }
    }
}

#[cfg(test)]
mod tests;
