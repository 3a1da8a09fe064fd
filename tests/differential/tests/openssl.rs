//! Our client with OpenSSL's server, and our server with OpenSSL's client, in one process: datagrams and single records arrive
//! in any order and twice, and both ends have the same keys in the end.
//!
//! ```text
//!   our Client or Server  <--->  in flight (any order, some twice)  <--->  Mailbox, libssl
//! ```
//! Nothing is lost, because the timers of libssl run by the clock of the system; ours run in virtual time. Each run follows
//! from its seed.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::Duration;

use dtls::{
    Client, ClientConfig, ConnectionId, Content, CookieCheck, Cookies, Error, Established, Peek, Psk, Server,
    ServerConfig, Suite, peek,
};
use now::{Awake, Deadline};
use openssl::ssl::{ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslStream, SslVersion};

/// Runs of each role.
const SEEDS: u64 = 200;

/// Things that happen in a run, at most; some dozen are usual.
const MAX_STEPS: usize = 5000;

/// `SSL_OP_NO_EXTENDED_MASTER_SECRET` of OpenSSL 3, which the crate does not name.
const NO_EXTENDED_MASTER_SECRET: u64 = 1;

const KEY: [u8; 32] = [7; 32];
const COOKIE: &[u8] = b"a cookie of the test";
const WORDS: [&[u8]; 4] = [b"one", b"two", b"three", &[4; 1000]];

#[test]
fn our_client_and_the_server_of_openssl_have_the_same_keys() {
    for seed in 0..SEEDS {
        Run::new(seed, Role::Client).finish();
    }
}

#[test]
fn our_server_and_the_client_of_openssl_have_the_same_keys() {
    for seed in 0..SEEDS {
        Run::new(seed, Role::Server).finish();
    }
}

/// Ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

/// What a seed stands for.
#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    suite: Suite,
    our_secret: bool,
    their_secret: bool,
    cookie: bool,
    /// Whether each record has a datagram of its own.
    single_records: bool,
    our_mtu: usize,
    their_mtu: u32,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        Self {
            seed,
            suite: Suite::ALL[dice.below(3)],
            our_secret: dice.below(4) > 0,
            their_secret: dice.below(4) > 0,
            cookie: dice.below(2) == 0,
            single_records: dice.below(2) == 0,
            our_mtu: [96, 200, 1200][dice.below(3)],
            // 256 is the least that libssl takes.
            their_mtu: [256, 1200][dice.below(2)],
        }
    }

    fn secret(self) -> bool {
        self.our_secret && self.their_secret
    }

    fn context(self, role: Role) -> SslContext {
        let mut context = SslContextBuilder::new(SslMethod::dtls()).expect("libssl has DTLS");
        context
            .set_min_proto_version(Some(SslVersion::DTLS1_2))
            .expect("it has 1.2");
        let suite = match self.suite {
            Suite::Aes128GcmSha256 => "PSK-AES128-GCM-SHA256",
            Suite::Aes256GcmSha384 => "PSK-AES256-GCM-SHA384",
            Suite::Chacha20Poly1305Sha256 => "PSK-CHACHA20-POLY1305",
        };
        context.set_cipher_list(suite).expect("it has the suite");
        context.set_options(SslOptions::NO_QUERY_MTU);
        if !self.their_secret {
            context.set_options(SslOptions::from_bits_retain(NO_EXTENDED_MASTER_SECRET));
        }
        match role {
            Role::Client => {
                context.set_psk_server_callback(|_, _, key| {
                    key[..KEY.len()].copy_from_slice(&KEY);
                    Ok(KEY.len())
                });
                if self.cookie {
                    context.set_options(SslOptions::COOKIE_EXCHANGE);
                    context.set_cookie_generate_cb(|_, cookie| {
                        cookie[..COOKIE.len()].copy_from_slice(COOKIE);
                        Ok(COOKIE.len())
                    });
                    context.set_cookie_verify_cb(|_, cookie| cookie == COOKIE);
                }
            }
            Role::Server => context.set_psk_client_callback(|_, _, identity, key| {
                identity[..4].copy_from_slice(b"psk\0");
                key[..KEY.len()].copy_from_slice(&KEY);
                Ok(KEY.len())
            }),
        }
        context.build()
    }
}

/// Chance from a seed (xorshift).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % limit as u64) as usize
    }
}

/// What libssl takes for a socket.
#[derive(Debug, Default)]
struct Mailbox {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

impl Read for Mailbox {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let datagram = self.received.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        assert!(datagram.len() <= buffer.len());
        buffer[..datagram.len()].copy_from_slice(&datagram);
        Ok(datagram.len())
    }
}

