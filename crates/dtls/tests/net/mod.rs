//! The network between a client and a server, and the listener in front of the latter.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::time::Duration;

use dtls::{
    Client, ClientConfig, ConnectionId, Content, CookieCheck, Cookies, Error, Established, Facts, Peek, Psk, Server,
    ServerConfig, Suite, peek,
};
use now::{Awake, Deadline};

/// Longest one-way delay. Above the 250 ms of a first retransmission only together with the answer.
const MAX_DELAY_US: u64 = 60_000;

const SESSION_ID: &[u8; 32] = b"app-id of thirty-two whole bytes";

/// What a run is made of.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) suites: Vec<Suite>,
    pub(crate) server_suites: Vec<Suite>,
    pub(crate) extended_master_secret: bool,
    pub(crate) server_secret: bool,
    pub(crate) cookies: bool,
    pub(crate) connection_ids: bool,
    pub(crate) client_mtu: usize,
    pub(crate) server_mtu: usize,
    /// The network cuts handshake messages, other than hellos, into overlapping pieces of so many bytes.
    pub(crate) pieces: Option<usize>,
    pub(crate) loss: Loss,
    /// Datagrams of which one bit is changed, in percent.
    pub(crate) changed: u64,
    pub(crate) server_psk: [u8; 32],
}

/// What the network does, in percent of datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Loss {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    /// Delays between 1 ms and the longest, so that datagrams overtake each other; else all take 10 ms.
    pub(crate) reorder: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            suites: Suite::ALL.to_vec(),
            server_suites: Suite::ALL.to_vec(),
            extended_master_secret: true,
            server_secret: true,
            cookies: true,
            connection_ids: true,
            client_mtu: 1200,
            server_mtu: 1200,
            pieces: None,
            loss: Loss::default(),
            changed: 0,
            server_psk: [7; 32],
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Established,
    Failed(Error),
}

/// Chance from a seed (xorshift).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Client,
    Server,
}

pub(crate) struct Pair {
    config: Config,
    pub(crate) now: Awake,
    dice: Dice,
    flying: BTreeMap<(Awake, u64), (To, Vec<u8>)>,
    sent: u64,
    cookies: Cookies,
    pub(crate) client: Client,
    pub(crate) server: Option<Server>,
    pub(crate) client_end: Option<Established>,
    pub(crate) server_end: Option<Established>,
    client_error: Option<Error>,
    pub(crate) server_error: Option<Error>,
    /// What the listener expects.
    pub(crate) session_id: Vec<u8>,
    /// Datagrams in the order in which they were sent, for tests that look at them.
    pub(crate) log: Vec<(To, Vec<u8>)>,
}

impl Pair {
    pub(crate) fn new(config: &Config, seed: u64) -> Self {
        let now = Awake::from_origin(Duration::from_secs(1000));
        let client = ClientConfig {
            psk: Psk::new(&[7; 32]).expect("32 bytes"),
            identity: b"psk".to_vec(),
            session_id: SESSION_ID.to_vec(),
            suites: config.suites.clone(),
            extended_master_secret: config.extended_master_secret,
            connection_ids: config.connection_ids,
            mtu: config.client_mtu,
        };
        Self {
            config: config.clone(),
            now,
            dice: Dice::new(seed),
            flying: BTreeMap::new(),
            sent: 0,
            cookies: Cookies::new([5; 32]),
            client: Client::new(client, [1; 32], now),
            server: None,
            client_end: None,
            server_end: None,
            client_error: None,
            server_error: None,
            session_id: SESSION_ID.to_vec(),
            log: Vec::new(),
        }
    }

    /// Runs until both ends are established, or one has failed and nothing is left to happen.
    pub(crate) fn run(&mut self) -> Outcome {
        loop {
            self.collect();
            if self.client_end.is_some() && self.server_end.is_some() {
                return Outcome::Established;
            }
            if !self.step() {
                return Outcome::Failed(self.client_error.or(self.server_error).expect("something ended it"));
            }
        }
    }

