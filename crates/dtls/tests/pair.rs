//! A client and a listening server over a network that loses, delays, reorders and duplicates, in virtual time from one seed.

mod net;

use std::time::Duration;

use dtls::{Content, Discard, Error, HANDSHAKE_LIMIT, Incompatibility, MAX_EARLY_RECORDS, Misbehaviour, Suite};
use net::{Config, Loss, Outcome, Pair, To};

/// Every combination of suite, extended master secret, cookie and connection id.
fn every_config() -> impl Iterator<Item = Config> {
    let bools = [false, true];
    Suite::ALL.into_iter().flat_map(move |suite| {
        bools.into_iter().flat_map(move |secret| {
            bools.into_iter().flat_map(move |cookie| {
                bools.into_iter().map(move |ids| Config {
                    suites: vec![suite],
                    extended_master_secret: secret,
                    cookies: cookie,
                    connection_ids: ids,
                    ..Config::default()
                })
            })
        })
    })
}

#[test]
fn every_suite_with_and_without_every_extension_and_cookie_is_established() {
    for config in every_config() {
        let mut pair = Pair::new(&config, 1);
        assert_eq!(pair.run(), Outcome::Established, "{config:?}");
        pair.exchange_data();
        let (client, server) = pair.facts();
        assert_eq!(client.suite, config.suites[0]);
        assert_eq!(server.suite, client.suite);
        assert_eq!(client.extended_master_secret, config.extended_master_secret);
        assert_eq!(server.extended_master_secret, config.extended_master_secret);
        assert_eq!(client.peer_connection_id.is_some(), config.connection_ids);
        assert_eq!(client.peer_connection_id, server.own_connection_id);
        assert_eq!((client.own_connection_id, server.peer_connection_id), (None, None));
    }
}

/// Runs many seeds and counts those that are established. Data goes both ways after each.
fn established(runs: u64, config: &Config) -> u64 {
    (0..runs)
        .filter(|seed| {
            let mut pair = Pair::new(&vary(config, *seed), *seed);
            match pair.run() {
                Outcome::Established => {
                    pair.exchange_data();
                    true
                }
                Outcome::Failed(error) => {
                    assert_eq!(error, Error::TimedOut, "seed {seed}");
                    false
                }
            }
        })
        .count() as u64
}

/// Another suite, extension, cookie and datagram size with each seed.
fn vary(config: &Config, seed: u64) -> Config {
    Config {
        suites: vec![Suite::ALL[(seed % 3) as usize]],
        extended_master_secret: (seed / 3).is_multiple_of(2),
        cookies: (seed / 6).is_multiple_of(2),
        connection_ids: (seed / 12).is_multiple_of(2),
        server_mtu: if (seed / 24).is_multiple_of(4) { 96 } else { 1200 },
        pieces: (seed / 96).is_multiple_of(4).then_some(20),
        ..config.clone()
    }
}

fn lossy(lost: u64) -> Config {
    Config {
        loss: Loss {
            lost,
            doubled: 10,
            reorder: true,
        },
        ..Config::default()
    }
}

/// 10,000 runs in all with `MARMOT_LONG`, 2,000 without.
#[expect(clippy::disallowed_methods, reason = "the long run is asked for in the environment")]
fn runs() -> u64 {
    if std::env::var_os("MARMOT_LONG").is_some() {
        5000
    } else {
        1000
    }
}

#[test]
fn every_handshake_survives_the_loss_of_one_datagram_in_ten() {
    assert_eq!(established(runs(), &lossy(10)), runs());
}

#[test]
fn of_a_thousand_handshakes_five_may_fail_at_thirty_percent_loss() {
    let good = established(runs(), &lossy(30));
    assert!(good * 1000 >= runs() * 995, "{good} of {}", runs());
}

#[test]
fn another_key_is_never_established() {
    for extended_master_secret in [false, true] {
        let config = Config {
            server_psk: [8; 32],
            extended_master_secret,
            ..Config::default()
        };
        let mut pair = Pair::new(&config, 1);
        assert_eq!(pair.run(), Outcome::Failed(Error::TimedOut));
        assert!(pair.client_end.is_none() && pair.server_end.is_none());
        let server = pair.server.expect("a server");
        assert!(server.discarded().total() > 0 || extended_master_secret);
    }
}

