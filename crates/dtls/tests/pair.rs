//! A client and a listening server over a network that loses, delays, reorders and duplicates, in virtual time from one seed.

mod net;

use dtls::{Error, Suite};
use net::{Config, Loss, Outcome, Pair};

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