    /// One step, with everything sent that it causes.
    pub(crate) fn advance(&mut self) {
        self.collect();
        if self.server_end.is_none() && !self.flying.is_empty() {
            self.step();
            self.collect();
        }
    }

    /// Takes what is on the way off the wire.
    pub(crate) fn take_flying(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.flying)
            .into_values()
            .map(|(_, datagram)| datagram)
            .collect()
    }

    /// Lets the next thing happen: a datagram arrives or a deadline comes.
    fn step(&mut self) -> bool {
        let arrival = self.flying.keys().next().copied();
        let server = self.server.as_ref().and_then(Server::deadline);
        let due = Deadline::earliest(self.client.deadline(), server).map(|deadline| deadline.at);
        match (arrival, due) {
            (Some(key), due) if due.is_none_or(|due| key.0 <= due) => {
                let (to, datagram) = self.flying.remove(&key).expect("just seen");
                self.now = self.now.max(key.0);
                self.deliver(to, datagram);
            }
            (_, Some(due)) => {
                self.now = self.now.max(due);
                self.client_error = self.client_error.or(self.client.handle_timeout(self.now).err());
                if let Some(server) = &mut self.server {
                    self.server_error = self.server_error.or(server.handle_timeout(self.now).err());
                }
            }
            (_, None) => return false,
        }
        true
    }

    /// Puts what both ends want to send on the wire, and takes connections.
    pub(crate) fn collect(&mut self) {
        while let Some(datagram) = self.client.poll() {
            self.send(To::Server, datagram);
        }
        self.client_end = self.client_end.take().or_else(|| self.client.established());
        let Some(server) = &mut self.server else { return };
        let replies: Vec<_> = std::iter::from_fn(|| server.poll()).collect();
        self.server_end = self.server_end.take().or_else(|| server.established());
        replies.into_iter().for_each(|datagram| self.send(To::Client, datagram));
    }

    fn send(&mut self, to: To, datagram: Vec<u8>) {
        let mtu = match to {
            To::Client => self.config.server_mtu,
            To::Server => self.config.client_mtu,
        };
        assert!(datagram.len() <= mtu.max(dtls::MIN_MTU));
        self.log.push((to, datagram.clone()));
        match self.config.pieces {
            None => self.fly(to, &datagram),
            Some(size) => pieces(&datagram, size).iter().for_each(|piece| self.fly(to, piece)),
        }
    }

    fn fly(&mut self, to: To, datagram: &[u8]) {
        let loss = self.config.loss;
        let copies = 1 + u64::from(self.dice.below(100) < loss.doubled);
        for _ in 0..copies {
            if self.dice.below(100) < loss.lost {
                continue;
            }
            let delay = if loss.reorder {
                1000 + self.dice.below(MAX_DELAY_US)
            } else {
                10_000
            };
            self.sent += 1;
            let key = (self.now.plus(Duration::from_micros(delay)), self.sent);
            let mut datagram = datagram.to_vec();
            if self.dice.below(100) < self.config.changed {
                let at = self.dice.below(datagram.len() as u64) as usize;
                datagram[at] ^= 1 << self.dice.below(8);
            }
            self.flying.insert(key, (to, datagram));
        }
    }

    pub(crate) fn deliver(&mut self, to: To, mut datagram: Vec<u8>) {
        match to {
            To::Client => match &mut self.client_end {
                None => {
                    let result = self.client.received(&mut datagram, self.now);
                    self.client_error = self.client_error.or(result.err());
                }
                Some(end) => drop(opened(end, datagram)),
            },
            To::Server => self.listen(datagram),
        }
    }

    /// What a listener does: hellos go through the cookie, all else to the handshake or the connection.
    fn listen(&mut self, mut datagram: Vec<u8>) {
        if let Some(end) = &mut self.server_end {
            let repeated = opened(end, datagram).contains(&Content::Retransmission);
            let again = if repeated {
                end.tail.resend(self.now).to_vec()
            } else {
                Vec::new()
            };
            again.into_iter().for_each(|datagram| self.send(To::Client, datagram));
            return;
        }
        if let Some(server) = &mut self.server {
            let result = server.received(&mut datagram, self.now);
            self.server_error = self.server_error.or(result.err());
            return;
        }
        let Peek::Hello(hello) = peek(&datagram, 8) else { return };
        assert!(hello.session_id() == self.session_id || self.config.changed > 0);
        let proven = match self.cookies.check(&hello, b"192.0.2.1:4444") {
            CookieCheck::Proven(proven) => proven,
            CookieCheck::Ask(_) if !self.config.cookies => hello.without_cookie(),
            CookieCheck::Ask(request) => {
                assert!(request.len() <= datagram.len());
                return self.send(To::Client, request);
            }
        };
        let config = ServerConfig {
            psk: Psk::new(&self.config.server_psk).expect("32 bytes"),
            suites: self.config.server_suites.clone(),
            extended_master_secret: self.config.server_secret,
            connection_id: ConnectionId::new(&[9; 8]),
            mtu: self.config.server_mtu,
        };
        match Server::new(config, proven, [2; 32], self.now) {
            Ok(server) => self.server = Some(server),
            Err(error) => self.server_error = Some(error),
        }
    }

    pub(crate) fn facts(&self) -> (Facts, Facts) {
        let of = |end: &Option<Established>| end.as_ref().expect("established").facts.clone();
        (of(&self.client_end), of(&self.server_end))
    }

    /// Data both ways: both ends have the same keys.
    pub(crate) fn exchange_data(&mut self) {
        let client = self.client_end.as_mut().expect("established");
        let server = self.server_end.as_mut().expect("established");
        for text in [&b"ping"[..], b"", &[0; 1400]] {
            carry(client, server, text);
            carry(server, client, text);
        }
    }
}

