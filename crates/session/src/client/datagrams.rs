//! The client's side of the DTLS data channel: when to shake hands, which path to use, when to do without.
//!
//! ```text
//!   begin --Open--> socket --> Client (handshake) --established--> Link: carries packets
//!     ^                            | failed: wait 2, 4, 8 ... 30 s      | suspect: begin another from a fresh socket, keep this
//!     +----------------------------+------------------------------------+ dead: packets take the control channel
//! ```
//! Every handshake has a socket of its own, because a stock gateway never sees a second hello from the same one (measured).
//! A new handshake on the same key repairs a path: the link before it stays open for what is still on its way.
//!
//! With a gateway of ours records carry a connection id. Then a new address needs no handshake: the same link goes on over
//! a new socket ([`Datagrams::roam`]), and over a new CONNECT the old link serves until the new one stands
//! ([`Datagrams::after`]).

mod terms;

use std::collections::VecDeque;
use std::time::Duration;

use dtls::{Client, ClientConfig, Content, Established, OpenHalf, SealHalf, Suite};
use now::{Awake, Deadline, Gap, Now};
use wire::cstp::Kind;

use crate::datagrams::{MAX_ECHO, PathVerdict, PathWatch, seal_into, sealed, split};
use crate::path_mtu::{PathMtu, parse_probe, probe_payload};

pub use terms::{DataOutput, PathId, Renewal, RenewalBy, Terms};

/// Identity sent with the key; gateways ignore it (protocol draft).
const IDENTITY: &[u8] = b"psk";

/// Largest datagram of a handshake: fits any path that carries IPv6.
const HANDSHAKE_MTU: usize = 1200;

/// A stock gateway hands a session's datagrams over at most once in 3 s and ignores hellos in between (measured).
const BETWEEN_HANDSHAKES: Duration = Duration::from_secs(3);

/// The wait after a failed handshake doubles from here. Each handshake itself goes on for 30 s.
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// And ends here, so that a network that lets UDP through again is noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How long to wait for a new CONNECT before it is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// How long the link before the current one still takes what was on its way.
const FADING: Duration = Duration::from_secs(5);

/// Sockets kept open at a time. An ICMP error that a closed one provokes ends the whole session at a stock gateway
/// (measured), so they stay until the session does or until this many are open: at 3 s each that is half a minute.
const MAX_PATHS: usize = 10;

/// Answers and probes that may wait to be sent.
const MAX_OUTPUTS: usize = 64;

/// Which keys opened a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    Current,
    Fading,
}

#[derive(Debug)]
enum Attempt {
    Opening(PathId),
    Shaking(PathId, Box<Client>),
}

impl Attempt {
    fn path(&self) -> PathId {
        match self {
            Self::Opening(path) | Self::Shaking(path, _) => *path,
        }
    }
}

/// What a handshake left.
#[derive(Debug)]
struct LinkKeys {
    seal: SealHalf,
    open: OpenHalf,
    suite: Suite,
    extended_master_secret: bool,
    roams: bool,
}

impl LinkKeys {
    fn up(&self) -> DataOutput {
        DataOutput::Up {
            suite: self.suite,
            extended_master_secret: self.extended_master_secret,
            roams: self.roams,
        }
    }
}

impl From<Established> for LinkKeys {
    fn from(established: Established) -> Self {
        let Established { seal, open, facts, .. } = established;
        Self {
            seal,
            open,
            suite: facts.suite,
            extended_master_secret: facts.extended_master_secret,
            roams: facts.peer_connection_id.is_some(),
        }
    }
}

/// Keys and the path they are used on.
#[derive(Debug)]
struct Link {
    path: PathId,
    keys: LinkKeys,
    watch: PathWatch,
    sent: Awake,
    alive: bool,
    mtu: Option<PathMtu>,
}