impl Write for Mailbox {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.sent.push_back(datagram.to_vec());
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Our end.
enum Ours {
    Listening,
    Client(Client),
    Server(Server),
    Established(Box<Established>),
}

struct Run {
    case: Case,
    role: Role,
    dice: Dice,
    now: Awake,
    in_flight: Vec<(To, Vec<u8>)>,
    ours: Ours,
    theirs: SslStream<Mailbox>,
    we_heard: Vec<Vec<u8>>,
    they_heard: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Us,
    Them,
}

impl Run {
    fn new(seed: u64, role: Role) -> Self {
        let case = Case::new(seed);
        let now = Awake::default();
        let mut ssl = Ssl::new(&case.context(role)).expect("a context is enough");
        ssl.set_mtu(case.their_mtu).expect("a lawful MTU");
        let ours = match role {
            Role::Client => {
                ssl.set_accept_state();
                Ours::Client(Client::new(client_config(case), [1; 32], now))
            }
            Role::Server => {
                ssl.set_connect_state();
                Ours::Listening
            }
        };
        Self {
            case,
            role,
            dice: Dice::new(!case.seed),
            now,
            in_flight: Vec::new(),
            ours,
            theirs: SslStream::new(ssl, Mailbox::default()).expect("memory"),
            we_heard: Vec::new(),
            they_heard: Vec::new(),
        }
    }

    /// Runs the handshake, compares what was agreed on, and exchanges data.
    fn finish(mut self) {
        self.collect();
        self.steps("the handshake", |run| {
            run.theirs.ssl().is_init_finished() && matches!(run.ours, Ours::Established(_))
        });
        let Ours::Established(end) = &mut self.ours else {
            unreachable!("just seen");
        };
        let cipher = self.theirs.ssl().current_cipher().expect("a handshake was completed");
        assert_eq!(cipher.standard_name(), Some(self.case.suite.name()));
        assert_eq!(end.facts.suite, self.case.suite);
        assert_eq!(end.facts.extended_master_secret, self.case.secret(), "{:?}", self.case);
        self.we_heard.append(&mut end.facts.early);
        for word in WORDS {
            let mut record = vec![0; end.seal.prefix()];
            record.extend(word);
            record.resize(record.len() + end.seal.suffix(), 0);
            end.seal.seal(&mut record).expect("a young key");
            self.in_flight.push((To::Them, record));
            self.theirs.ssl_write(word).expect("an established connection");
        }
        self.collect();
        self.steps("the data", |run| {
            run.we_heard.len() >= WORDS.len() && run.they_heard.len() >= WORDS.len()
        });
        // And late copies are nothing new.
        while self.deliver() {}
        let mut words = WORDS.map(<[u8]>::to_vec);
        words.sort();
        for heard in [&mut self.we_heard, &mut self.they_heard] {
            heard.sort();
            assert_eq!(*heard, words, "{:?}", self.case);
        }
    }

    fn steps(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..MAX_STEPS {
            if done(self) {
                return;
            }
            if !self.deliver() {
                self.expire();
                self.collect();
            }
        }
        panic!("{what} of {:?} does not end: {:?}", self.role, self.case);
    }

    /// Any datagram arrives, one in five not for the last time.
    fn deliver(&mut self) -> bool {
        if self.in_flight.is_empty() {
            return false;
        }
        let at = self.dice.below(self.in_flight.len());
        let (to, datagram) = if self.dice.below(5) == 0 {
            self.in_flight[at].clone()
        } else {
            self.in_flight.swap_remove(at)
        };
        self.now = self.now.plus(Duration::from_millis(1));
        match to {
            To::Us => self.receive(datagram),
            To::Them => self.theirs.get_mut().received.push_back(datagram),
        }
        self.collect();
        true
    }

    /// Our next deadline comes.
    fn expire(&mut self) {
        let deadline = |deadline: Option<Deadline>| deadline.expect("something is awaited").at;
        let result = match &mut self.ours {
            Ours::Client(client) => {
                self.now = self.now.max(deadline(client.deadline()));
                client.handle_timeout(self.now)
            }
            Ours::Server(server) => {
                self.now = self.now.max(deadline(server.deadline()));
                server.handle_timeout(self.now)
            }
            Ours::Listening | Ours::Established(_) => panic!("libssl is stuck: {:?} {:?}", self.role, self.case),
        };
        self.no_error(result);
    }

    fn no_error(&self, result: Result<(), Error>) {
        assert_eq!(result, Ok(()), "{:?} {:?}", self.role, self.case);
    }