#[test]
fn a_server_that_knows_less_decides() {
    let config = Config {
        server_suites: vec![Suite::Chacha20Poly1305Sha256],
        server_secret: false,
        ..Config::default()
    };
    let mut pair = Pair::new(&config, 1);
    assert_eq!(pair.run(), Outcome::Established);
    let (client, server) = pair.facts();
    assert_eq!((client.suite, client.extended_master_secret), (server.suite, false));
    assert_eq!(client.suite, Suite::Chacha20Poly1305Sha256);
}

#[test]
fn without_a_common_suite_there_is_no_server() {
    let config = Config {
        suites: vec![Suite::Aes128GcmSha256],
        server_suites: vec![Suite::Aes256GcmSha384],
        ..Config::default()
    };
    let mut pair = Pair::new(&config, 1);
    assert_eq!(pair.run(), Outcome::Failed(Error::TimedOut));
    assert_eq!(
        pair.server_error,
        Some(Error::PeerIncompatible(Incompatibility::NoCommonSuite))
    );
}

/// Runs a handshake up to the last datagram of the server, which is returned and did not arrive.
fn up_to_the_end(config: &Config) -> (Pair, Vec<u8>) {
    let mut pair = Pair::new(config, 1);
    while pair.server_end.is_none() {
        pair.advance();
    }
    let last = pair.take_flying().pop().expect("a last flight");
    (pair, last)
}

/// ChangeCipherSpec and Finished of the last flight of a server.
fn split(last: &[u8]) -> (Vec<u8>, Vec<u8>) {
    (last[..14].to_vec(), last[14..].to_vec())
}

#[test]
fn finished_and_data_that_come_before_change_cipher_spec_are_kept() {
    let (mut pair, last) = up_to_the_end(&Config::default());
    let (change, finished) = split(&last);
    let server = pair.server_end.as_mut().expect("established");
    let (one, two) = (net::sealed(server, b"one"), net::sealed(server, b"two"));
    for datagram in [one, finished, change] {
        pair.deliver(To::Client, datagram);
    }
    let mut end = pair.client.established().expect("established");
    assert_eq!(end.facts.early, [b"one"]);
    assert!(pair.client.established().is_none(), "only once");
    let content = end.open.open(&mut two.clone()).content;
    assert!(matches!(content, Content::Data { newest: true, .. }));
}

#[test]
fn data_between_change_cipher_spec_and_finished_and_before_the_hand_over_is_kept() {
    let (mut pair, last) = up_to_the_end(&Config::default());
    let (change, finished) = split(&last);
    let server = pair.server_end.as_mut().expect("established");
    let early: Vec<_> = (0..40).map(|_| net::sealed(server, b"early")).collect();
    let late = net::sealed(server, b"late");
    pair.deliver(To::Client, change);
    early
        .into_iter()
        .for_each(|datagram| pair.deliver(To::Client, datagram));
    pair.deliver(To::Client, [finished, late].concat());
    let facts = pair.client.established().expect("established").facts;
    assert_eq!(facts.early, vec![b"early"; MAX_EARLY_RECORDS]);
    assert!(pair.client.discarded().count(Discard::OverLimit) > 0);
}

#[test]
fn a_client_flight_that_comes_backwards_is_understood() {
    let mut pair = Pair::new(&Config::default(), 1);
    while !pair
        .log
        .iter()
        .any(|(to, datagram)| *to == To::Server && datagram[13] == 16)
    {
        pair.advance();
    }
    let flight = pair.take_flying().pop().expect("the last flight of the client");
    let mut records = net::pieces(&flight, 1000);
    assert_eq!(records.len(), 3);
    records.reverse();
    records.into_iter().for_each(|record| pair.deliver(To::Server, record));
    assert_eq!(pair.run(), Outcome::Established);
    pair.exchange_data();
}

#[test]
fn an_alert_of_epoch_0_ends_nothing() {
    let alert = vec![21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 40];
    let mut pair = Pair::new(&Config::default(), 1);
    while pair.server_end.is_none() {
        pair.deliver(To::Client, alert.clone());
        pair.deliver(To::Server, alert.clone());
        pair.advance();
    }
    assert_eq!(pair.run(), Outcome::Established);
    assert_eq!(pair.client.unproven_alert(), Some(40));
    let client = pair.client_end.as_mut().expect("established");
    let content = client.open.open(&mut alert.clone()).content;
    assert_eq!(content, Content::Discarded(Discard::Alert));
}