/// The data channel of one client. See the module.
#[derive(Debug)]
pub struct Datagrams {
    terms: Terms,
    link: Option<Link>,
    fading: Option<(Link, Awake)>,
    attempt: Option<Attempt>,
    last_attempt: Option<Awake>,
    next_attempt: Option<Awake>,
    failures: u32,
    /// Open sockets, oldest first.
    paths: VecDeque<PathId>,
    next_path: u32,
    /// One for each of `terms.renewals`, until it is done.
    renewals: Vec<(Awake, RenewalBy)>,
    outputs: VecDeque<DataOutput>,
    record: Vec<u8>,
}

impl Datagrams {
    /// Begins: the first [`DataOutput::Open`] waits.
    pub fn new(terms: Terms, now: Now) -> Self {
        let mut this = Self::at_rest(terms, now);
        this.begin(now.awake);
        this
    }

    /// Begins under the terms of another CONNECT of the same session: with the sockets of the one before, and with its link
    /// as long as the new one does not stand, if both are with a gateway of ours.
    pub fn after(old: Self, terms: Terms, now: Now) -> Self {
        let mut this = Self::at_rest(terms, now);
        let goes_on = old.terms.ours && this.terms.ours;
        this.link = old.link.filter(|link| goes_on && link.alive);
        this.fading = old.fading.filter(|_| goes_on);
        this.paths = old.paths;
        this.next_path = old.next_path;
        // Without a record over it the gateway takes us for another process, which knows nothing of this link.
        this.send_control(Kind::DpdRequest, &[], now.awake);
        this.begin(now.awake);
        this
    }

    fn at_rest(terms: Terms, now: Now) -> Self {
        let due = |renewal: &Renewal| (now.awake.plus(renewal.after), renewal.by);
        Self {
            renewals: terms.renewals.iter().map(due).collect(),
            terms,
            link: None,
            fading: None,
            attempt: None,
            last_attempt: None,
            next_attempt: None,
            failures: 0,
            paths: VecDeque::new(),
            next_path: 0,
            outputs: VecDeque::new(),
            record: Vec::new(),
        }
    }

    /// The socket of `path` is open; `random` is for the handshake over it, and must never be used twice.
    pub fn opened(&mut self, path: PathId, random: [u8; 32], now: Now) {
        if !matches!(self.attempt, Some(Attempt::Opening(waiting)) if waiting == path) {
            return;
        }
        let config = ClientConfig {
            psk: self.terms.psk.clone(),
            identity: IDENTITY.to_vec(),
            session_id: self.terms.app_id.clone(),
            suites: self.terms.suites.clone(),
            extended_master_secret: true,
            connection_ids: self.terms.ours,
            mtu: HANDSHAKE_MTU,
        };
        let client = Client::new(config, random, now.awake);
        self.attempt = Some(Attempt::Shaking(path, Box::new(client)));
        self.go_on();
    }

    /// There is no socket for `path`.
    pub fn not_opened(&mut self, path: PathId, now: Now) {
        self.paths.retain(|open| *open != path);
        if self.attempt.as_ref().is_some_and(|attempt| attempt.path() == path) {
            self.failed(now.awake);
        }
    }

    /// The local address of the current path is gone. With a connection id the link goes on over the path returned, whose
    /// socket the caller opens at once; without, a handshake begins and `None` is returned.
    pub fn roam(&mut self, now: Now) -> Option<PathId> {
        self.ask_for_renewal("the address changed", now.awake);
        // A handshake that was under way used the old address.
        self.attempt = None;
        self.last_attempt = None;
        let path = self.new_path();
        if let Some(link) = self.link.as_mut().filter(|link| link.alive && link.keys.roams) {
            link.path = path;
            if let Some(mtu) = &mut link.mtu {
                mtu.suspect(now.awake);
            }
            self.close_surplus();
            return Some(path);
        }
        self.paths.pop_back();
        self.down("the address changed");
        self.begin(now.awake);
        None
    }

    /// The path that packets take, if they take the data channel.
    pub fn path(&self) -> Option<PathId> {
        self.link.as_ref().filter(|link| link.alive).map(|link| link.path)
    }

