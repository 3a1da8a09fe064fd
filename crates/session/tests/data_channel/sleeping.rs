//! Nights: a client that parks, is quiet, wakes, and finds its gateway again.

use std::time::Duration;

use session::client::{Ask, Renewal, RenewalBy};

use crate::net::{DELAY, Net};
use crate::{MS, S};

const HOUR: Duration = Duration::from_secs(3600);

fn renewals(net: &Net) -> usize {
    net.told.iter().filter(|line| line.starts_with("renew")).count()
}

fn asleep() -> Net {
    let mut net = Net::new(true);
    net.up();
    net.run(10 * S);
    assert!(net.park());
    net.run(DELAY * 2 + MS);
    assert!(net.told.contains(&"parked".to_owned()), "{:?}", net.told);
    net
}

#[test]
fn a_night_of_forty_wakes_costs_nothing_and_the_first_packet_one_way() {
    let mut net = asleep();
    let (sent, told) = (net.client_sent, net.told.len());
    for _ in 0..40 {
        net.sleep_client(HOUR / 4);
        assert_eq!(net.client.deadline(), None, "nothing wakes the host");
        net.run(45 * S);
    }
    assert_eq!((net.client_sent, net.told.len()), (sent, told), "{:?}", net.told);
    net.sleep_client(HOUR / 4);
    assert!(net.wake(Ask::AtOnce), "asked over this channel");
    assert!(net.up_packet(b"good morning"));
    net.run(DELAY + MS);
    assert_eq!(net.at_gateway, [b"good morning"]);
    net.run(DELAY);
    assert!(net.told.contains(&"unparked same_path".to_owned()), "{:?}", net.told);
    assert!(net.down_packet(b"and to you"));
    net.run(DELAY + MS);
    assert_eq!((net.at_client.len(), renewals(&net)), (1, 0));
    let ups = net.told.iter().filter(|line| line.starts_with("client up")).count();
    assert_eq!(ups, 1, "no handshake: {:?}", net.told);
}

#[test]
fn a_key_without_room_for_the_jump_after_a_gap_gives_way_to_a_new_one() {
    let mut net = Net::new(true);
    net.up();
    net.run(10 * S);
    net.freeze_and_jump(5 * S, (1 << 48) - 1000);
    assert!(!net.told.iter().any(|line| line.contains("down")), "{:?}", net.told);
    net.freeze_and_jump(5 * S, 1 << 24);
    assert!(net.client.path().is_none(), "the old key seals nothing more");
    let down = net.told.iter().filter(|line| line.contains("down")).count();
    assert_eq!(down, 1, "{:?}", net.told);
    net.run(5 * S);
    assert!(net.up_packet(b"under a new key"));
    net.run(S);
    assert_eq!(net.at_gateway, [b"under a new key"]);
}

#[test]
fn a_key_that_is_used_up_in_a_sleep_waits_for_somebody_before_there_is_another() {
    let mut net = asleep();
    net.freeze_and_jump(5 * S, (1 << 48) - 1000);
    net.sleep_client(HOUR);
    let sent = net.client_sent;
    net.run(60 * S);
    assert_eq!(net.client_sent, sent, "nothing in a maintenance wake");
    net.wake(Ask::AtOnce);
    net.run(5 * S);
    assert!(net.up_packet(b"good morning"));
    net.run(S);
    assert_eq!(net.at_gateway, [b"good morning"]);
}

#[test]
fn a_way_that_is_back_is_asked_at_once_and_not_after_the_pause() {
    let mut net = asleep();
    net.sleep_client(8 * HOUR);
    net.blocked = true;
    net.wake(Ask::AtOnce);
    net.run(20 * S);
    net.blocked = false;
    net.ask_anew();
    net.run(DELAY * 6 + MS);
    assert!(
        net.told.iter().any(|line| line.starts_with("unparked")),
        "{:?}",
        net.told
    );
}

#[test]
fn in_a_maintenance_wake_packets_pass_and_nothing_comes_of_it() {
    let mut net = asleep();
    net.sleep_client(HOUR);
    net.blocked = true;
    let sent = net.client_sent;
    for _ in 0..300 {
        assert!(net.up_packet(b"mail?"));
        net.run(100 * MS);
    }
    assert_eq!(net.client_sent, sent + 300, "packets alone");
    net.blocked = false;
    net.up_packet(b"mail!");
    net.run(S);
    assert_eq!(net.at_gateway, [b"mail!"]);
    assert!(!net.told.iter().any(|line| line.contains("down") || line == "silent"));
    assert!(!net.told.iter().any(|line| line.starts_with("unparked")));
}