/// Everything a datagram holds for an established connection.
fn opened(end: &mut Established, mut datagram: Vec<u8>) -> Vec<Content> {
    let mut contents = Vec::new();
    let mut at = 0;
    while at < datagram.len() {
        let record = end.open.open(&mut datagram[at..]);
        assert!(record.consumed > 0);
        at += record.consumed;
        contents.push(record.content);
    }
    contents
}

/// An application record.
pub(crate) fn sealed(from: &mut Established, text: &[u8]) -> Vec<u8> {
    let mut record = vec![0; from.seal.prefix()];
    record.extend(text);
    record.resize(from.seal.overhead() + text.len(), 0);
    from.seal.seal(&mut record).expect("a young key");
    record
}

fn carry(from: &mut Established, to: &mut Established, text: &[u8]) {
    let mut record = sealed(from, text);
    match to.open.open(&mut record).content {
        Content::Data { range, newest } => assert_eq!((&record[range], newest), (text, true)),
        other => panic!("{other:?}"),
    }
}

/// Each record of a datagram in one of its own, and plaintext handshake messages in overlapping fragments. Hellos of clients
/// stay whole: a listener takes none in pieces.
pub(crate) fn pieces(datagram: &[u8], size: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut rest = datagram;
    while rest.len() >= 13 {
        let id = if rest[0] == 25 { 8 } else { 0 };
        let length = usize::from(u16::from_be_bytes([rest[11 + id], rest[12 + id]]));
        let (record, behind) = rest.split_at(13 + id + length);
        rest = behind;
        if record[0] != 22 || record[4] != 0 || record[13] == 1 {
            all.push(record.to_vec());
            continue;
        }
        let (header, body) = (&record[13..25], &record[25..]);
        let starts = (0..body.len().max(1)).step_by(size);
        all.extend(starts.map(|start| {
            let end = (start + size + 3).min(body.len());
            let part = u16::try_from(end - start).expect("short");
            let mut piece = record[..11].to_vec();
            piece.extend((part + 12).to_be_bytes());
            piece.extend(&header[..6]);
            piece.extend([0, 0, u8::try_from(start).expect("short")]);
            piece.push(0);
            piece.extend(part.to_be_bytes());
            piece.extend(&body[start..end]);
            piece
        }));
    }
    all
}
