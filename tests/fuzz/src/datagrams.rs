//! What the targets for DTLS do with their bytes: no datagram panics, no stranger's record is data, and fragments give the
//! message however they overlap.
//!
//! `crates/dtls/tests/corpus.rs` includes this file and replays the corpora on every `cargo test`. Several of their inputs
//! are what real servers and clients said to exactly these configurations.

use dtls::{
    Client, ClientConfig, ConnectionId, Content, Discard, Established, OpenHalf, Peek, Psk, SealHalf, Server,
    ServerConfig, Suite, peek,
};
use now::Awake;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

/// Largest datagram that either side sends.
const MTU: usize = 1200;

/// Length of our connection ids.
const ID: usize = 8;

/// What became of a handshake.
#[derive(Debug, Default)]
pub struct Run {
    /// Whether it was completed.
    pub established: bool,
    /// What was opened afterwards.
    pub data: Vec<Vec<u8>>,
    /// Whether the peer closed the connection.
    pub closed: bool,
}

/// The input as datagrams: each has two bytes of length before it.
fn datagrams(mut data: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk()?;
        let (datagram, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        data = rest;
        Some(datagram.to_vec())
    })
}

/// The configuration that the first byte stands for: one suite or all, with or without the extended master secret.
fn config(data: &[u8]) -> (Vec<Suite>, bool, &[u8]) {
    let (first, rest) = data.split_first().unwrap_or((&0, &[]));
    let suites = match Suite::ALL.get(usize::from(first % 4)) {
        Some(suite) => vec![*suite],
        None => Suite::ALL.to_vec(),
    };
    (suites, first & 4 == 0, rest)
}

fn psk() -> Psk {
    Psk::new(&[7; 32]).expect("32 bytes")
}

fn new_client(suites: Vec<Suite>, extended_master_secret: bool, connection_ids: bool, now: Awake) -> Client {
    let config = ClientConfig {
        psk: psk(),
        identity: b"psk".to_vec(),
        session_id: b"app-id of thirty-two whole bytes".to_vec(),
        suites,
        extended_master_secret,
        connection_ids,
        mtu: MTU,
    };
    Client::new(config, [1; 32], now)
}

fn server_config(suites: Vec<Suite>, extended_master_secret: bool) -> ServerConfig {
    ServerConfig {
        psk: psk(),
        suites,
        extended_master_secret,
        connection_id: ConnectionId::new(&[9; ID]),
        mtu: MTU,
    }
}

/// Datagrams to a client; an empty one is its deadline.
pub fn dtls_client(data: &[u8]) {
    run_client(data);
}

/// The same, with what became of it.
pub fn run_client(data: &[u8]) -> Run {
    let (suites, secret, rest) = config(data);
    let mut now = Awake::default();
    let mut client = new_client(suites, secret, true, now);
    let mut run = Run::default();
    let mut connection = None;
    for mut datagram in datagrams(rest) {
        if let Some(connection) = &mut connection {
            run.opened(connection, &mut datagram);
            continue;
        }
        let result = if datagram.is_empty() {
            now = client.deadline().map_or(now, |deadline| deadline.at);
            client.handle_timeout(now)
        } else {
            now = now.plus(Duration::from_millis(10));
            client.received(&mut datagram, now)
        };
        while let Some(sent) = client.poll() {
            assert!(!sent.is_empty() && sent.len() <= MTU);
        }
        connection = client.established();
        run.established = connection.is_some();
        assert_eq!(result.is_err(), client.handle_timeout(now).is_err());
    }
    run
}

/// Datagrams to a listener without cookies, and to the server that it makes of the first hello.
pub fn dtls_server(data: &[u8]) {
    run_server(data);
}