#[test]
fn a_sealed_alert_before_finished_ends_the_handshake() {
    let (mut pair, last) = up_to_the_end(&Config::default());
    let (change, _) = split(&last);
    let close = pair.server_end.as_mut().expect("established").seal.seal_close();
    pair.deliver(To::Client, change);
    let result = pair.client.received(&mut close.expect("a young key"), pair.now);
    assert_eq!(result, Err(Error::Closed));
}

/// A stranger on the path changes one byte of the session id.
fn tampered(extended_master_secret: bool) -> Pair {
    let config = Config {
        cookies: false,
        extended_master_secret,
        ..Config::default()
    };
    let mut pair = Pair::new(&config, 1);
    pair.collect();
    for mut hello in pair.take_flying() {
        hello[13 + 12 + 2 + 32 + 1] ^= 0x20;
        pair.session_id[0] ^= 0x20;
        pair.deliver(To::Server, hello);
    }
    assert_eq!(pair.run(), Outcome::Failed(Error::TimedOut));
    assert!(pair.client_end.is_none() && pair.server_end.is_none());
    pair
}

#[test]
fn a_changed_hello_is_found_by_finished() {
    let pair = tampered(false);
    let mismatch = Error::PeerMisbehaved(Misbehaviour::FinishedMismatch);
    assert_eq!(pair.server_error, Some(mismatch));
    assert_eq!(pair.client.unproven_alert(), Some(51));
}

#[test]
fn a_changed_hello_gives_other_keys_with_the_extended_master_secret() {
    let pair = tampered(true);
    assert_eq!(pair.server_error, Some(Error::TimedOut));
    assert!(pair.server.expect("a server").deadline().is_none());
}

#[test]
fn a_repeated_last_flight_of_the_client_is_answered_and_not_too_often() {
    let mut pair = Pair::new(&Config::default(), 1);
    assert_eq!(pair.run(), Outcome::Established);
    let flight = pair
        .log
        .iter()
        .rfind(|(to, _)| *to == To::Server)
        .expect("a flight")
        .1
        .clone();
    let answers = |pair: &Pair| pair.log.iter().filter(|(to, _)| *to == To::Client).count();
    let before = answers(&pair);
    for _ in 0..200 {
        pair.now = pair.now.plus(Duration::from_millis(25));
        pair.deliver(To::Server, flight.clone());
    }
    assert_eq!(answers(&pair) - before, 16);
    pair.deliver(To::Client, pair.log.last().expect("an answer").1.clone());
    pair.exchange_data();
}

#[test]
fn a_silent_server_is_given_up_after_30_s_of_waking_time() {
    let config = Config {
        loss: Loss {
            lost: 100,
            ..Loss::default()
        },
        ..Config::default()
    };
    let mut pair = Pair::new(&config, 1);
    let began = pair.now;
    assert_eq!(pair.run(), Outcome::Failed(Error::TimedOut));
    assert_eq!(pair.now.since(began), HANDSHAKE_LIMIT);
    assert_eq!(pair.log.len(), 11);

    let mut pair = Pair::new(&config, 1);
    pair.client.rebase(Duration::from_secs(3600));
    assert_eq!(pair.run(), Outcome::Failed(Error::TimedOut));
    assert_eq!(pair.now.since(began), HANDSHAKE_LIMIT + Duration::from_secs(3600));
}

#[test]
fn a_gap_in_the_sequence_is_no_loss() {
    let mut pair = Pair::new(&Config::default(), 1);
    assert_eq!(pair.run(), Outcome::Established);
    let client = pair.client_end.as_mut().expect("established");
    let old = net::sealed(client, b"withheld");
    client.seal.skip(1 << 36).expect("far from the end");
    pair.exchange_data();
    let server = pair.server_end.as_mut().expect("established");
    let content = server.open.open(&mut old.clone()).content;
    assert_eq!(content, Content::Discarded(Discard::Replayed));
}
