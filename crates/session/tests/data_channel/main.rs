//! Both ends of the data channel, told as stories in virtual time.
#![allow(clippy::disallowed_macros, reason = "a test prints its figures")]

mod net;
mod no_allocation;
mod sleeping;

use std::time::Duration;

use net::{DELAY, Net};
use packet::{Batch, Ecn};
use session::client::{Renewal, RenewalBy};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

#[test]
fn packets_take_the_data_channel_both_ways() {
    for ours in [true, false] {
        let mut net = Net::new(ours);
        net.up();
        assert!(net.up_packet(b"there") && net.down_packet(b"and back"));
        net.run(S);
        assert_eq!(net.at_gateway, [b"there"]);
        assert_eq!(net.at_client, [b"and back"]);
        assert_eq!(net.told[0], format!("client up TLS_PSK_WITH_AES_128_GCM_SHA256 {ours}"));
    }
}

#[test]
fn datagrams_have_the_mark_of_their_packets_only_where_the_other_end_takes_it_over() {
    for ours in [true, false] {
        let mut net = Net::new(ours);
        net.up();
        for ecn in Ecn::ALL {
            let expected = if ours { ecn } else { Ecn::NotEct };
            assert_eq!((net.client.outer(ecn), net.gateway.outer(ecn)), (expected, expected));
            let mut batch = Batch::default();
            assert!(net.client.seal((20, ecn), &mut batch, |_| {}, net.now).is_some());
            assert_eq!(batch.ecn(), expected);
            let mut batch = Batch::default();
            assert!(net.gateway.seal((20, ecn), &mut batch, |_| {}, net.now).is_some());
            assert_eq!(batch.ecn(), expected);
        }
    }
}

#[test]
fn a_handshake_takes_three_round_trips() {
    let mut net = Net::new(true);
    // Hello and cookie, hello and flight, finished and finished.
    net.run(DELAY * 6 + MS);
    assert!(net.client.path().is_some());
    net.run(DELAY + MS);
    assert!(net.gateway.is_up(), "the first probe is what the gateway waits for");
}

#[test]
fn a_blocked_path_is_left_within_three_seconds_and_found_again() {
    let mut net = Net::new(true);
    net.up();
    net.run(10 * S);
    net.blocked = true;
    let mut lost = 0;
    while net.up_packet(b"x") {
        lost += 1;
        net.run(10 * MS);
        assert!(lost <= 300, "3 s at 100 packets a second: {:?}", net.told);
    }
    println!("{lost} packets at 10 ms went into the dead path");
    // Nothing gets through for minutes: packets take the control channel, handshakes are tried now and then.
    net.run(300 * S);
    assert!(net.client.path().is_none());
    net.blocked = false;
    let mut waited = Duration::ZERO;
    while net.client.path().is_none() {
        net.run(S / 10);
        waited += S / 10;
        assert!(waited < 35 * S, "{:?}", net.told);
    }
    println!("back {waited:?} after the path was");
    net.up();
}

#[test]
fn a_path_that_dies_without_a_word_is_repaired_from_a_fresh_socket() {
    let mut net = Net::new(false);
    net.up();
    net.run(10 * S);
    // A mapping is gone: the old path is dead, a new one is not.
    net.sockets.clear();
    let began = net.clock();
    while net.at_gateway.is_empty() {
        net.up_packet(b"x");
        net.run(10 * MS);
        assert!(net.clock() - began < 4 * S, "{:?}", net.told);
    }
    println!("repaired after {:?}", net.clock() - began);
}

#[test]
fn a_new_address_answers_the_first_packet_if_records_have_ids() {
    let mut net = Net::new(true);
    net.up();
    net.run(10 * S);
    net.roam();
    assert!(net.up_packet(b"from elsewhere"));
    net.run(DELAY);
    assert_eq!(net.at_gateway, [b"from elsewhere"]);
    net.run(DELAY * 2);
    assert!(net.told.contains(&"moved".to_owned()), "{:?}", net.told);
    assert!(net.down_packet(b"there you are"));
    net.run(DELAY);
    assert_eq!(net.at_client, [b"there you are"]);
    assert!(net.told.contains(&"renew: the address changed".to_owned()));
}

#[test]
fn a_new_port_of_a_router_is_followed() {
    let mut net = Net::new(true);
    net.up();
    net.run(10 * S);
    net.renumber();
    net.up_packet(b"x");
    net.run(DELAY * 3 + MS);
    assert!(net.told.contains(&"moved".to_owned()), "{:?}", net.told);
}

#[test]
fn a_new_port_is_followed_in_the_middle_of_a_download() {
    let mut net = Net::new(true);
    net.up();
    net.run(10 * S);
    let download = |net: &mut Net, packets: u32| {
        for _ in 0..packets {
            net.down_packet(b"one of many");
            net.run(MS);
        }
    };
    download(&mut net, 200);
    net.renumber();
    let arrived = net.at_client.len();
    // 30 ms of silence, a probe, a challenge and its answer.
    download(&mut net, 100);
    assert!(net.told.contains(&"moved".to_owned()), "{:?}", net.told);
    net.run(DELAY * 2);
    assert!(net.at_client.len() > arrived, "nothing came to the new port");
}

