//! A gateway on two threads: the first client is the second worker's, the second client the main thread's, which alone reads the device in memory.

use std::net::Ipv4Addr;

use api::Client as Local;
use wire::cstp::Kind;

use crate::client::{Client, Tunnel, log_in, packet, tunnel_of};
use crate::datagrams::DataChannel;
use crate::house::{House, Wishes};

const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 7);

fn two_workers() -> House {
    House::with(Wishes {
        more: "[network]\nclient_to_client = true\n",
        workers: 2,
        ..Wishes::default()
    })
}

/// What of each kind went from worker to worker, by the last line of a gateway.
fn handed(house: House) -> (u64, u64) {
    let lines = house.stop_and_read();
    let last = lines.iter().find(|line| line.contains("gateway stopped"));
    let last = last.expect("it says that it stopped");
    let of = |word: &str| {
        let (_, after) = last.split_once(word).expect(word);
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().expect("a number")
    };
    (of("handed_datagrams="), of("handed_packets="))
}

async fn offering(house: &House, cookie: &str, ours: bool) -> Tunnel {
    let ours = if ours { "X-Marmot-Datagram: v=1\r\n" } else { "" };
    let headers = format!("X-CSTP-Address-Type: IPv4\r\nX-DTLS-CipherSuite: PSK-NEGOTIATE\r\n{ours}");
    let client = Client::connect(house).await;
    client.tunnel_with(cookie, &headers).await.expect("a tunnel")
}

#[tokio::test]
async fn packets_find_the_worker_of_their_client() {
    let mut house = two_workers();
    let (mut alice, _) = tunnel_of(&house, "alice").await;
    let (mut bob, _) = tunnel_of(&house, "bob").await;
    for tunnel in [&mut alice, &mut bob] {
        let up = packet(tunnel.address, LAN, b"up");
        tunnel.send(Kind::Data, &up).await;
        assert_eq!(house.packet().await, up);
        let down = packet(LAN, tunnel.address, b"down");
        assert!(house.device.send(down.clone().into()).await);
        assert_eq!(tunnel.next().await.payload, down);
    }
    let (there, back) = (
        packet(alice.address, bob.address, b"there"),
        packet(bob.address, alice.address, b"back"),
    );
    alice.send(Kind::Data, &there).await;
    assert_eq!(bob.next().await.payload, there);
    bob.send(Kind::Data, &back).await;
    assert_eq!(alice.next().await.payload, back);
    assert_eq!(handed(house), (0, 3), "down to alice, and both ways between them");
}

#[tokio::test]
async fn datagrams_with_an_id_come_to_their_worker() {
    const CHANNELS: u64 = 6;
    const RECORDS: u64 = 20;
    let mut house = two_workers();
    let mut handshakes = 0;
    for user in ["alice", "bob"] {
        let cookie = log_in(&house, user).await;
        let tunnel = offering(&house, &cookie, true).await;
        for _ in 0..CHANNELS / 2 {
            let mut data = DataChannel::open(&house, &tunnel).await;
            handshakes += 1;
            for n in 0..RECORDS {
                if n == RECORDS / 2 {
                    data.rebind().await;
                }
                let up = packet(tunnel.address, LAN, &n.to_be_bytes());
                data.say(Kind::Data, &up).await;
                assert_eq!(house.packet().await, up);
            }
        }
        // Both sessions stay, so that there is one at each worker.
        std::mem::forget(tunnel);
    }
    let (datagrams, _) = handed(house);
    println!(
        "{datagrams} datagrams of {} went to the wrong worker",
        CHANNELS * RECORDS
    );
    assert!(
        datagrams <= handshakes,
        "the one datagram of a handshake that names nobody, at most: {datagrams}"
    );
}

#[tokio::test]
async fn datagrams_without_an_id_are_handed_to_their_worker() {
    const CHANNELS: usize = 20;
    let mut house = two_workers();
    let cookie = log_in(&house, "alice").await;
    let mut tunnel = offering(&house, &cookie, false).await;
    for n in 0..CHANNELS {
        let mut data = DataChannel::open_as(&house, &tunnel, false).await;
        let up = packet(tunnel.address, LAN, &n.to_be_bytes());
        data.say(Kind::Data, &up).await;
        assert_eq!(house.packet().await, up);
        let down = packet(LAN, tunnel.address, &n.to_be_bytes());
        assert!(house.device.send(down.clone().into()).await);
        assert_eq!(data.next(Kind::Data).await, down);
    }
    // A CONNECT in between does not change the worker.
    tunnel = offering(&house, &cookie, false).await;
    let mut data = DataChannel::open_as(&house, &tunnel, false).await;
    let up = packet(tunnel.address, LAN, b"again");
    data.say(Kind::Data, &up).await;
    assert_eq!(house.packet().await, up);
    let (datagrams, packets) = handed(house);
    assert!(
        datagrams > 0,
        "the kernel's hash cannot have been right {CHANNELS} times"
    );
    assert_eq!(packets, CHANNELS as u64, "the main thread reads the device");
}

#[tokio::test]
async fn a_session_of_another_worker_is_listed_and_kicked() {
    let house = two_workers();
    let (mut tunnel, cookie) = tunnel_of(&house, "alice").await;
    let local = Local::new(gateway::local_socket(&house.config()).expect("it is enabled"));
    let sessions = local.sessions().await.expect("an answer").sessions;
    local.kick(&sessions[0].id).await.expect("it was there");
    assert_eq!(tunnel.next().await.kind, Kind::Disconnect);
    let line = house.logged(&["session.end"]);
    assert!(line.contains("admin"), "{line}");
    let refused = Client::connect(&house).await.tunnel(&cookie).await.map(drop);
    assert_eq!(refused.expect_err("over").status, 401);
}

#[tokio::test]
async fn what_is_for_a_client_that_is_gone_is_counted_with_its_session() {
    let house = two_workers();
    let (alice, _) = tunnel_of(&house, "alice").await;
    let (mut bob, _) = tunnel_of(&house, "bob").await;
    let address = alice.address;
    drop(alice);
    house.logged(&["session detached"]);
    for _ in 0..3 {
        assert!(house.device.send(packet(LAN, address, b"lost").into()).await);
    }
    bob.send(Kind::Data, &packet(bob.address, address, b"lost, too")).await;
    let down = packet(LAN, bob.address, b"behind");
    assert!(house.device.send(down.clone().into()).await);
    assert_eq!(bob.next().await.payload, down);
    let local = Local::new(gateway::local_socket(&house.config()).expect("it is enabled"));
    let sessions = local.sessions().await.expect("an answer").sessions;
    let gone = sessions.iter().find(|session| session.user == "alice").expect("waits");
    local.kick(&gone.id).await.expect("it was there");
    let line = house.logged(&["session.end"]);
    assert!(line.contains("channel_down=3"), "{line}");
}

#[tokio::test]
async fn a_stop_says_farewell_on_every_worker() {
    let house = two_workers();
    let (alice, _) = tunnel_of(&house, "alice").await;
    let (bob, _) = tunnel_of(&house, "bob").await;
    let stopped = tokio::task::spawn_blocking(move || house.stop_and_read());
    for tunnel in [alice, bob] {
        let closed = tunnel.end().await;
        assert!(matches!(closed, channel::Closed::Eof { clean: true }), "{closed}");
    }
    let lines = stopped.await.expect("stopped");
    assert!(lines.iter().any(|line| line.contains("gateway stopped")));
    assert!(!lines.iter().any(|line| line.contains("in time")), "{lines:?}");
}
