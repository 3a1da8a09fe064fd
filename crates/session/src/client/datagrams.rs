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

mod handshake;
mod link;
mod renewal;
mod terms;
mod wake;

use std::collections::VecDeque;
use std::time::Duration;

use dtls::{Content, Suite};
use now::{Awake, Deadline, Gap, Now};
use packet::{Batch, Ecn};
use wire::cstp::Kind;

use self::link::{Attempt, Keys, Link};
use self::wake::{Life, Stance};
use crate::datagrams::{MAX_ECHO, PathVerdict, record_length, seal_at_the_end, sealed, split};
use crate::park::Via;
use crate::path_mtu::{PathMtu, parse_probe, probe_payload};
use crate::round_trip::RoundTrip;

pub use terms::{DataOutput, PathId, Renewal, RenewalBy, Terms};
pub use wake::{Ask, Token};

/// How long the link before the current one still takes what was on its way.
const FADING: Duration = Duration::from_secs(5);

/// Answers and probes that may wait to be sent.
const MAX_OUTPUTS: usize = 64;

/// Whether a datagram may have waited through a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    Fresh,
    Late,
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
    /// A renewal that was asked for in quiet, and why.
    owed: Option<&'static str>,
    stance: Stance,
    life: Life,
    /// The path moved in quiet.
    moved: Option<Via>,
    round_trip: RoundTrip,
    outputs: VecDeque<DataOutput>,
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
        this.round_trip = old.round_trip;
        // A link that does not answer after a sleep is none to go on with: the new connection carries packets meanwhile.
        let doubted = old.is_in_doubt();
        this.link = old.link.filter(|link| goes_on && link.alive && !doubted);
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
            owed: None,
            stance: Stance::Active,
            life: Life::Proven,
            moved: None,
            round_trip: RoundTrip::default(),
            outputs: VecDeque::new(),
        }
    }

    /// The local address of the current path is gone. With a connection id the link goes on over the path returned, whose
    /// socket the caller opens at once; without, a handshake begins and `None` is returned.
    pub fn roam(&mut self, now: Now) -> Option<PathId> {
        self.ask_for_renewal("the address changed", now.awake);
        // A handshake that was under way used the old address.
        self.attempt = None;
        self.last_attempt = None;
        self.round_trip.forget_question();
        if (self.path().is_some() || self.is_in_doubt())
            && let Some(path) = self.rebind(now.awake)
        {
            self.ask_from_here(now.awake);
            if self.path().is_none() {
                self.begin(now.awake);
            }
            return Some(path);
        }
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

    /// Bytes of the record of a packet of `length` bytes. `None`: the packet is to take the control channel.
    pub fn record_length(&self, length: usize) -> Option<usize> {
        let link = self.link.as_ref().filter(|link| link.alive)?;
        let mtu = link.mtu.as_ref().map_or(self.terms.mtu, PathMtu::current);
        (length <= usize::from(mtu)).then(|| record_length(&link.keys.seal, length))
    }

    /// The mark of the datagram that carries a packet with `inner`: the same, if the gateway takes it over to the packet again; else none
    /// (RFC 6040 section 4.1).
    pub fn outer(&self, inner: Ecn) -> Ecn {
        if self.terms.ecn { inner } else { Ecn::NotEct }
    }

    /// Seals a packet of `length` bytes, which `write` puts into its place, at the end of `batch`, which has to take a record of
    /// [`Datagrams::record_length`] with the mark of [`Datagrams::outer`]. `None`: the packet is to take the control channel.
    pub fn seal(
        &mut self,
        (length, inner): (usize, Ecn),
        batch: &mut Batch,
        write: impl FnOnce(&mut [u8]),
        now: Now,
    ) -> Option<PathId> {
        self.record_length(length)?;
        let outer = self.outer(inner);
        let link = self.link.as_mut()?;
        if seal_at_the_end(&mut link.keys.seal, (length, outer), batch, write).is_err() {
            self.give_up("the key is used up", now.awake);
            return None;
        }
        link.sent = now.awake;
        let (path, worn) = (link.path, link.keys.seal.is_worn());
        if !matches!(self.stance, Stance::Quiet(_)) {
            link.watch.sent(now.awake);
            if let Some(mtu) = &mut link.mtu {
                mtu.traffic(now.awake);
            }
        }
        if worn {
            self.begin(now.awake);
        }
        self.ask(now.awake);
        Some(path)
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

    /// Takes a datagram that arrived over `path`. Its packets go to `deliver`, unchecked, and without what routers marked on it
    /// ([`super::Established::incoming_in`]). Those that waited for the end of a handshake are not its own: what was marked on theirs is forgotten.
    pub fn received(&mut self, path: PathId, datagram: &mut [u8], now: Now, deliver: &mut dyn FnMut(&mut [u8])) {
        self.take(path, datagram, Age::Fresh, now, deliver);
    }

    /// Takes a datagram that waited while this process did not run. That it is authentic proves nothing of the path of today.
    pub fn received_late(&mut self, path: PathId, datagram: &mut [u8], now: Now, deliver: &mut dyn FnMut(&mut [u8])) {
        self.take(path, datagram, Age::Late, now, deliver);
    }

    fn take(&mut self, path: PathId, datagram: &mut [u8], age: Age, now: Now, deliver: &mut dyn FnMut(&mut [u8])) {
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
                    if keys == Keys::Current && age == Age::Fresh {
                        self.heard(now.awake);
                    }
                    self.record_in(&mut rest[range], now, deliver);
                }
                (Content::Closed, Keys::Current) => self.give_up("the gateway closed it", now.awake),
                (Content::Closed, Keys::Fading) | (Content::Retransmission | Content::Discarded(_), _) => {}
            }
            rest = rest.split_at_mut(consumed.min(rest.len())).1;
        }
    }

    /// When to call [`Datagrams::handle_timeout`].
    pub fn deadline(&self) -> Option<Deadline> {
        if self.is_quiet() {
            return None;
        }
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
            at(link.and_then(Link::falls_silent_at), "a download that falls silent"),
            at(self.keepalive_at(), "keepalive of the data channel"),
            link.and_then(|link| link.mtu.as_ref()?.deadline()),
            at(self.fading.as_ref().map(|(_, until)| *until), "the end of old keys"),
            at(self.renewals.iter().map(|(at, _)| *at).min(), "new keys"),
            at(self.asks_again_at(), "an answer after a sleep"),
        ]
        .into_iter()
        .fold(None, Deadline::earliest)
    }

    /// Handles every timer that is due.
    pub fn handle_timeout(&mut self, now: Now) {
        let now = now.awake;
        if self.is_quiet() {
            return;
        }
        self.ask_again(now);
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
        self.look_at_downlink(now);
        if self.keepalive_at().is_some_and(|at| at <= now) {
            self.ask(now);
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
    pub fn rebase(&mut self, gap: &Gap, jump: u64, now: Now) {
        let by = gap.awake;
        self.rebase_wake(by);
        self.grow_older(gap.length.saturating_sub(by));
        if let Some(Attempt::Shaking(_, client)) = &mut self.attempt {
            client.rebase(by);
        }
        for at in [&mut self.next_attempt, &mut self.last_attempt].into_iter().flatten() {
            *at = at.plus(by);
        }
        let Some(link) = &mut self.link else { return };
        link.watch.rebase(by);
        link.downlink.forget();
        link.sent = link.sent.plus(by);
        if let Some(mtu) = &mut link.mtu {
            mtu.rebase(by);
        }
        // A key without room for the jump seals no more: a copy of this machine may use the next sequence.
        if link.keys.seal.skip(jump).is_err() {
            self.give_up("its key has no room for the records left out", now.awake);
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
        self.proven();
        let Some(link) = &mut self.link else { return };
        let asked_for = link.watch.heard(now);
        link.downlink.heard(now);
        if let Some(mtu) = link.mtu.as_mut().filter(|_| asked_for) {
            mtu.doubt(now);
        }
        if !std::mem::replace(&mut link.alive, true) {
            self.outputs.push_back(link.keys.up());
        }
    }

    fn record_in(&mut self, plaintext: &mut [u8], now: Now, deliver: &mut dyn FnMut(&mut [u8])) {
        let Some((kind, payload)) = split(plaintext) else {
            return;
        };
        match kind {
            Kind::Data => deliver(payload),
            Kind::DpdRequest if payload.len() <= MAX_ECHO => self.send_control(Kind::DpdResponse, payload, now.awake),
            Kind::DpdResponse => self.answered(payload, now.awake),
            Kind::ParkAnswer => self.park_answered(payload),
            Kind::AwakeAnswer => self.awake_answered(payload, now.awake),
            Kind::DpdRequest
            | Kind::Disconnect
            | Kind::Keepalive
            | Kind::Compressed
            | Kind::Terminate
            | Kind::Park
            | Kind::Awake
            | Kind::Bundle
            | Kind::Unknown(_) => {}
        }
    }

    fn answered(&mut self, payload: &[u8], now: Awake) {
        if payload.is_empty() {
            self.round_trip.answered(now);
        }
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
            PathVerdict::Probe => {
                self.ask(now);
                self.send_control(Kind::DpdRequest, &[], now);
            }
            PathVerdict::Suspect => {
                self.silent();
                self.send_control(Kind::DpdRequest, &[], now);
                self.begin(now);
            }
            PathVerdict::Dead => {
                self.down("nothing comes back");
                self.begin(now);
            }
        }
    }

    /// A router may have given this host another port, which the gateway learns from whatever comes from there.
    fn look_at_downlink(&mut self, now: Awake) {
        let link = self.link.as_mut().filter(|link| link.falls_silent_at().is_some());
        if link.is_some_and(|link| link.downlink.look(now)) {
            self.send_control(Kind::DpdRequest, &[], now);
        }
    }

    fn look_at_mtu(&mut self, now: Awake) {
        if self.is_quiet() {
            return;
        }
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
                self.round_trip.asked(now);
            }
            self.outputs.push_back(DataOutput::Send(link.path, record));
        }
    }

    fn keepalive_at(&self) -> Option<Awake> {
        let link = self.link.as_ref().filter(|link| link.alive)?;
        Some(link.sent.plus(self.terms.keepalive?))
    }
}
