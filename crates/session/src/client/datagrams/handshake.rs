//! Handshakes: when one begins, over which socket, and what comes of it.

use std::time::Duration;

use dtls::{Client, ClientConfig};
use now::{Awake, Now};
use wire::cstp::Kind;

use super::link::{Attempt, Link, LinkKeys};
use super::{DataOutput, Datagrams, FADING, PathId};
use crate::datagrams::{Downlink, PathWatch};
use crate::path_mtu::PathMtu;

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

/// Sockets kept open at a time. An ICMP error that a closed one provokes ends the whole session at a stock gateway
/// (measured), so they stay until the session does or until this many are open: at 3 s each that is half a minute.
const MAX_PATHS: usize = 10;

impl Datagrams {
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

    /// Begins a handshake, as soon as one may.
    pub(super) fn begin(&mut self, now: Awake) {
        if self.attempt.is_some() {
            return;
        }
        if self.is_quiet() {
            self.next_attempt = Some(now);
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

    pub(super) fn new_path(&mut self) -> PathId {
        let path = PathId(self.next_path);
        self.next_path = self.next_path.wrapping_add(1);
        self.paths.push_back(path);
        path
    }

    /// Closes the oldest sockets beyond the limit.
    pub(super) fn close_surplus(&mut self) {
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

    pub(super) fn close(&mut self, path: PathId) {
        if self.link.as_ref().is_some_and(|link| link.path == path) {
            return;
        }
        if self.paths.contains(&path) {
            self.paths.retain(|open| *open != path);
            self.outputs.push_back(DataOutput::Close(path));
        }
    }

    /// Hands on what the handshake has to say.
    pub(super) fn go_on(&mut self) {
        if let Some(Attempt::Shaking(path, client)) = &mut self.attempt {
            while let Some(datagram) = client.poll() {
                self.outputs.push_back(DataOutput::Send(*path, datagram));
            }
        }
    }

    pub(super) fn failed(&mut self, now: Awake) {
        let Some(attempt) = self.attempt.take() else { return };
        if self.terms.ours {
            self.close(attempt.path());
        }
        let wait = FIRST_WAIT * 2_u32.saturating_pow(self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        self.next_attempt = Some(now.plus(wait.min(LONGEST_WAIT)));
    }

    /// The new link takes over, if the handshake is done.
    pub(super) fn stand(&mut self, now: Now, deliver: &mut dyn FnMut(&mut [u8])) {
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
            downlink: Downlink::default(),
            sent: now.awake,
            alive: true,
            mtu,
        };
        self.round_trip.forget_question();
        if let Some(old) = self.link.replace(link) {
            self.fading = Some((old, now.awake.plus(FADING)));
        }
        self.outputs.push_back(up);
        self.proven();
        self.ask_from_here(now.awake);
        // The first authentic record makes the gateway send over this link.
        self.send_control(Kind::DpdRequest, &[], now.awake);
        for mut record in early {
            self.record_in(&mut record, now, deliver);
        }
        self.look_at_mtu(now.awake);
    }
}