/// The same, with what became of it.
pub fn run_server(data: &[u8]) -> Run {
    let (suites, secret, rest) = config(data);
    let mut now = Awake::default();
    let mut run = Run::default();
    let mut server = None;
    let mut connection = None;
    for mut datagram in datagrams(rest) {
        now = now.plus(Duration::from_millis(10));
        if let Some(connection) = &mut connection {
            run.opened(connection, &mut datagram);
            continue;
        }
        let Some(server) = &mut server else {
            let Peek::Hello(hello) = peek(&datagram, ID) else {
                continue;
            };
            let config = server_config(suites.clone(), secret);
            server = Server::new(config, hello.without_cookie(), [2; 32], now).ok();
            continue;
        };
        let result = if datagram.is_empty() {
            now = server.deadline().map_or(now, |deadline| deadline.at);
            server.handle_timeout(now)
        } else {
            server.received(&mut datagram, now)
        };
        while let Some(sent) = server.poll() {
            assert!(!sent.is_empty() && sent.len() <= MTU);
        }
        connection = server.established();
        run.established = connection.is_some();
        assert_eq!(result.is_err(), server.handle_timeout(now).is_err());
    }
    run
}

impl Run {
    fn opened(&mut self, connection: &mut Established, datagram: &mut [u8]) {
        let mut at = 0;
        while at < datagram.len() {
            let record = connection.open.open(&mut datagram[at..]);
            assert!(record.consumed > 0 && record.consumed <= datagram.len() - at);
            match record.content {
                Content::Data { range, .. } => self.data.push(datagram[at..][range].to_vec()),
                Content::Closed => self.closed = true,
                Content::Retransmission | Content::Discarded(_) => {}
            }
            at += record.consumed;
        }
    }
}

/// One datagram to a listener.
pub fn dtls_peek(data: &[u8]) {
    for length in [0, 4, ID] {
        match peek(data, length) {
            Peek::Hello(hello) => {
                assert!(hello.session_id().len() <= 32 && hello.cookie().len() <= 255);
                let cookies = dtls::Cookies::new([3; 32]);
                if let dtls::CookieCheck::Ask(request) = cookies.check(&hello, b"source") {
                    assert!(request.len() <= data.len());
                }
            }
            Peek::Identified(id) => assert_eq!(id.as_bytes().len(), length),
            Peek::Record { .. } | Peek::Foreign => {}
        }
    }
}

thread_local! {
    /// Connections for [`dtls_open`], by suite and id. A handshake costs as much as fifty records.
    static CONNECTIONS: RefCell<BTreeMap<u8, (SealHalf, OpenHalf)>> = const { RefCell::new(BTreeMap::new()) };
}

/// Records to both ends of an established connection: strangers' ones, true ones, changed ones and old ones. A connection
/// serves many inputs, unless one has used up a part of its numbers.
pub fn dtls_open(data: &[u8]) {
    let (first, rest) = data.split_first().unwrap_or((&0, &[]));
    let which = first % 3 + 3 * u8::from(first & 4 == 0);
    let known = CONNECTIONS.with_borrow_mut(|known| known.remove(&which));
    let (mut seal, mut open) = known.unwrap_or_else(|| connection(Suite::ALL[usize::from(first % 3)], first & 4 == 0));
    let mut fresh = true;
    let mut last = None;
    for mut step in datagrams(rest) {
        let operation = step.pop().unwrap_or(0);
        match operation % 5 {
            0 => assert!(!is_data(&mut open, &mut step)),
            1 => {
                let record = sealed(&mut seal, &step);
                assert_eq!(opened(&mut open, &record).as_deref(), Some(&step[..]));
                last = Some(record);
            }
            2 => {
                let record = sealed(&mut seal, &step);
                let mut changed = record.clone();
                let place = step.iter().fold(0, |sum, byte| sum + usize::from(*byte)) % record.len();
                changed[place] ^= operation | 1;
                assert!(!is_data(&mut open, &mut changed));
                assert_eq!(opened(&mut open, &record).as_deref(), Some(&step[..]));
            }
            3 => {
                if let Some(record) = &mut last {
                    let content = open.open(&mut record.clone()).content;
                    assert_eq!(content, Content::Discarded(Discard::Replayed));
                }
            }
            _ => {
                let by = step.iter().fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
                let _ = seal.skip(by % (1 << 40));
                fresh = false;
            }
        }
    }
    if fresh && !seal.is_worn() {
        CONNECTIONS.with_borrow_mut(|known| known.insert(which, (seal, open)));
    }
}