#[test]
fn a_new_address_costs_the_first_packet_nothing_if_the_host_noticed() {
    let mut net = asleep();
    net.sleep_client(8 * HOUR);
    net.roam();
    assert_eq!(renewals(&net), 0, "not before somebody is there");
    net.wake(Ask::AtOnce);
    net.up_packet(b"from elsewhere");
    net.run(DELAY + MS);
    assert_eq!(net.at_gateway, [b"from elsewhere"]);
    net.run(DELAY * 5);
    assert!(net.told.contains(&"unparked rebind".to_owned()), "{:?}", net.told);
    assert_eq!(renewals(&net), 1);
}

#[test]
fn a_mapping_that_is_gone_is_replaced_after_three_round_trips() {
    let mut net = asleep();
    net.sleep_client(8 * HOUR);
    net.sockets.clear();
    let began = net.clock();
    net.wake(Ask::AtOnce);
    while !net.told.contains(&"unparked rebind".to_owned()) {
        net.run(10 * MS);
        assert!(net.clock() - began < S, "{:?}", net.told);
    }
    println!("back after {:?}", net.clock() - began);
    assert!(net.told.contains(&"silent".to_owned()) && renewals(&net) == 1);
    assert!(net.up_packet(b"x"));
    net.run(S);
    assert_eq!(net.at_gateway, [b"x"]);
}

#[test]
fn nobody_there_is_asked_again_at_growing_pauses_and_another_network_begins_anew() {
    let mut net = asleep();
    net.sleep_client(8 * HOUR);
    net.blocked = true;
    net.wake(Ask::AtOnce);
    net.run(60 * S);
    // After 0.3, 0.55, 1.05, 2.05, 4.05, 8.05, 16.05, 32.05 s.
    assert_eq!(renewals(&net), 8, "{:?}", net.told);
    net.blocked = false;
    net.roam();
    net.run(DELAY * 6 + MS);
    assert!(net.told.contains(&"unparked rebind".to_owned()), "{:?}", net.told);
}

#[test]
fn a_stock_gateway_gets_one_handshake_from_a_fresh_port_and_the_packets_at_once() {
    let mut net = Net::new(false);
    net.up();
    net.run(10 * S);
    assert!(!net.park(), "it would not understand");
    net.sleep_client(8 * HOUR);
    let sockets = net.sockets.len();
    assert!(!net.wake(Ask::AtOnce));
    assert!(net.up_packet(b"x"));
    net.run(S);
    assert_eq!(net.at_gateway, [b"x"]);
    net.run(10 * S);
    let ups = net.told.iter().filter(|line| line.starts_with("client up")).count();
    assert_eq!(
        (ups, net.sockets.len() - sockets, renewals(&net)),
        (2, 1, 0),
        "{:?}",
        net.told
    );
}

#[test]
fn after_a_freeze_the_gateway_is_asked_with_the_next_packet() {
    let mut net = Net::new(true);
    net.up();
    net.run(10 * S);
    net.freeze_client(120 * S);
    net.wake(Ask::WhenSending);
    let sent = net.client_sent;
    net.run(5 * S);
    assert_eq!(net.client_sent, sent);
    net.up_packet(b"x");
    net.run(DELAY * 2 + MS);
    assert!(net.told.contains(&"unparked same_path".to_owned()), "{:?}", net.told);
    assert_eq!(net.at_gateway, [b"x"]);
}

#[test]
fn keys_that_grew_old_in_a_sleep_are_renewed_within_ten_seconds_of_its_end() {
    let mut net = Net::with_renewals(
        true,
        vec![Renewal {
            after: HOUR,
            by: RenewalBy::Connect,
        }],
    );
    net.up();
    net.park();
    net.sleep_client(2 * HOUR);
    net.run(100 * S);
    assert_eq!(renewals(&net), 0, "a maintenance wake");
    net.sleep_client(S);
    net.wake(Ask::AtOnce);
    net.run(S);
    assert_eq!(renewals(&net), 0, "what the user waits for goes first");
    net.run(9 * S);
    assert_eq!(renewals(&net), 1, "{:?}", net.told);
}

#[test]
fn a_new_connection_replaces_a_link_that_did_not_answer() {
    let mut net = asleep();
    net.sleep_client(8 * HOUR);
    net.blocked = true;
    net.wake(Ask::AtOnce);
    net.run(S);
    net.blocked = false;
    net.take_over(2);
    assert!(!net.up_packet(b"x"), "the new connection carries it");
    net.run(S);
    assert!(net.up_packet(b"x"));
}