    fn receive(&mut self, mut datagram: Vec<u8>) {
        match &mut self.ours {
            Ours::Client(client) => {
                let result = client.received(&mut datagram, self.now);
                self.no_error(result);
            }
            Ours::Server(server) => {
                let result = server.received(&mut datagram, self.now);
                self.no_error(result);
            }
            Ours::Listening => self.listen(&datagram),
            Ours::Established(end) => {
                let mut at = 0;
                while at < datagram.len() {
                    let record = end.open.open(&mut datagram[at..]);
                    match record.content {
                        Content::Data { range, .. } => self.we_heard.push(datagram[at..][range].to_vec()),
                        Content::Retransmission => {
                            let again = end.tail.resend(self.now).to_vec();
                            self.in_flight
                                .extend(again.into_iter().map(|datagram| (To::Them, datagram)));
                        }
                        Content::Closed => panic!("libssl closed: {:?}", self.case),
                        Content::Discarded(_) => {}
                    }
                    at += record.consumed;
                }
            }
        }
    }

    fn listen(&mut self, datagram: &[u8]) {
        let Peek::Hello(hello) = peek(datagram, 8) else {
            return;
        };
        let proven = match Cookies::new([5; 32]).check(&hello, b"source") {
            CookieCheck::Proven(proven) => proven,
            CookieCheck::Ask(request) if self.case.cookie => return self.in_flight.push((To::Them, request)),
            CookieCheck::Ask(_) => hello.without_cookie(),
        };
        let config = ServerConfig {
            psk: psk(),
            suites: Suite::ALL.to_vec(),
            extended_master_secret: self.case.our_secret,
            connection_id: ConnectionId::new(&[9; 8]),
            mtu: self.case.our_mtu,
        };
        let server = Server::new(config, proven, [2; 32], self.now).expect("a hello of libssl is good");
        self.ours = Ours::Server(server);
    }

    /// Lets libssl work, and takes what both ends send.
    fn collect(&mut self) {
        if !self.theirs.ssl().is_init_finished() {
            self.go_on();
        }
        if self.theirs.ssl().is_init_finished() {
            self.hear();
        }
        let mut sent: Vec<_> = self
            .theirs
            .get_mut()
            .sent
            .drain(..)
            .map(|datagram| (To::Us, datagram))
            .collect();
        let established = match &mut self.ours {
            Ours::Client(client) => {
                sent.extend(std::iter::from_fn(|| client.poll()).map(|datagram| (To::Them, datagram)));
                client.established()
            }
            Ours::Server(server) => {
                sent.extend(std::iter::from_fn(|| server.poll()).map(|datagram| (To::Them, datagram)));
                server.established()
            }
            Ours::Listening | Ours::Established(_) => None,
        };
        if let Some(end) = established {
            self.ours = Ours::Established(Box::new(end));
        }
        for (to, datagram) in sent {
            if self.case.single_records {
                self.in_flight
                    .extend(records(&datagram).map(|record| (to, record.to_vec())));
            } else {
                self.in_flight.push((to, datagram));
            }
        }
    }

    fn go_on(&mut self) {
        match self.theirs.do_handshake() {
            Ok(()) => {}
            Err(error) if error.code() == ErrorCode::WANT_READ => {}
            Err(error) => panic!("{error}: {:?} {:?}", self.role, self.case),
        }
    }

    fn hear(&mut self) {
        let mut buffer = [0; 1 << 14];
        loop {
            match self.theirs.ssl_read(&mut buffer) {
                Ok(length) => self.they_heard.push(buffer[..length].to_vec()),
                Err(error) if error.code() == ErrorCode::WANT_READ => break,
                Err(error) => panic!("{error}: {:?} {:?}", self.role, self.case),
            }
        }
    }
}

fn client_config(case: Case) -> ClientConfig {
    ClientConfig {
        psk: psk(),
        identity: b"psk".to_vec(),
        session_id: b"app-id of thirty-two whole bytes".to_vec(),
        suites: Suite::ALL.to_vec(),
        extended_master_secret: case.our_secret,
        connection_ids: true,
        mtu: case.our_mtu,
    }
}

fn psk() -> Psk {
    Psk::new(&KEY).expect("32 bytes")
}

/// The records of a datagram.
fn records(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let header = rest.get(..13)?;
        let length = usize::from(u16::from_be_bytes([header[11], header[12]]));
        let (record, behind) = rest.split_at(13 + length);
        rest = behind;
        Some(record)
    })
}
