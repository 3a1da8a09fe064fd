//! What passes through a tunnel, and what becomes of it.

use std::net::Ipv4Addr;

use channel::Closed;
use session::EndReason;
use wire::cstp::{Goodbye, Kind, parse_goodbye};

use crate::client::{Client, packet, soon, tunnel_of, write_record};
use crate::house::{House, Wishes};

const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 7);

#[tokio::test]
async fn the_grant_has_what_a_stock_client_cannot_do_without() {
    let more = "[network]\nroutes = [\"192.168.7.0/24\"]\ndns = [\"192.168.7.1\"]\ndomains = [\"lan.example\"]";
    let house = House::with(Wishes {
        auth: "banner = \"welcome\"",
        more,
        ..Wishes::default()
    });
    let (tunnel, _) = tunnel_of(&house, "alice").await;
    assert_eq!(tunnel.address, Ipv4Addr::new(10, 78, 0, 2));
    assert_eq!(tunnel.header("X-CSTP-Netmask"), Some("255.255.255.0"));
    assert_eq!(tunnel.header("X-CSTP-MTU"), Some("1406"));
    assert_eq!(tunnel.header("X-CSTP-Split-Include"), Some("192.168.7.0/255.255.255.0"));
    assert_eq!(tunnel.header("X-CSTP-DNS"), Some("192.168.7.1"));
    assert_eq!(tunnel.header("X-CSTP-Default-Domain"), Some("lan.example"));
    assert_eq!(tunnel.header("X-CSTP-DPD"), Some("90"));
    assert_eq!(tunnel.header("X-CSTP-Banner"), Some("welcome"));
    assert_eq!(tunnel.header("X-CSTP-Rekey-Method"), Some("none"));
    assert_eq!(tunnel.header("X-CSTP-Disconnected-Timeout"), Some("900"));
    for never in ["X-DTLS-Port", "X-DTLS-App-ID", "X-DTLS-CipherSuite", "X-Marmot-Session"] {
        assert_eq!(tunnel.header(never), None, "{never}");
    }
}

#[tokio::test]
async fn packets_pass_both_ways() {
    let mut house = House::new();
    let (mut tunnel, _) = tunnel_of(&house, "alice").await;
    let up = packet(tunnel.address, LAN, b"up");
    tunnel.send(Kind::Data, &up).await;
    assert_eq!(house.packet().await, up);

    let down = packet(LAN, tunnel.address, b"down");
    assert!(house.device.send(down.clone().into()).await);
    let frame = tunnel.next().await;
    assert_eq!((frame.kind, &frame.payload[..]), (Kind::Data, &down[..]));
}

#[tokio::test]
async fn both_families_pass() {
    let pool = Some("ipv4 = \"10.78.0.0/24\"\nipv6 = \"fd00:78::/64\"");
    let mut house = House::with(Wishes {
        pool,
        ..Wishes::default()
    });
    let (mut tunnel, _) = tunnel_of(&house, "alice").await;
    let granted = tunnel.header("X-CSTP-Address-IP6").expect("an IPv6 address");
    let (address, prefix) = granted.split_once('/').expect("a prefix");
    assert_eq!(prefix, "128");
    let up = packet(
        address.parse::<std::net::Ipv6Addr>().expect("address"),
        "2001:db8::1".parse::<std::net::Ipv6Addr>().expect("address"),
        b"six",
    );
    tunnel.send(Kind::Data, &up).await;
    assert_eq!(house.packet().await, up);
}

#[tokio::test]
async fn dead_peer_detection_is_answered_with_its_payload() {
    let house = House::new();
    let (mut tunnel, _) = tunnel_of(&house, "alice").await;
    tunnel.send(Kind::DpdRequest, b"are you there").await;
    let frame = tunnel.next().await;
    assert_eq!(
        (frame.kind, &frame.payload[..]),
        (Kind::DpdResponse, &b"are you there"[..])
    );
}

#[tokio::test]
async fn frames_need_not_be_records() {
    let mut house = House::new();
    let (tunnel, cookie) = tunnel_of(&house, "alice").await;
    drop(tunnel);
    let (mut stream, address) = Client::connect(&house).await.raw_tunnel(&cookie).await;
    let packets = [
        packet(address, LAN, b"one"),
        packet(address, LAN, b"two"),
        packet(address, LAN, b"three"),
    ];
    let frames: Vec<u8> = packets
        .iter()
        .flat_map(|packet| {
            let length = u16::try_from(packet.len()).expect("short");
            [&wire::cstp::header(Kind::Data, length)[..], packet].concat()
        })
        .collect();
    // Two frames and a bit in the first record, the rest in the second.
    let (first, second) = frames.split_at(frames.len() - 5);
    write_record(&mut stream, first).await;
    write_record(&mut stream, second).await;
    for packet in packets {
        assert_eq!(house.packet().await, packet);
    }
}

#[tokio::test]
async fn a_packet_from_an_address_that_is_not_the_lease_goes_nowhere() {
    let mut house = House::new();
    let (mut tunnel, _) = tunnel_of(&house, "alice").await;
    tunnel
        .send(Kind::Data, &packet(Ipv4Addr::new(10, 78, 0, 99), LAN, b"forged"))
        .await;
    tunnel.send(Kind::Data, b"no packet at all").await;
    let honest = packet(tunnel.address, LAN, b"honest");
    tunnel.send(Kind::Data, &honest).await;
    assert_eq!(house.packet().await, honest);

    tunnel.send(Kind::Disconnect, b"\xb0").await;
    let line = house.logged(&["session.end"]);
    assert!(
        line.contains("foreign_source=1") && line.contains("malformed=1"),
        "{line}"
    );
    assert!(line.contains("packets_in=1"), "{line}");
}

