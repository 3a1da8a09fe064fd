//! Noise, and real datagrams with changes: nothing panics, and nothing but the true peer is ever established.

mod net;

use std::time::Duration;

use dtls::{ConnectionId, Error, Peek, Suite, peek};
use net::{Config, Dice, Loss, Outcome, Pair, To};
use proptest::prelude::*;

fn direction() -> impl Strategy<Value = To> {
    prop_oneof![Just(To::Client), Just(To::Server)]
}

/// A record with a sensible header and any contents.
fn record() -> impl Strategy<Value = Vec<u8>> {
    let content = prop_oneof![Just(20u8), Just(21), Just(22), Just(23), Just(25), any::<u8>()];
    let body = prop::collection::vec(any::<u8>(), 0..80);
    (content, 0u8..3, any::<[u8; 6]>(), body).prop_map(|(content, epoch, sequence, body)| {
        let mut record = vec![content, 0xfe, 0xfd, 0, epoch];
        record.extend(sequence);
        record.extend([0, u8::try_from(body.len()).expect("short")]);
        record.extend(body);
        record
    })
}

/// A fragment with a sensible header and any contents, in a record of epoch 0.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        Just(1u8),
        Just(2),
        Just(3),
        Just(12),
        Just(14),
        Just(16),
        Just(20),
        any::<u8>()
    ];
    let body = prop::collection::vec(any::<u8>(), 0..80);
    (kind, 0u8..90, prop_oneof![0u16..4, any::<u16>()], 0u8..10, body).prop_map(
        |(kind, length, sequence, offset, body)| {
            let part = u8::try_from(body.len()).expect("short");
            let mut record = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, part + 12];
            record.extend([kind, 0, 0, length]);
            record.extend(sequence.to_be_bytes());
            record.extend([0, 0, offset, 0, 0, part]);
            record.extend(body);
            record
        },
    )
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    let any_bytes = prop::collection::vec(any::<u8>(), 0..120);
    prop_oneof![
        any_bytes,
        record(),
        fragment(),
        (record(), fragment()).prop_map(|(a, b)| [a, b].concat())
    ]
}

proptest! {
    #[test]
    fn noise_in_any_state_is_no_panic(
        steps in prop::collection::vec((direction(), noise(), 0usize..3), 0..24),
        ids in any::<bool>(),
    ) {
        let config = Config { connection_ids: ids, ..Config::default() };
        let mut pair = Pair::new(&config, 1);
        for (to, datagram, advance) in steps {
            (0..advance).for_each(|_| pair.advance());
            pair.deliver(to, datagram);
        }
        if pair.run() == Outcome::Established {
            pair.exchange_data();
        }
    }

    #[test]
    fn peek_takes_any_datagram(datagram in noise(), length in 0usize..20) {
        match peek(&datagram, length) {
            Peek::Hello(hello) => prop_assert!(hello.session_id().len() <= 32),
            Peek::Record { .. } | Peek::Foreign => {}
            Peek::Identified(id) => prop_assert_eq!(ConnectionId::new(id.as_bytes()), Some(id)),
        }
    }

    #[test]
    fn an_established_connection_opens_no_noise(datagrams in prop::collection::vec(noise(), 0..40)) {
        let mut pair = Pair::new(&Config::default(), 1);
        prop_assert_eq!(pair.run(), Outcome::Established);
        for datagram in datagrams {
            pair.deliver(To::Client, datagram.clone());
            pair.deliver(To::Server, datagram);
        }
        pair.exchange_data();
    }
}

/// A stranger who reads everything and changes one datagram in three can prevent a handshake, and nothing else.
#[test]
fn changed_datagrams_never_lead_to_a_wrong_connection() {
    let mut established = 0;
    for seed in 0..600 {
        let config = Config {
            suites: vec![Suite::ALL[(seed % 3) as usize]],
            extended_master_secret: seed % 2 == 0,
            connection_ids: seed % 5 == 0,
            changed: 33,
            loss: Loss {
                lost: 5,
                doubled: 10,
                reorder: true,
            },
            ..Config::default()
        };
        let mut pair = Pair::new(&config, seed);
        if pair.run() == Outcome::Established {
            established += 1;
            pair.exchange_data();
            let (client, server) = pair.facts();
            assert_eq!(client.suite, server.suite);
            assert_eq!(client.peer_connection_id, server.own_connection_id);
            assert_eq!(client.extended_master_secret, server.extended_master_secret);
            assert_eq!(
                client.extended_master_secret, config.extended_master_secret,
                "downgraded"
            );
        }
    }
    assert!(established > 60, "{established}");
}

/// Records replayed and reordered for a long time reach the reader once each.
#[test]
fn every_record_of_a_bad_network_is_read_at_most_once() {
    let mut pair = Pair::new(&Config::default(), 1);
    assert_eq!(pair.run(), Outcome::Established);
    let client = pair.client_end.as_mut().expect("established");
    let server = pair.server_end.as_mut().expect("established");
    let records: Vec<_> = (0..2000u32).map(|n| net::sealed(client, &n.to_be_bytes())).collect();
    let mut dice = Dice::new(3);
    let mut seen = vec![0; records.len()];
    for _ in 0..20_000 {
        let mut record = records[dice.below(2000) as usize].clone();
        if let dtls::Content::Data { range, .. } = server.open.open(&mut record).content {
            let n: [u8; 4] = record[range].try_into().expect("four bytes");
            seen[u32::from_be_bytes(n) as usize] += 1;
        }
    }
    assert!(seen.iter().all(|times| *times <= 1));
    assert!(seen.iter().sum::<u32>() > 1900);
}

#[test]
fn a_late_call_does_not_stop_a_handshake_before_it_was_given_up() {
    let mut pair = Pair::new(&Config::default(), 1);
    pair.collect();
    pair.take_flying();
    pair.now = pair.now.plus(Duration::from_secs(29));
    assert_eq!(pair.client.handle_timeout(pair.now), Ok(()));
    assert_eq!(pair.run(), Outcome::Established);
    let mut pair = Pair::new(&Config::default(), 1);
    pair.now = pair.now.plus(Duration::from_secs(30));
    assert_eq!(pair.client.handle_timeout(pair.now), Err(Error::TimedOut));
}
