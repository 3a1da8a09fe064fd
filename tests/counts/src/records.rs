//! Sealing and opening a record of 1,400 bytes, and the same bytes through the AEAD alone.

use std::hint::black_box;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use dtls::{
    Client, ClientConfig, ConnectionId, Content, Established, OpenHalf, Peek, Psk, SealHalf, Server, ServerConfig,
    Suite, peek,
};
use now::Awake;

/// The plaintext of a full-size packet.
pub const LENGTH: usize = 1400;

const TAG: usize = 16;

/// What a record without connection id authenticates besides its contents (RFC 5246 section 6.2.3.3).
const PLAIN: usize = 13;

/// The same with an id of 8 bytes (RFC 9146 section 5.3).
const IDENTIFIED: usize = 31;

/// What records are like.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    /// The cipher suite.
    pub suite: Suite,
    /// Whether they carry connection ids, as between our own ends.
    pub ids: bool,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            suite: Suite::Aes128GcmSha256,
            ids: true,
        }
    }
}

/// Seals a record.
pub fn seal(tunnel: Tunnel) -> impl FnMut() {
    let (mut seal, _) = halves(tunnel);
    let mut buffer = vec![0; LENGTH + seal.overhead()];
    move || {
        if seal.is_worn() {
            (seal, _) = halves(tunnel);
        }
        seal.seal(black_box(&mut buffer)).expect("a young key");
    }
}

/// One record from end to end.
pub fn record(tunnel: Tunnel) -> impl FnMut() {
    let (mut seal, mut open) = halves(tunnel);
    let (prefix, overhead) = (seal.prefix(), seal.overhead());
    let mut buffer = vec![0; LENGTH + overhead];
    move || {
        if seal.is_worn() {
            (seal, open) = halves(tunnel);
        }
        seal.seal(black_box(&mut buffer)).expect("a young key");
        let record = open.open(black_box(&mut buffer));
        let Content::Data { range, newest: true } = record.content else {
            panic!("{record:?}");
        };
        assert_eq!(range, prefix..prefix + LENGTH);
    }
}

/// What [`seal`] gives the AEAD, and nothing else.
pub fn bare_seal(tunnel: Tunnel) -> impl FnMut() {
    let mut bare = Bare::new(tunnel);
    move || bare.seal()
}

/// What [`record`] gives the AEAD, and nothing else.
pub fn bare_record(tunnel: Tunnel) -> impl FnMut() {
    let mut bare = Bare::new(tunnel);
    move || {
        bare.seal();
        bare.open();
    }
}

/// Two keys, as the two ends have, and the bytes.
struct Bare {
    seal: LessSafeKey,
    open: LessSafeKey,
    sequence: u64,
    additional: Vec<u8>,
    buffer: Vec<u8>,
}

impl Bare {
    fn new(tunnel: Tunnel) -> Self {
        let algorithm = match tunnel.suite {
            Suite::Aes128GcmSha256 => &aead::AES_128_GCM,
            Suite::Aes256GcmSha384 => &aead::AES_256_GCM,
            Suite::Chacha20Poly1305Sha256 => &aead::CHACHA20_POLY1305,
        };
        let key = || LessSafeKey::new(UnboundKey::new(algorithm, &vec![7; algorithm.key_len()]).expect("its length"));
        // The true type of a record with an id is sealed behind its contents.
        let (additional, text) = if tunnel.ids {
            (IDENTIFIED, LENGTH + 1)
        } else {
            (PLAIN, LENGTH)
        };
        Self {
            seal: key(),
            open: key(),
            sequence: 0,
            additional: vec![7; additional],
            buffer: vec![0; text + TAG],
        }
    }

    fn seal(&mut self) {
        self.sequence += 1;
        let nonce = self.nonce();
        let length = self.buffer.len() - TAG;
        let (text, tag) = black_box(&mut self.buffer).split_at_mut(length);
        self.seal
            .seal_in_place_scatter(nonce, Aad::from(&self.additional), text, &[], tag)
            .expect("it fits");
    }

    fn open(&mut self) {
        let nonce = self.nonce();
        let length = self.buffer.len() - TAG;
        let (text, tag) = black_box(&mut self.buffer).split_at_mut(length);
        self.open
            .open_in_place_separate_tag(nonce, Aad::from(&self.additional), tag, text)
            .expect("authentic");
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.sequence.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

/// The sealing half of a client and the opening half of its server.
fn halves(tunnel: Tunnel) -> (SealHalf, OpenHalf) {
    let now = Awake::default();
    let psk = Psk::new(&[7; 32]).expect("32 bytes");
    let mut client = Client::new(
        ClientConfig {
            psk: psk.clone(),
            identity: b"psk".to_vec(),
            session_id: Vec::new(),
            suites: vec![tunnel.suite],
            extended_master_secret: true,
            connection_ids: tunnel.ids,
            mtu: 1200,
        },
        [1; 32],
        now,
    );
    let hello = client.poll().expect("a hello");
    let Peek::Hello(hello) = peek(&hello, 8) else {
        panic!("no hello");
    };
    let config = ServerConfig {
        psk,
        suites: vec![tunnel.suite],
        extended_master_secret: true,
        connection_id: tunnel.ids.then(|| ConnectionId::new(&[9; 8])).flatten(),
        mtu: 1200,
    };
    let mut server = Server::new(config, hello.without_cookie(), [2; 32], now).expect("a good hello");
    loop {
        while let Some(mut datagram) = server.poll() {
            client.received(&mut datagram, now).expect("a good server");
        }
        if let (Some(client), Some(server)) = (client.established(), server.established()) {
            let Established { seal, .. } = client;
            return (seal, server.open);
        }
        while let Some(mut datagram) = client.poll() {
            server.received(&mut datagram, now).expect("a good client");
        }
    }
}
