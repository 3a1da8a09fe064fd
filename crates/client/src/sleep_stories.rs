//! Nights of a client over the control channel alone, against a stub gateway that keeps sessions.

use std::time::Duration;

use api::{Daemon as _, Happening};
use lifecycle::WakeKind;
use tokio::sync::broadcast;
use tokio::time::timeout;
use wire::Secret;
use wire::cstp::Kind;
use wire::offer::{MarmotSession, Refusal};

use crate::stop_stories::Daemon;
use crate::testing::{Behaviour, Order, PATIENCE, Pki, Seen, StubGateway, client_config};

/// What a gateway of ours grants.
fn keeps() -> Behaviour {
    let mut behaviour = Behaviour::default();
    behaviour.grant.park = Some(Duration::from_secs(28_800));
    behaviour.grant.ticket = Some(Secret::from("ticket"));
    behaviour.grant.dpd = Some(Duration::from_secs(1));
    behaviour.grant.keepalive = Some(Duration::from_secs(1));
    behaviour
}

async fn frame(gateway: &mut StubGateway) -> Kind {
    gateway
        .until(|seen| match seen {
            Seen::Frame(kind, _) => Some(kind),
            _ => None,
        })
        .await
}

async fn event<T>(events: &mut broadcast::Receiver<api::Event>, mut pick: impl FnMut(Happening) -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = pick(events.recv().await.expect("no event missed").what) {
                return found;
            }
        }
    };
    timeout(PATIENCE, wait).await.expect("in time")
}

async fn unpark(events: &mut broadcast::Receiver<api::Event>) -> (u32, String) {
    event(events, |what| match what {
        Happening::SessionUnpark { wakes, via, .. } => Some((wakes, via)),
        _ => None,
    })
    .await
}

async fn park(events: &mut broadcast::Receiver<api::Event>) -> String {
    event(events, |what| match what {
        Happening::SessionPark { kind } => Some(kind),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_sleep_is_announced_and_the_gateway_hears_nothing_until_somebody_is_there() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, keeps()).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    let (_, _orders) = gateway.tunnel().await;
    daemon.up().await;
    let mut events = daemon.provider.events();
    daemon.provider.sleep().await.expect("acknowledged");
    assert_eq!(frame(&mut gateway).await, Kind::Park);
    assert_eq!(park(&mut events).await, "announced");
    daemon.until("parked", |status| status.state == "parked").await;
    for _ in 0..3 {
        let gaps = daemon.provider.watch().borrow().clock_gaps;
        crate::clock::sleep(Duration::from_secs(900));
        daemon.until("a wake", |status| status.clock_gaps > gaps).await;
        daemon.provider.wake(WakeKind::Maintenance).await.expect("taken");
    }
    assert!(gateway.rest().is_empty(), "not a byte");
    daemon.provider.wake(WakeKind::Full).await.expect("taken");
    assert_eq!(frame(&mut gateway).await, Kind::Awake);
    assert_eq!(unpark(&mut events).await, (3, "same_path".to_owned()));
    daemon.up().await;
    let totals = daemon.provider.status().await.totals;
    assert_eq!(
        (totals.parks_total["announced"], totals.unparks_total["same_path"]),
        (1, 1)
    );
    assert_eq!(totals.reconnect_attempts_total["boot"], 1);
    // A gap counts from when the timer that saw it was due: up to the two minutes of a maintenance wake less.
    assert!(totals.disconnects_total.is_empty() && totals.clock_gap_seconds > 2700.0 - 3.0 * 120.0);
    daemon.down().await;
    let jobs = daemon.names(ledger::Folder::Due);
    assert_eq!(jobs.len(), 1);
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_packet_after_a_sleep_that_nobody_explained_goes_out_and_wakes_the_tunnel() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, keeps()).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    let (_, _orders) = gateway.tunnel().await;
    daemon.up().await;
    let mut events = daemon.provider.events();
    crate::clock::sleep(Duration::from_secs(3600));
    assert_eq!(park(&mut events).await, "unreachable");
    daemon.until("unverified", |status| status.state == "unverified").await;
    assert!(gateway.rest().is_empty(), "not a byte");
    let mut packet = vec![0; 60];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 60]);
    packet[12..16].copy_from_slice(&[10, 78, 0, 2]);
    packet[16..20].copy_from_slice(&[10, 77, 0, 1]);
    daemon.host.to_tunnel.send(packet.into()).await.expect("room");
    assert_eq!(frame(&mut gateway).await, Kind::Awake);
    assert_eq!(unpark(&mut events).await, (1, "same_path".to_owned()));
    daemon.up().await;
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn each_connection_of_a_session_proves_the_key_that_the_first_one_brought() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, keeps()).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    gateway.until(|seen| matches!(seen, Seen::Key).then_some(())).await;
    let (_, orders) = gateway.tunnel().await;
    daemon.up().await;
    gateway.change(|behaviour| {
        behaviour.refusal = Some(Refusal::Stale(MarmotSession {
            id: "s1".to_owned(),
            epoch: 9,
        }));
    });
    orders.send(Order::Close).expect("the tunnel lives");
    let mut proofs = Vec::new();
    while proofs.last() != Some(&10) {
        proofs.push(
            gateway
                .until(|seen| match seen {
                    Seen::Proof(epoch) => Some(epoch),
                    _ => None,
                })
                .await,
        );
    }
    assert_eq!(proofs, [2, 10], "the gateway knew of nine");
    gateway.change(|behaviour| behaviour.refusal = None);
    gateway.tunnel().await;
    daemon.until("up again", |status| status.state == "up").await;
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_process_that_stood_still_was_frozen_and_is_back_with_the_first_answer() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    let (_, orders) = gateway.tunnel().await;
    daemon.up().await;
    let mut events = daemon.provider.events();
    crate::clock::freeze(Duration::from_secs(120));
    assert_eq!(park(&mut events).await, "frozen");
    orders
        .send(Order::Send(Kind::DpdRequest, Vec::new()))
        .expect("the tunnel lives");
    assert_eq!(unpark(&mut events).await, (1, "same_path".to_owned()));
    daemon.up().await;
    daemon.exits().await.expect("no error");
}