fn is_data(open: &mut OpenHalf, datagram: &mut [u8]) -> bool {
    let length = datagram.len();
    let record = open.open(datagram);
    assert!(record.consumed <= length && (record.consumed > 0 || length == 0));
    matches!(record.content, Content::Data { .. } | Content::Closed)
}

fn opened(open: &mut OpenHalf, record: &[u8]) -> Option<Vec<u8>> {
    let mut record = record.to_vec();
    match open.open(&mut record).content {
        Content::Data { range, .. } => Some(record[range].to_vec()),
        Content::Retransmission | Content::Closed | Content::Discarded(_) => None,
    }
}

fn sealed(seal: &mut SealHalf, text: &[u8]) -> Vec<u8> {
    let mut record = vec![0; seal.prefix()];
    record.extend(text.iter().take(1 << 14));
    record.resize(record.len() + seal.suffix(), 0);
    seal.seal(&mut record).expect("a young key");
    record
}

/// The first flights of a client and a server.
fn started(suite: Suite, ids: bool) -> (Client, Server) {
    let now = Awake::default();
    let mut client = new_client(vec![suite], true, ids, now);
    let hello = client.poll().expect("a hello");
    let Peek::Hello(hello) = peek(&hello, ID) else {
        panic!("no hello");
    };
    let config = server_config(vec![suite], true);
    let server = Server::new(config, hello.without_cookie(), [2; 32], now).expect("a good hello");
    (client, server)
}

/// What the client seals with, and what the server opens with.
fn connection(suite: Suite, ids: bool) -> (SealHalf, OpenHalf) {
    let now = Awake::default();
    let (mut client, mut server) = started(suite, ids);
    let mut flight = server.poll().expect("a flight");
    client.received(&mut flight, now).expect("a good server");
    let mut flight = client.poll().expect("a flight");
    server.received(&mut flight, now).expect("a good client");
    let mut flight = server.poll().expect("a flight");
    client.received(&mut flight, now).expect("a good server");
    let client = client.established().expect("complete");
    (client.seal, server.established().expect("complete").open)
}

/// Pieces of a server's flight in any order, each three bytes of the input; then the flight. The client says what it always
/// says.
pub fn dtls_reassembly(data: &[u8]) {
    let now = Awake::default();
    let (mut client, mut server) = started(Suite::Aes128GcmSha256, true);
    let flight = server.poll().expect("a flight");
    let mut pieces: Vec<_> = data.chunks_exact(3).map(|cut| piece(&flight, cut)).collect();
    pieces.push(flight.clone());
    let mut said = Vec::new();
    for mut datagram in pieces {
        client.received(&mut datagram, now).expect("pieces of a good flight");
        said.extend(std::iter::from_fn(|| client.poll()));
    }
    let (mut plain, mut flight) = (started(Suite::Aes128GcmSha256, true).0, flight);
    plain.received(&mut flight, now).expect("a good server");
    assert_eq!(said, [plain.poll().expect("a flight")]);
}

/// The fragment of one of the messages of a flight that three bytes stand for.
fn piece(flight: &[u8], cut: &[u8]) -> Vec<u8> {
    let mut record = flight;
    if cut[0] % 2 == 1 {
        record = &flight[13 + usize::from(u16::from_be_bytes([flight[11], flight[12]]))..];
    }
    let end = 13 + usize::from(u16::from_be_bytes([record[11], record[12]]));
    let (header, body) = (&record[13..25], &record[25..end]);
    let start = usize::from(cut[1]).min(body.len());
    let part = usize::from(cut[2]).min(body.len() - start);
    let mut piece = record[..11].to_vec();
    piece.extend(u16::try_from(part + 12).expect("short").to_be_bytes());
    piece.extend(&header[..6]);
    piece.extend([0, 0, u8::try_from(start).expect("short"), 0, 0]);
    piece.push(u8::try_from(part).expect("short"));
    piece.extend(&body[start..start + part]);
    piece
}