    /// What packets are sealed with, if they take the data channel.
    pub fn suite(&self) -> Option<Suite> {
        let link = self.link.as_ref().filter(|link| link.alive)?;
        Some(link.keys.suite)
    }

    /// The largest packet that the data channel carries, in bytes, while packets take it.
    pub fn mtu(&self) -> Option<u16> {
        let link = self.link.as_ref().filter(|link| link.alive)?;
        Some(link.mtu.as_ref().map_or(self.terms.mtu, PathMtu::current))
    }

    /// Seals a packet. `None`: it is to take the control channel.
    pub fn send(&mut self, packet: &[u8], now: Now) -> Option<(PathId, &[u8])> {
        if self.mtu().is_none_or(|mtu| packet.len() > usize::from(mtu)) {
            return None;
        }
        let link = self.link.as_mut()?;
        if seal_into(&mut link.keys.seal, Kind::Data, packet, &mut self.record).is_err() {
            self.give_up("the key is used up", now.awake);
            return None;
        }
        link.watch.sent(now.awake);
        link.sent = now.awake;
        if let Some(mtu) = &mut link.mtu {
            mtu.traffic(now.awake);
        }
        let (path, worn) = (link.path, link.keys.seal.is_worn());
        if worn {
            self.begin(now.awake);
        }
        Some((path, &self.record))
    }

    /// The kernel did not take a datagram of this length: it is longer than the first hop carries.
    pub fn refused(&mut self, datagram: usize, now: Now) {
        let Some(link) = &mut self.link else { return };
        let overhead = link.keys.seal.overhead() + 1;
        if let (Some(mtu), Ok(size)) = (&mut link.mtu, u16::try_from(datagram.saturating_sub(overhead))) {
            mtu.refused(size);
        }
        self.look_at_mtu(now.awake);
    }

    /// Takes a datagram that arrived over `path`. Its packets go to `deliver`, unchecked.
    pub fn received(&mut self, path: PathId, datagram: &mut [u8], now: Now, deliver: &mut dyn FnMut(&[u8])) {
        if let Some(Attempt::Shaking(shaking, client)) = &mut self.attempt
            && *shaking == path
        {
            let outcome = client.received(datagram, now.awake);
            self.go_on();
            if outcome.is_err() {
                return self.failed(now.awake);
            }
            return self.stand(now, deliver);
        }
        let mut rest = datagram;
        while !rest.is_empty() {
            let (keys, record) = self.open(path, rest);
            let consumed = record.consumed;
            match (record.content, keys) {
                (Content::Data { range, .. }, keys) => {
                    // What was still on its way under old keys says nothing about the path of today.
                    if keys == Keys::Current {
                        self.heard(now.awake);
                    }
                    self.record_in(&rest[range], now, deliver);
                }
                (Content::Closed, Keys::Current) => self.give_up("the gateway closed it", now.awake),
                (Content::Closed, Keys::Fading) | (Content::Retransmission | Content::Discarded(_), _) => {}
            }
            rest = rest.split_at_mut(consumed.min(rest.len())).1;
        }
    }

    /// When to call [`Datagrams::handle_timeout`].
    pub fn deadline(&self) -> Option<Deadline> {
        let at = |at: Option<Awake>, reason| at.map(|at| Deadline { at, reason });
        let link = self.link.as_ref().filter(|link| link.alive);
        let watch = link.and_then(|link| link.watch.deadline());
        let shaking = match &self.attempt {
            Some(Attempt::Shaking(_, client)) => client.deadline(),
            Some(Attempt::Opening(_)) | None => None,
        };
        [
            shaking,
            at(self.next_attempt, "the next DTLS handshake"),
            at(watch, "liveness of the data channel"),
            at(self.keepalive_at(), "keepalive of the data channel"),
            link.and_then(|link| link.mtu.as_ref()?.deadline()),
            at(self.fading.as_ref().map(|(_, until)| *until), "the end of old keys"),
            at(self.renewals.iter().map(|(at, _)| *at).min(), "new keys"),
        ]
        .into_iter()
        .fold(None, Deadline::earliest)
    }