/// A packet of this host's end of the tunnel.
fn packet(to: [u8; 4], protocol: u8) -> bytes::Bytes {
    let mut packet = vec![0; 60];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 60]);
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&[10, 78, 0, 2]);
    packet[16..20].copy_from_slice(&to);
    packet.into()
}

#[tokio::test]
async fn an_idle_tunnel_over_tls_alone_is_asked_after_a_short_freeze_and_is_up_again() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, keeps()).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    let (_, orders) = gateway.tunnel().await;
    daemon.up().await;
    crate::clock::freeze(Duration::from_secs(10));
    daemon.until("unverified", |status| status.state == "unverified").await;
    assert_eq!(frame(&mut gateway).await, Kind::DpdRequest);
    orders
        .send(Order::Send(Kind::DpdResponse, Vec::new()))
        .expect("the tunnel lives");
    daemon.up().await;
    assert!(gateway.rest().is_empty(), "asked once");
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn what_hosts_say_among_themselves_wakes_no_tunnel() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, keeps()).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    let (_, _orders) = gateway.tunnel().await;
    daemon.up().await;
    let mut events = daemon.provider.events();
    crate::clock::sleep(Duration::from_secs(3600));
    assert_eq!(park(&mut events).await, "unreachable");
    daemon.until("unverified", |status| status.state == "unverified").await;
    for to in [[224, 0, 0, 251], [224, 0, 0, 22], [239, 255, 255, 250]] {
        daemon.host.to_tunnel.send(packet(to, 17)).await.expect("room");
    }
    let dropped = |status: &crate::Status| status.session_traffic.drops.total() >= 3;
    daemon.until("dropped", dropped).await;
    assert_eq!(daemon.provider.watch().borrow().state, "unverified");
    assert!(gateway.rest().is_empty(), "not a byte");
    daemon
        .host
        .to_tunnel
        .send(packet([10, 77, 0, 1], 6))
        .await
        .expect("room");
    assert_eq!(frame(&mut gateway).await, Kind::Awake);
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_host_that_moves_asks_the_way_of_a_tunnel_over_tls_alone_before_any_packet_does() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, keeps()).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    let (_, orders) = gateway.tunnel().await;
    daemon.up().await;
    crate::route::move_to([127, 0, 0, 2].into());
    assert_eq!(frame(&mut gateway).await, Kind::DpdRequest);
    // It does not answer: another connection is made, although no packet waits.
    gateway.tunnel().await;
    drop(orders);
    daemon.up().await;
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn attempts_without_a_network_use_up_no_budget() {
    let pki = Pki::new("vpn.test");
    pki.write("password", "right\n", 0o600);
    let toml = "[gateway]\nurl = \"https://vpn.test:443\"\naddresses = [\"fe80::1\"]\n\
                [login]\nuser = \"alice\"\npassword_file = \"password\"\n\
                [reconnect]\nfirst_s = 0.05\nmax_s = 1\n";
    let (device, _host) = crate::MemoryDevice::pair(4);
    let config = client_config(&pki, toml);
    let (provider, client) = crate::Client::open(config, "client.toml".into(), crate::Place::Memory(device))
        .await
        .expect("opens");
    let client = tokio::spawn(client.run());
    let mut status = provider.watch();
    let many = status.wait_for(|status| status.totals.attempts.of("retry") >= 12);
    let totals = timeout(PATIENCE, many)
        .await
        .expect("in time")
        .expect("it runs")
        .totals
        .clone();
    assert_eq!(totals.suppressed.of("budget"), 0, "{totals:?}");
    provider
        .stop(lifecycle::StopReason::User, true)
        .await
        .expect("answered");
    client.await.expect("no panic").expect("no error");
}
