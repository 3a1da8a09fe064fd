//! Several packets of a client in one frame.

use std::net::Ipv4Addr;

use packet::Bundle;
use wire::cstp::Kind;

use crate::client::{Client, Tunnel, log_in, packet, tunnel_of};
use crate::house::{House, Wishes};

const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 7);
const PAYLOAD: &[u8] = b"0123456789abcdefghij12345";

/// A tunnel of a client that takes such frames.
async fn granted(house: &House, user: &str) -> Tunnel {
    let cookie = log_in(house, user).await;
    let headers = "X-CSTP-Address-Type: IPv4\r\nX-Marmot-Bundle: v=1\r\n";
    let tunnel = Client::connect(house).await.tunnel_with(&cookie, headers).await;
    let tunnel = tunnel.expect("a tunnel");
    assert_eq!(tunnel.header("X-Marmot-Bundle"), Some("v=1"));
    tunnel
}

/// Three datagrams with 10, 10 and 5 bytes.
fn bundle(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    [&10_u16.to_be_bytes(), &packet(from, to, PAYLOAD)[..]].concat()
}

#[tokio::test]
async fn several_packets_in_a_frame_are_as_many_for_the_device_and_in_the_books() {
    let mut house = House::new();
    let mut tunnel = granted(&house, "alice").await;
    tunnel.send(Kind::Bundle, &bundle(tunnel.address, LAN)).await;
    for payload in [&PAYLOAD[..10], &PAYLOAD[10..20], &PAYLOAD[20..]] {
        let packet = house.packet().await;
        assert_eq!((&packet[28..], packet.len()), (payload, 28 + payload.len()));
    }
    tunnel.send(Kind::Disconnect, b"\xb0").await;
    let line = house.logged(&["session.end"]);
    assert!(line.contains("packets_in=3") && line.contains("bytes_in=109"), "{line}");
}

#[tokio::test]
async fn what_is_wrong_with_one_is_wrong_with_all() {
    let mut house = House::new();
    let mut tunnel = granted(&house, "alice").await;
    let forged = bundle(Ipv4Addr::new(10, 78, 0, 99), LAN);
    tunnel.send(Kind::Bundle, &forged).await;
    let mut too_small = bundle(tunnel.address, LAN);
    too_small[1] = 7;
    for malformed in [&too_small[..], &bundle(tunnel.address, LAN)[..40], b"", b"no packet"] {
        tunnel.send(Kind::Bundle, malformed).await;
    }
    let honest = packet(tunnel.address, LAN, b"honest");
    tunnel.send(Kind::Data, &honest).await;
    assert_eq!(house.packet().await, honest);
    tunnel.send(Kind::Disconnect, b"\xb0").await;
    let line = house.logged(&["session.end"]);
    assert!(
        line.contains("foreign_source=3") && line.contains("malformed=4"),
        "{line}"
    );
}

#[tokio::test]
async fn without_a_grant_such_a_frame_is_as_unknown_as_any() {
    let mut house = House::new();
    let (mut tunnel, _) = tunnel_of(&house, "alice").await;
    assert_eq!(tunnel.header("X-Marmot-Bundle"), None);
    tunnel.send(Kind::Bundle, &bundle(tunnel.address, LAN)).await;
    let honest = packet(tunnel.address, LAN, b"honest");
    tunnel.send(Kind::Data, &honest).await;
    assert_eq!(house.packet().await, honest);
}

#[tokio::test]
async fn another_client_gets_them_as_it_takes_them() {
    let house = House::with(Wishes {
        more: "[network]\nclient_to_client = true",
        ..Wishes::default()
    });
    let mut alice = granted(&house, "alice").await;
    let mut bob = granted(&house, "bob").await;
    alice.send(Kind::Bundle, &bundle(alice.address, bob.address)).await;
    let frame = bob.next().await;
    assert_eq!(frame.kind, Kind::Bundle);
    let read = Bundle::parse(&frame.payload).expect("a bundle");
    assert_eq!((read.packets(), &read.packet(&frame.payload)[28..]), (3, PAYLOAD));

    let (mut bob, _) = tunnel_of(&house, "bob").await;
    alice.send(Kind::Bundle, &bundle(alice.address, bob.address)).await;
    for payload in [&PAYLOAD[..10], &PAYLOAD[10..20], &PAYLOAD[20..]] {
        let frame = bob.next().await;
        assert_eq!((frame.kind, &frame.payload[28..]), (Kind::Data, payload));
    }
}
