//! Clients that sleep, and tunnels that outlive their control connection.

use std::net::Ipv4Addr;
use std::time::Duration;

use channel::Response;
use session::resume::SessionKey;
use wire::cstp::Kind;
use wire::offer::MarmotSession;

use crate::client::{Client, Tunnel, log_in, packet, tunnel_of};
use crate::datagrams::DataChannel;
use crate::house::{House, Wishes};

const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 7);
const WORD: [u8; 8] = *b"good one";

fn key() -> SessionKey {
    SessionKey::from_seed([5; 32])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What our own client offers.
fn offer() -> String {
    format!(
        "X-CSTP-Address-Type: IPv4\r\nX-DTLS-CipherSuite: PSK-NEGOTIATE\r\nX-Marmot-Session: 1\r\n\
         X-Marmot-Datagram: v=1\r\nX-Marmot-Park: v=1;key={}\r\n",
        hex(&key().public().0)
    )
}

/// A tunnel of a client that can park.
async fn parking_tunnel(house: &House) -> Tunnel {
    let cookie = log_in(house, "alice").await;
    let client = Client::connect(house).await;
    let tunnel = client.tunnel_with(&cookie, &offer()).await.expect("a tunnel");
    assert_eq!(tunnel.header("X-Marmot-Park"), Some("28800"));
    tunnel
}

/// The same session over a new connection, by the session's key.
async fn go_on(house: &House, before: &Response) -> Tunnel {
    let header = |name| before.head.headers.get_exact(name).expect("granted");
    let session = header("X-Marmot-Session");
    let (id, epoch) = session.split_once(';').expect("id and epoch");
    let epoch = epoch.parse::<u64>().expect("a number") + 1;
    let client = Client::connect(house).await;
    let session = MarmotSession {
        id: id.to_owned(),
        epoch,
    };
    let proof = key().sign(&client.binding(), session);
    let headers = format!("{}X-Marmot-Resume: {id};{epoch};{}\r\n", offer(), hex(&proof.signature));
    client
        .tunnel_with(header("X-Marmot-Ticket"), &headers)
        .await
        .expect("the session goes on")
}

/// Has everything that the device has sent so far been handled? A packet for another client of the same worker goes behind it.
async fn all_handled(house: &House, other: &mut Tunnel) {
    assert!(house.device.send(packet(LAN, other.address, b"behind").into()).await);
    other.next().await;
}

#[tokio::test]
async fn a_client_that_sleeps_gets_no_packet_until_it_is_awake() {
    for workers in [1, 2] {
        sleeps(workers).await;
    }
}

async fn sleeps(workers: usize) {
    let mut house = House::with(Wishes {
        workers,
        ..Wishes::default()
    });
    let mut tunnel = parking_tunnel(&house).await;
    let _of_the_other_worker = tunnel_of(&house, "bob").await;
    let (mut bob, _) = tunnel_of(&house, "bob").await;
    tunnel.send(Kind::Park, &WORD).await;
    let frame = tunnel.next().await;
    assert_eq!((frame.kind, &frame.payload[..]), (Kind::ParkAnswer, &WORD[..]));
    house.logged(&["session.park", "announced"]);

    let down = |text: &[u8]| packet(LAN, tunnel.address, text);
    let (lost, fetched, after) = (down(b"lost"), down(b"fetched"), down(b"after"));
    assert!(house.device.send(lost.into()).await);
    all_handled(&house, &mut bob).await;

    let up = packet(tunnel.address, LAN, b"maintenance");
    tunnel.send(Kind::Data, &up).await;
    assert_eq!(house.packet().await, up, "what it sends passes");
    assert!(house.device.send(fetched.clone().into()).await);
    assert_eq!(tunnel.next().await.payload, fetched, "and may be answered");

    tunnel.send(Kind::Awake, &WORD).await;
    assert_eq!(tunnel.next().await.kind, Kind::AwakeAnswer);
    house.logged(&["session.unpark", "same_path"]);
    assert!(house.device.send(after.clone().into()).await);
    assert_eq!(tunnel.next().await.payload, after);
    tunnel.send(Kind::Disconnect, b"\xb0").await;
    let line = house.logged(&["session.end"]);
    assert!(line.contains("parked=1"), "{line}");
}

#[tokio::test]
async fn words_of_parking_mean_nothing_without_a_grant() {
    let house = House::new();
    let (mut tunnel, _) = tunnel_of(&house, "alice").await;
    tunnel.send(Kind::Park, &WORD).await;
    tunnel.send(Kind::DpdRequest, b"still there").await;
    assert_eq!(
        tunnel.next().await.kind,
        Kind::DpdResponse,
        "and no answer to the other"
    );
    let down = packet(LAN, tunnel.address, b"down");
    assert!(house.device.send(down.clone().into()).await);
    assert_eq!(tunnel.next().await.payload, down);
}

#[tokio::test]
async fn a_tunnel_outlives_its_control_connection_and_gives_its_place_back() {
    for workers in [1, 2] {
        outlives(workers).await;
    }
}

async fn outlives(workers: usize) {
    let change = |config: &mut config::gateway::GatewayConfig| config.limits.connections = 1;
    let mut house = House::with(Wishes {
        change: Some(change),
        workers,
        ..Wishes::default()
    });
    let tunnel = parking_tunnel(&house).await;
    let mut data = DataChannel::open(&house, &tunnel).await;
    data.say(Kind::Keepalive, &[]).await;
    house.logged(&["packets take the data channel"]);
    let Tunnel {
        channel,
        grant,
        address,
    } = tunnel;
    drop(channel);
    house.logged(&["path.lost"]);

    let up = packet(address, LAN, b"up");
    data.say(Kind::Data, &up).await;
    assert_eq!(house.packet().await, up);
    let down = packet(LAN, address, b"down");
    assert!(house.device.send(down.clone().into()).await);
    assert_eq!(data.next(Kind::Data).await, down);

    data.say(Kind::Park, &WORD).await;
    assert_eq!(data.next(Kind::ParkAnswer).await, WORD);
    house.logged(&["session.park", "announced"]);
    data.rebind().await;
    data.say(Kind::Awake, &WORD).await;
    let challenge = data.next(Kind::DpdRequest).await;
    data.say(Kind::DpdResponse, &challenge).await;
    assert_eq!(data.next(Kind::AwakeAnswer).await, WORD);
    house.logged(&["session.unpark", "rebind"]);

    // One connection is allowed, and this is the second.
    let mut after = go_on(&house, &grant).await;
    after.send(Kind::DpdRequest, b"in").await;
    assert_eq!(after.next().await.kind, Kind::DpdResponse);
}

#[tokio::test]
async fn a_connect_takes_over_from_a_tunnel_that_has_no_connection() {
    for workers in [1, 2] {
        takes_over(workers).await;
    }
}

async fn takes_over(workers: usize) {
    let mut house = House::with(Wishes {
        workers,
        ..Wishes::default()
    });
    let tunnel = parking_tunnel(&house).await;
    let mut data = DataChannel::open(&house, &tunnel).await;
    data.say(Kind::Keepalive, &[]).await;
    house.logged(&["packets take the data channel"]);
    let Tunnel {
        channel,
        grant,
        address,
    } = tunnel;
    drop(channel);
    house.logged(&["path.lost"]);
    let mut after = go_on(&house, &grant).await;
    assert_eq!(after.address, address);
    let down = packet(LAN, address, b"over the new one");
    assert!(house.device.send(down.clone().into()).await);
    assert_eq!(after.next().await.payload, down);

    let up = packet(address, LAN, b"on the old keys");
    data.say(Kind::Data, &up).await;
    assert_eq!(house.packet().await, up, "they serve until new ones do");
}

#[tokio::test]
async fn a_parked_client_is_not_idle() {
    let change = |config: &mut config::gateway::GatewayConfig| {
        config.session.idle_timeout = Some(Duration::from_secs(2));
    };
    let house = House::with(Wishes {
        change: Some(change),
        ..Wishes::default()
    });
    let mut alice = parking_tunnel(&house).await;
    alice.send(Kind::Park, &WORD).await;
    assert_eq!(alice.next().await.kind, Kind::ParkAnswer);
    // What it does in a maintenance wake does not make it active either.
    alice
        .send(Kind::Data, &packet(alice.address, LAN, b"maintenance"))
        .await;
    let _bob = tunnel_of(&house, "bob").await;
    let line = house.logged(&["session.end", "idle"]);
    assert!(line.contains("bob"), "who is longer silent, but parked, stays: {line}");
    alice.send(Kind::Awake, &WORD).await;
    assert_eq!(alice.next().await.kind, Kind::AwakeAnswer);
    let line = house.logged(&["session.end", "idle"]);
    assert!(line.contains("alice"), "its time runs on: {line}");
}

/// A data channel that the gateway has given up: what was sent there brought nothing back.
async fn silent_data_channel(house: &House, tunnel: &mut Tunnel) -> DataChannel {
    let mut data = DataChannel::open(house, tunnel).await;
    data.say(Kind::Keepalive, &[]).await;
    house.logged(&["packets take the data channel"]);
    let swallowed = packet(LAN, tunnel.address, b"swallowed");
    assert!(house.device.send(swallowed.into()).await);
    house.logged(&["packets take no channel"]);
    assert_eq!(tunnel.next().await.kind, Kind::DpdRequest, "asked on the other one");
    data
}

#[tokio::test]
async fn a_client_that_is_back_is_asked_on_the_channel_that_is_left() {
    let house = House::new();
    let mut tunnel = parking_tunnel(&house).await;
    let _data = silent_data_channel(&house, &mut tunnel).await;
    tunnel.send(Kind::Park, &WORD).await;
    assert_eq!(tunnel.next().await.kind, Kind::ParkAnswer);
    tunnel.send(Kind::Awake, &WORD).await;
    assert_eq!(tunnel.next().await.kind, Kind::AwakeAnswer);
    assert_eq!(tunnel.next().await.kind, Kind::DpdRequest);
    tunnel.send(Kind::DpdResponse, &[]).await;
    house.logged(&["packets take the control channel"]);
    let down = packet(LAN, tunnel.address, b"down");
    assert!(house.device.send(down.clone().into()).await);
    assert_eq!(tunnel.next().await.payload, down);
}

#[tokio::test]
async fn a_client_whose_data_channel_is_silent_moves_its_packets_by_sending_on_the_other() {
    let mut house = House::new();
    let mut tunnel = parking_tunnel(&house).await;
    let _data = silent_data_channel(&house, &mut tunnel).await;
    let up = packet(tunnel.address, LAN, b"up");
    tunnel.send(Kind::Data, &up).await;
    assert_eq!(house.packet().await, up);
    let down = packet(LAN, tunnel.address, b"down");
    assert!(house.device.send(down.clone().into()).await);
    assert_eq!(tunnel.next().await.payload, down);
}