#[test]
fn a_withheld_record_from_a_third_host_moves_nothing_but_the_challenge() {
    let mut net = Net::new(true);
    net.up();
    net.run(10 * S);
    net.withhold = true;
    net.up_packet(b"withheld");
    let record = net.withheld.clone().expect("withheld");
    let before = net.told.len();
    for _ in 0..50 {
        net.inject(666, record.clone());
        net.run(5 * MS);
    }
    assert_eq!(net.at_gateway, [b"withheld"], "it is authentic, and taken once");
    assert!(!net.told[before..].contains(&"moved".to_owned()));
    net.down_packet(b"still here");
    net.run(S);
    assert_eq!(net.at_client, [b"still here"]);
}

#[test]
fn a_client_that_uses_the_control_channel_gets_its_packets_there() {
    let mut net = Net::new(true);
    net.up();
    net.gateway.client_uses_control();
    assert!(!net.down_packet(b"x"));
    net.up_packet(b"here again");
    net.run(S);
    assert!(net.down_packet(b"x"));
}

#[test]
fn thirty_renewals_under_load_lose_nothing() {
    let mut net = Net::new(true);
    net.up();
    let (mut up, mut down) = (0, 0);
    for key in 2..32 {
        net.take_over(key);
        for _ in 0..400 {
            up += usize::from(net.up_packet(b"u"));
            down += usize::from(net.down_packet(b"d"));
            net.run(10 * MS);
        }
    }
    net.run(6 * S);
    println!("{up} packets up and {down} down of 12,000 each took the data channel, the others the control channel");
    // Down, until the gateway has heard the client over the link that it kept: one way, at 10 ms a packet.
    assert!(up == 30 * 400 && down >= 30 * 397, "{:?}", net.told);
    assert_eq!((net.at_gateway.len(), net.at_client.len()), (up, down));
    let ids = net
        .claimed
        .iter()
        .filter(|key| matches!(key, session::gateway::Key::Id(_)))
        .count();
    assert_eq!(ids, 1, "old keys are forgotten: {:?}", net.claimed);
    assert!(net.sockets.len() <= 10, "{:?}", net.sockets);
}

#[test]
fn a_repair_on_the_same_key_loses_nothing() {
    for ours in [true, false] {
        let renewals = vec![Renewal {
            after: 10 * S,
            by: RenewalBy::Handshake,
        }];
        let mut net = Net::with_renewals(ours, renewals);
        net.up();
        for _ in 0..3000 {
            net.up_packet(b"u");
            net.down_packet(b"d");
            net.run(10 * MS);
        }
        net.run(S);
        assert_eq!(
            (net.at_gateway.len(), net.at_client.len()),
            (3000, 3000),
            "{:?}",
            net.told
        );
        let ups = net.told.iter().filter(|line| line.starts_with("client up")).count();
        assert!(ups >= 3, "{:?}", net.told);
    }
}

#[test]
fn a_black_hole_for_large_packets_is_found_in_two_seconds() {
    for ours in [true, false] {
        let mut net = Net::new(ours);
        net.longest = 1350;
        net.run(S / 2 + 2 * S);
        let (client, gateway) = (net.client.mtu().expect("up"), net.gateway.mtu().expect("up"));
        println!("the path takes {client} bytes up, {gateway} down");
        assert!((1250..1350).contains(&client), "{client}");
        assert!(!ours || (1250..1350).contains(&gateway), "{gateway}");
        assert!(!net.up_packet(&[0; 1400]), "the control channel carries it");
    }
}

#[test]
fn a_black_hole_in_the_middle_is_found_while_large_packets_are_repeated() {
    for up in [true, false] {
        let mut net = Net::new(true);
        net.up();
        net.run(10 * S);
        net.longest = 1350;
        // As TCP does that hears of nothing it sent.
        for wait in [200, 400, 800, 1600, 3200] {
            // Whether it still fits is what this is about.
            let _ = if up {
                net.up_packet(&[0; 1390])
            } else {
                net.down_packet(&[0; 1390])
            };
            net.run(Duration::from_millis(wait));
        }
        let mtu = if up { net.client.mtu() } else { net.gateway.mtu() };
        assert!((1250..1350).contains(&mtu.expect("up")), "{mtu:?}");
        assert!(!net.told.iter().any(|told| told.contains("nothing comes back")));
    }
}

#[test]
fn new_keys_are_asked_for_when_they_are_due_and_again() {
    let renewals = vec![Renewal {
        after: 3600 * S,
        by: RenewalBy::Connect,
    }];
    let mut net = Net::with_renewals(true, renewals);
    net.run(3599 * S);
    assert!(!net.told.iter().any(|line| line.starts_with("renew")));
    net.run(70 * S);
    assert_eq!(net.told.iter().filter(|line| line.starts_with("renew")).count(), 2);
}

#[test]
fn a_freeze_condemns_nothing_and_reuses_no_nonce() {
    let mut net = Net::new(true);
    net.up();
    net.up_packet(b"before");
    net.freeze_client(3600 * S);
    assert!(net.up_packet(b"after"));
    net.run(S);
    assert_eq!(net.at_gateway, [b"before".to_vec(), b"after".to_vec()]);
    assert!(!net.told.iter().any(|line| line.contains("down")), "{:?}", net.told);
}