#[tokio::test]
async fn clients_reach_each_other_only_where_that_is_allowed() {
    for allowed in [false, true] {
        let more = if allowed {
            "[network]\nclient_to_client = true"
        } else {
            ""
        };
        let mut house = House::with(Wishes {
            more,
            ..Wishes::default()
        });
        let (mut alice, _) = tunnel_of(&house, "alice").await;
        let (mut bob, _) = tunnel_of(&house, "bob").await;
        let hello = packet(alice.address, bob.address, b"hello");
        alice.send(Kind::Data, &hello).await;
        let to_gateway = packet(alice.address, Ipv4Addr::new(10, 78, 0, 1), b"to the gateway itself");
        alice.send(Kind::Data, &to_gateway).await;
        assert_eq!(house.packet().await, to_gateway);
        if allowed {
            assert_eq!(bob.next().await.payload, hello);
        } else {
            alice.send(Kind::Disconnect, b"\xb0").await;
            house.logged(&["session.end", "client_to_client=1"]);
        }
    }
}

#[tokio::test]
async fn a_second_connect_takes_the_session_over_and_keeps_its_address() {
    let house = House::new();
    let (first, cookie) = tunnel_of(&house, "alice").await;
    let address = first.address;
    let mut second = Client::connect(&house).await.tunnel(&cookie).await.expect("take-over");
    assert_eq!(second.address, address);
    assert!(matches!(first.end().await, Closed::Eof { clean: true }));

    let down = packet(LAN, address, b"to the newer one");
    assert!(house.device.send(down.clone().into()).await);
    assert_eq!(second.next().await.payload, down);
}

#[tokio::test]
async fn a_session_survives_its_connection_and_keeps_its_address() {
    let house = House::new();
    let (first, cookie) = tunnel_of(&house, "alice").await;
    let address = first.address;
    drop(first);
    house.logged(&["session detached"]);
    let (bob, _) = tunnel_of(&house, "bob").await;
    assert_ne!(bob.address, address);
    let second = Client::connect(&house).await.tunnel(&cookie).await.expect("reconnect");
    assert_eq!(second.address, address);
    house.logged(&["session attached again"]);
}

#[tokio::test]
async fn a_temporary_goodbye_keeps_the_cookie() {
    let house = House::new();
    let (mut tunnel, cookie) = tunnel_of(&house, "alice").await;
    tunnel.send(Kind::Disconnect, b"").await;
    house.logged(&["session detached"]);
    Client::connect(&house).await.tunnel(&cookie).await.expect("reconnect");
}

#[tokio::test]
async fn our_own_client_is_told_id_and_epoch() {
    let house = House::new();
    let (tunnel, cookie) = tunnel_of(&house, "alice").await;
    drop(tunnel);
    let offer = wire::offer::Offer {
        cookie: cookie.as_str().into(),
        want_v4: true,
        session: true,
        ..wire::offer::Offer::default()
    };
    let encoded = String::from_utf8(offer.encode()).expect("text");
    let marmot: String = encoded
        .lines()
        .filter(|line| line.starts_with("X-Marmot"))
        .fold(String::new(), |all, line| all + line + "\r\n");
    assert!(!marmot.is_empty());
    let tunnel = Client::connect(&house)
        .await
        .tunnel_with(&cookie, &marmot)
        .await
        .expect("reconnect");
    let session = tunnel.header("X-Marmot-Session").expect("a session");
    let (id, epoch) = session.split_once(';').expect("id and epoch");
    assert_eq!((id.len(), epoch.trim()), (32, "2"));
}

#[tokio::test]
async fn an_idle_session_is_told_that_it_is_over() {
    let change = |config: &mut config::gateway::GatewayConfig| {
        config.session.idle_timeout = Some(std::time::Duration::from_millis(100));
    };
    let house = House::with(Wishes {
        change: Some(change),
        ..Wishes::default()
    });
    let (mut tunnel, cookie) = tunnel_of(&house, "alice").await;
    let frame = tunnel.next().await;
    assert_eq!(frame.kind, Kind::Disconnect);
    assert_eq!(
        parse_goodbye(&frame.payload),
        Goodbye::Logout(EndReason::Idle.phrase().to_owned())
    );
    soon(tunnel.end()).await;
    house.logged(&["session.end", "idle"]);
    let refused = Client::connect(&house).await.tunnel(&cookie).await.err();
    assert_eq!(refused.map(|no| no.status), Some(401));
}

#[tokio::test]
async fn what_is_no_frame_ends_the_connection_and_not_the_session() {
    let house = House::new();
    let (tunnel, cookie) = tunnel_of(&house, "alice").await;
    drop(tunnel);
    let (mut stream, _) = Client::connect(&house).await.raw_tunnel(&cookie).await;
    write_record(&mut stream, b"GET / HTTP/1.1\r\n\r\n").await;
    house.logged(&["session detached", "CSTP"]);
    Client::connect(&house).await.tunnel(&cookie).await.expect("reconnect");
}