    /// Handles every timer that is due.
    pub fn handle_timeout(&mut self, now: Now) {
        let now = now.awake;
        if let Some(Attempt::Shaking(_, client)) = &mut self.attempt {
            let outcome = client.handle_timeout(now);
            self.go_on();
            if outcome.is_err() {
                self.failed(now);
            }
        }
        if self.next_attempt.is_some_and(|at| at <= now) {
            self.next_attempt = None;
            self.begin(now);
        }
        if let Some((link, _)) = self.fading.take_if(|(_, until)| *until <= now)
            && self.terms.ours
        {
            self.close(link.path);
        }
        self.look_at_path(now);
        if self.keepalive_at().is_some_and(|at| at <= now) {
            self.send_control(Kind::Keepalive, &[], now);
        }
        let link = self.link.as_mut().filter(|link| link.alive);
        if let Some(mtu) = link.and_then(|link| link.mtu.as_mut()) {
            mtu.handle_timeout(now);
        }
        self.look_at_mtu(now);
        self.renew(now);
    }

    /// Waking time in which this process did not run does not count; `jump` records are left out, so that a restored machine
    /// cannot use a nonce twice.
    pub fn rebase(&mut self, gap: &Gap, jump: u64) {
        let by = gap.awake;
        if let Some(Attempt::Shaking(_, client)) = &mut self.attempt {
            client.rebase(by);
        }
        let fading = self.fading.as_mut().map(|(link, _)| link);
        for link in self.link.iter_mut().chain(fading) {
            link.watch.rebase(by);
            link.sent = link.sent.plus(by);
            // A key without room for the jump ends at its next record, as it should.
            let _ = link.keys.seal.skip(jump);
            if let Some(mtu) = &mut link.mtu {
                mtu.rebase(by);
            }
        }
        for at in [&mut self.next_attempt, &mut self.last_attempt].into_iter().flatten() {
            *at = at.plus(by);
        }
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<DataOutput> {
        self.outputs.pop_front()
    }

    /// The record that tells the gateway that this end closes the channel.
    pub fn close_notify(&mut self) -> Option<(PathId, Vec<u8>)> {
        let link = self.link.as_mut().filter(|link| link.alive)?;
        Some((link.path, link.keys.seal.seal_close()?))
    }

    /// Begins a handshake, as soon as one may.
    fn begin(&mut self, now: Awake) {
        if self.attempt.is_some() {
            return;
        }
        let earliest = self.last_attempt.map_or(now, |last| last.plus(BETWEEN_HANDSHAKES));
        if earliest > now {
            self.next_attempt = Some(self.next_attempt.map_or(earliest, |next| next.min(earliest)));
            return;
        }
        self.next_attempt = None;
        self.last_attempt = Some(now);
        let path = self.new_path();
        self.attempt = Some(Attempt::Opening(path));
        self.outputs.push_back(DataOutput::Open(path));
        self.close_surplus();
    }

    fn new_path(&mut self) -> PathId {
        let path = PathId(self.next_path);
        self.next_path = self.next_path.wrapping_add(1);
        self.paths.push_back(path);
        path
    }

    /// Closes the oldest sockets beyond the limit.
    fn close_surplus(&mut self) {
        while self.paths.len() > MAX_PATHS {
            let used = |path: &PathId| {
                self.link.as_ref().is_some_and(|link| link.path == *path)
                    || self.attempt.as_ref().is_some_and(|attempt| attempt.path() == *path)
            };
            let Some(oldest) = self.paths.iter().copied().find(|path| !used(path)) else {
                return;
            };
            self.close(oldest);
        }
    }

    fn close(&mut self, path: PathId) {
        if self.link.as_ref().is_some_and(|link| link.path == path) {
            return;
        }
        if self.paths.contains(&path) {
            self.paths.retain(|open| *open != path);
            self.outputs.push_back(DataOutput::Close(path));
        }
    }

    /// Hands on what the handshake has to say.
    fn go_on(&mut self) {
        if let Some(Attempt::Shaking(path, client)) = &mut self.attempt {
            while let Some(datagram) = client.poll() {
                self.outputs.push_back(DataOutput::Send(*path, datagram));
            }
        }
    }

    fn failed(&mut self, now: Awake) {
        let Some(attempt) = self.attempt.take() else { return };
        if self.terms.ours {
            self.close(attempt.path());
        }
        let wait = FIRST_WAIT * 2_u32.saturating_pow(self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        self.next_attempt = Some(now.plus(wait.min(LONGEST_WAIT)));
    }

    /// The new link takes over, if the handshake is done.
    fn stand(&mut self, now: Now, deliver: &mut dyn FnMut(&[u8])) {
        let Some(Attempt::Shaking(path, client)) = &mut self.attempt else {
            return;
        };
        let path = *path;
        let Some(mut established) = client.established() else {
            return;
        };
        self.attempt = None;
        self.failures = 0;
        self.next_attempt = None;
        let early = std::mem::take(&mut established.facts.early);
        // The next path to a gateway is mostly as wide as the one before.
        let before = self.link.as_ref().and_then(|link| link.mtu.as_ref());
        let assumed = before.map_or(self.terms.mtu, PathMtu::current);
        let mtu = self
            .terms
            .path_mtu_discovery
            .then(|| PathMtu::new(self.terms.floor, self.terms.mtu, now.awake).assuming(assumed));
        let keys = LinkKeys::from(established);
        let up = keys.up();
        let link = Link {
            path,
            keys,
            watch: PathWatch::new(self.terms.dpd, now.awake),
            sent: now.awake,
            alive: true,
            mtu,
        };
        if let Some(old) = self.link.replace(link) {
            self.fading = Some((old, now.awake.plus(FADING)));
        }
        self.outputs.push_back(up);
        // The first authentic record makes the gateway send over this link.
        self.send_control(Kind::DpdRequest, &[], now.awake);
        for record in early {
            self.record_in(&record, now, deliver);
        }
        self.look_at_mtu(now.awake);
    }

    /// Opens the first record of `datagram`. Which keys it is for, its path suggests; only a record that opens proves it.
    fn open(&mut self, path: PathId, datagram: &mut [u8]) -> (Keys, dtls::Record) {
        let current = self.link.as_ref().is_some_and(|link| link.path == path);
        let mut nothing = dtls::Record {
            consumed: datagram.len(),
            content: Content::Retransmission,
        };
        if let Some((link, _)) = self.fading.as_mut().filter(|_| !current) {
            let opened = link.keys.open.open(datagram);
            if !matches!(opened.content, Content::Discarded(_)) {
                return (Keys::Fading, opened);
            }
            nothing = opened;
        }
        match &mut self.link {
            Some(link) => (Keys::Current, link.keys.open.open(datagram)),
            None => (Keys::Fading, nothing),
        }
    }

    /// Something authentic arrived: a link that was given up is used again.
    fn heard(&mut self, now: Awake) {
        let Some(link) = &mut self.link else { return };
        let asked_for = link.watch.heard(now);
        if let Some(mtu) = link.mtu.as_mut().filter(|_| asked_for) {
            mtu.doubt(now);
        }
        if !std::mem::replace(&mut link.alive, true) {
            self.outputs.push_back(link.keys.up());
        }
    }

    fn record_in(&mut self, plaintext: &[u8], now: Now, deliver: &mut dyn FnMut(&[u8])) {
        let Some((kind, payload)) = split(plaintext) else {
            return;
        };
        match kind {
            Kind::Data => deliver(payload),
            Kind::DpdRequest if payload.len() <= MAX_ECHO => self.send_control(Kind::DpdResponse, payload, now.awake),
            Kind::DpdResponse => self.answered(payload, now.awake),
            Kind::DpdRequest
            | Kind::Disconnect
            | Kind::Keepalive
            | Kind::Compressed
            | Kind::Terminate
            | Kind::Park
            | Kind::ParkAnswer
            | Kind::Awake
            | Kind::AwakeAnswer
            | Kind::Unknown(_) => {}
        }
    }

    fn answered(&mut self, payload: &[u8], now: Awake) {
        let Some(id) = parse_probe(payload) else { return };
        let size = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        if let Some(mtu) = self.link.as_mut().and_then(|link| link.mtu.as_mut()) {
            mtu.answered(id, size, now);
        }
        self.look_at_mtu(now);
    }

    /// This link is of no use for sending any more, whatever arrives over it.
    fn give_up(&mut self, why: &'static str, now: Awake) {
        self.down(why);
        self.fading = self.link.take().map(|link| (link, now.plus(FADING)));
        self.begin(now);
    }

    fn down(&mut self, why: &'static str) {
        if let Some(link) = self.link.as_mut().filter(|link| link.alive) {
            link.alive = false;
            self.outputs.push_back(DataOutput::Down(why));
        }
    }

    fn look_at_path(&mut self, now: Awake) {
        let Some(link) = self.link.as_mut().filter(|link| link.alive) else {
            return;
        };
        match link.watch.look(now) {
            PathVerdict::Wait => {}
            PathVerdict::Probe => self.send_control(Kind::DpdRequest, &[], now),
            PathVerdict::Suspect => {
                self.send_control(Kind::DpdRequest, &[], now);
                self.begin(now);
            }
            PathVerdict::Dead => {
                self.down("nothing comes back");
                self.begin(now);
            }
        }
    }

    fn look_at_mtu(&mut self, now: Awake) {
        let mut probes = Vec::new();
        if let Some(mtu) = self
            .link
            .as_mut()
            .filter(|link| link.alive)
            .and_then(|link| link.mtu.as_mut())
        {
            while let Some(probe) = mtu.poll(now) {
                probes.push(probe_payload(probe.id, probe.size));
            }
            if let Some(size) = mtu.changed() {
                self.outputs.push_back(DataOutput::Mtu(size));
            }
        }
        for probe in probes {
            self.send_control(Kind::DpdRequest, &probe, now);
        }
    }

    fn send_control(&mut self, kind: Kind, payload: &[u8], now: Awake) {
        if self.outputs.len() >= MAX_OUTPUTS {
            return;
        }
        let Some(link) = self.link.as_mut().filter(|link| link.alive) else {
            return;
        };
        if let Some(record) = sealed(&mut link.keys.seal, kind, payload) {
            link.sent = now;
            if kind == Kind::DpdRequest && payload.is_empty() {
                link.watch.sent(now);
            }
            self.outputs.push_back(DataOutput::Send(link.path, record));
        }
    }

    fn keepalive_at(&self) -> Option<Awake> {
        let link = self.link.as_ref().filter(|link| link.alive)?;
        Some(link.sent.plus(self.terms.keepalive?))
    }

    /// Whoever is asked may fail, or may not be able to just now: it is asked again, unless a new CONNECT comes first.
    fn ask_for_renewal(&mut self, why: &'static str, now: Awake) {
        self.outputs.push_back(DataOutput::Renew(why));
        self.renewals.retain(|(_, by)| *by != RenewalBy::Connect);
        self.renewals.push((now.plus(ASK_AGAIN), RenewalBy::Connect));
    }

    fn renew(&mut self, now: Awake) {
        let due: Vec<RenewalBy> = self
            .renewals
            .extract_if(.., |(at, _)| *at <= now)
            .map(|(_, by)| by)
            .collect();
        for by in due {
            match by {
                RenewalBy::Connect => self.ask_for_renewal("new keys are due", now),
                RenewalBy::Handshake => {
                    self.begin(now);
                    let after = self.terms.renewals.iter().find(|renewal| renewal.by == by);
                    if let Some(renewal) = after {
                        self.renewals.push((now.plus(renewal.after), by));
                    }
                }
            }
        }
    }
}
