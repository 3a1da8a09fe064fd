//! Sealing and opening a record of 1,400 bytes, against the AEAD alone. The goal is 1.15 at most.

use std::hint::black_box;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use bench::Comparison;
use dtls::{
    Client, ClientConfig, ConnectionId, Content, Established, OpenHalf, Peek, Psk, SealHalf, Server, ServerConfig,
    Suite, peek,
};
use now::Awake;

/// The plaintext of a full-size packet.
const LENGTH: usize = 1400;

const TAG: usize = 16;

fn main() {
    println!("seal and open of {LENGTH} bytes, median of one call");
    for suite in Suite::ALL {
        for ids in [false, true] {
            let comparison = Comparison::measure(record(suite, ids), bare(suite));
            println!(
                "{:38} {:11} record {:5} ns, aead {:5} ns, ratio {:.3}",
                suite.name(),
                if ids { "with id" } else { "without id" },
                comparison.ours.as_nanos(),
                comparison.bare.as_nanos(),
                comparison.ratio(),
            );
        }
    }
}

/// One record from end to end.
fn record(suite: Suite, ids: bool) -> impl FnMut() {
    let (mut seal, mut open) = halves(suite, ids);
    let (prefix, overhead) = (seal.prefix(), seal.overhead());
    let mut buffer = vec![0; LENGTH + overhead];
    move || {
        if seal.is_worn() {
            (seal, open) = halves(suite, ids);
        }
        seal.seal(black_box(&mut buffer)).expect("a young key");
        let record = open.open(black_box(&mut buffer));
        let Content::Data { range, newest: true } = record.content else {
            panic!("{record:?}");
        };
        assert_eq!(range, prefix..prefix + LENGTH);
    }
}

/// The same bytes through the AEAD, with 13 bytes of additional data.
fn bare(suite: Suite) -> impl FnMut() {
    let algorithm = match suite {
        Suite::Aes128GcmSha256 => &aead::AES_128_GCM,
        Suite::Aes256GcmSha384 => &aead::AES_256_GCM,
        Suite::Chacha20Poly1305Sha256 => &aead::CHACHA20_POLY1305,
    };
    let key = || LessSafeKey::new(UnboundKey::new(algorithm, &vec![7; algorithm.key_len()]).expect("its length"));
    // Two keys, as the two ends have.
    let (seal, open) = (key(), key());
    let mut buffer = vec![0; LENGTH + TAG];
    let mut sequence = 0u64;
    move || {
        sequence += 1;
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&sequence.to_be_bytes());
        let (text, tag) = black_box(&mut buffer).split_at_mut(LENGTH);
        seal.seal_in_place_scatter(Nonce::assume_unique_for_key(nonce), Aad::from([7; 13]), text, &[], tag)
            .expect("it fits");
        let opened = open.open_in_place(
            Nonce::assume_unique_for_key(nonce),
            Aad::from([7; 13]),
            black_box(&mut buffer),
        );
        assert_eq!(opened.expect("authentic").len(), LENGTH);
    }
}

/// The sealing half of a client and the opening half of its server.
fn halves(suite: Suite, ids: bool) -> (SealHalf, OpenHalf) {
    let now = Awake::default();
    let psk = Psk::new(&[7; 32]).expect("32 bytes");
    let mut client = Client::new(
        ClientConfig {
            psk: psk.clone(),
            identity: b"psk".to_vec(),
            session_id: Vec::new(),
            suites: vec![suite],
            extended_master_secret: true,
            connection_ids: ids,
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
        suites: vec![suite],
        extended_master_secret: true,
        connection_id: ConnectionId::new(&[9; 8]),
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
