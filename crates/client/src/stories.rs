//! Whole lives of a client against a stub gateway on the loopback, with a packet device in memory.

use std::time::Duration;

use bytes::Bytes;
use platform::signals::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wire::cstp::Kind;
use wire::offer::Refusal;

use crate::testing::{Behaviour, Order, PATIENCE, Pki, Seen, StubGateway, client_config, client_toml};
use crate::{ClientError, Hooks, MemoryDevice, MemoryHost, Place, SignalSource, Status, run_with};

const LOGIN: &str = "[login]\nuser = \"alice\"\npassword_file = \"password\"\n";

/// A client that runs, and all its strings.
struct Client {
    task: JoinHandle<Result<(), ClientError>>,
    signals: mpsc::Sender<Signal>,
    status: watch::Receiver<Status>,
    host: MemoryHost,
}

impl Client {
    /// Starts a client that knows the right password. `more` is TOML.
    fn start(pki: &Pki, gateway: &StubGateway, more: &str) -> Self {
        pki.write("password", "right\n", 0o600);
        let more = if more.contains("[login]") {
            more.to_owned()
        } else {
            format!("{LOGIN}{more}")
        };
        let toml = format!(
            "[gateway]\nurl = \"https://vpn.test:{}\"\naddresses = [\"127.0.0.1\"]\n[reconnect]\nfirst_s = 0.05\n{more}",
            gateway.port
        );
        let config = client_config(pki, &toml);
        let path = pki.write("client.toml", &client_toml(&toml), 0o644);
        let (device, host) = MemoryDevice::pair(64);
        let (signals, orders) = mpsc::channel(8);
        let (observer, status) = watch::channel(Status::default());
        let hooks = Hooks {
            place: Place::Memory(device),
            signals: SignalSource::Channel(orders),
            status: Some(observer),
            ..Hooks::default()
        };
        let task = tokio::spawn(run_with(config, path.into(), hooks));
        Self {
            task,
            signals,
            status,
            host,
        }
    }

    async fn signal(&self, signal: Signal) {
        self.signals.send(signal).await.expect("the client runs");
    }

    async fn until(&mut self, what: &str, condition: impl FnMut(&Status) -> bool) -> Status {
        let reached = match timeout(PATIENCE, self.status.wait_for(condition)).await {
            Ok(Ok(status)) => Some(status.clone()),
            Ok(Err(_)) => panic!("the client ended before: {what}"),
            Err(_) => None,
        };
        reached.unwrap_or_else(|| panic!("not in time: {what}; {:?}", self.status.borrow()))
    }

    async fn up(&mut self) -> Status {
        self.until("up", |status| status.state == "up").await
    }

    /// A packet to the far side comes back with its addresses exchanged.
    async fn ping(&mut self, number: u8) {
        let packet = packet([10, 78, 0, 2], [10, 77, 0, 1], number);
        self.host.to_tunnel.send(packet.into()).await.expect("room");
        let back = self.arrival().await;
        assert_eq!(back, packet_bytes([10, 77, 0, 1], [10, 78, 0, 2], number));
    }

    async fn arrival(&mut self) -> Bytes {
        timeout(PATIENCE, self.host.from_tunnel.recv())
            .await
            .expect("a packet in time")
            .expect("the device lives")
    }

    async fn ended(self) -> Result<(), ClientError> {
        timeout(PATIENCE, self.task)
            .await
            .expect("the client ends in time")
            .expect("no panic")
    }

    async fn stopped(self) {
        self.signal(Signal::Terminate).await;
        self.ended().await.expect("a stop is no error");
    }
}

fn packet(source: [u8; 4], destination: [u8; 4], number: u8) -> Vec<u8> {
    let mut bytes = vec![number; 60];
    bytes[..4].copy_from_slice(&[0x45, 0, 0, 60]);
    bytes[12..16].copy_from_slice(&source);
    bytes[16..20].copy_from_slice(&destination);
    bytes
}

fn packet_bytes(source: [u8; 4], destination: [u8; 4], number: u8) -> Bytes {
    packet(source, destination, number).into()
}

fn logins(seen: &[Seen]) -> usize {
    seen.iter().filter(|seen| matches!(seen, Seen::Login(_))).count()
}

#[tokio::test]
async fn a_packet_goes_there_and_back_and_a_stop_says_goodbye() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let mut client = Client::start(&pki, &gateway, "");
    let status = client.up().await;
    let tunnel = status.tunnel.expect("granted");
    assert_eq!(tunnel.addresses, ["10.78.0.2/32".parse().expect("net")]);
    assert_eq!((tunnel.mtu, tunnel.session), (1400, Some(("s1".to_owned(), 1))));
    client.ping(1).await;

    let mut status = client.status.clone();
    client.stopped().await;
    let (kind, payload) = gateway
        .until(|seen| match seen {
            Seen::Frame(kind, payload) => Some((kind, payload)),
            _ => None,
        })
        .await;
    assert_eq!((kind, payload.first()), (Kind::Disconnect, Some(&0xb0)));
    let status = status.borrow_and_update().clone();
    assert_eq!((status.traffic.packets_out, status.traffic.packets_in), (1, 1));
    assert!(status.stop_ack_us.expect("acknowledged") < 250_000);
    assert_eq!((status.state, status.tunnel), ("idle", None));
}

#[tokio::test]
async fn a_gateway_that_hangs_up_after_every_reply_is_called_again() {
    let pki = Pki::new("vpn.test");
    let gateway = StubGateway::start(
        &pki,
        Behaviour {
            close_after_reply: true,
            ..Behaviour::default()
        },
    )
    .await;
    let mut client = Client::start(&pki, &gateway, "");
    client.up().await;
    client.ping(1).await;
    client.stopped().await;
}

#[tokio::test]
async fn a_gateway_without_xml_is_logged_in_to_by_the_legacy_form() {
    let pki = Pki::new("vpn.test");
    let gateway = StubGateway::start(
        &pki,
        Behaviour {
            xml: false,
            ..Behaviour::default()
        },
    )
    .await;
    let mut client = Client::start(&pki, &gateway, "");
    client.up().await;
    client.ping(1).await;
    client.stopped().await;
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_and_is_exit_code_4() {
    let pki = Pki::new("vpn.test");
    pki.write("wrong", "wrong\n", 0o600);
    let mut gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let client = Client::start(&pki, &gateway, "[login]\nuser = \"alice\"\npassword_file = \"wrong\"\n");
    let error = client.ended().await.expect_err("refused");
    assert_eq!(error.exit_code(), 4);
    assert_eq!(error.to_string(), "the gateway refused the login: Login failed.");
    let denied = gateway
        .rest()
        .iter()
        .filter(|seen| matches!(seen, Seen::Denied))
        .count();
    assert_eq!(denied, 1);
}

#[tokio::test]
async fn nobody_to_ask_for_a_password_is_said_and_not_tried_again() {
    let pki = Pki::new("vpn.test");
    let gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let client = Client::start(&pki, &gateway, "[login]\nuser = \"alice\"\n");
    let error = client.ended().await.expect_err("no password");
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("`password`"), "{error}");
}

#[tokio::test]
async fn a_client_certificate_logs_in_and_its_absence_is_named() {
    let pki = Pki::new("vpn.test");
    pki.write("chain.pem", &pki.client_chain(), 0o644);
    pki.write("key.pem", &pki.client_key(), 0o600);
    let behaviour = Behaviour {
        demand_certificate: true,
        ..Behaviour::default()
    };
    let mut gateway = StubGateway::start(&pki, behaviour).await;
    let login = "[login]\ncertificate_file = \"chain.pem\"\nkey_file = \"key.pem\"\n";
    let mut client = Client::start(&pki, &gateway, login);
    client.up().await;
    client.ping(1).await;
    client.stopped().await;
    assert_eq!(logins(&gateway.rest()), 1);

    let client = Client::start(&pki, &gateway, "");
    let error = client.ended().await.expect_err("no certificate");
    assert_eq!(error.exit_code(), 4, "{error}");
    assert!(
        error
            .to_string()
            .contains("wants a client certificate; set login.certificate_file"),
        "{error}"
    );
}

#[tokio::test]
async fn a_lost_connection_comes_back_with_the_cookie_and_no_login() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let mut client = Client::start(&pki, &gateway, "");
    let (_, orders) = gateway.tunnel().await;
    client.up().await;
    client.ping(1).await;
    orders.send(Order::Close).expect("the tunnel lives");
    client.until("lost", |status| status.path_losses == 1).await;
    let (epoch, _) = gateway.tunnel().await;
    assert_eq!(epoch, 2);
    let status = client.up().await;
    assert_eq!(
        (status.sessions, status.tunnel.and_then(|tunnel| tunnel.session)),
        (1, Some(("s1".to_owned(), 2)))
    );
    client.ping(2).await;
    client.stopped().await;
    assert_eq!(logins(&gateway.rest()), 0, "the one login was seen before");
}

#[tokio::test]
async fn a_dead_cookie_leads_to_one_new_login() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let mut client = Client::start(&pki, &gateway, "");
    let (_, orders) = gateway.tunnel().await;
    client.up().await;
    gateway.forget_cookies();
    orders.send(Order::Close).expect("the tunnel lives");
    client.until("a second session", |status| status.sessions == 2).await;
    client.ping(1).await;
    client.stopped().await;
    assert_eq!(logins(&gateway.rest()), 1);
}

#[tokio::test]
async fn a_busy_gateway_is_tried_until_it_has_room() {
    let pki = Pki::new("vpn.test");
    let busy = Behaviour {
        refusal: Some(Refusal::Unavailable(Some("full".into()))),
        ..Behaviour::default()
    };
    let mut gateway = StubGateway::start(&pki, busy).await;
    let mut client = Client::start(&pki, &gateway, "");
    for _ in 0..2 {
        gateway.until(|seen| matches!(seen, Seen::Call).then_some(())).await;
    }
    gateway.change(|behaviour| behaviour.refusal = None);
    client.up().await;
    client.ping(1).await;
    client.stopped().await;
    assert_eq!(logins(&gateway.rest()), 0, "it came back with the cookie");
}

#[tokio::test]
async fn a_reconnect_on_order_replaces_the_connection_and_keeps_the_session() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let mut client = Client::start(&pki, &gateway, "");
    let (first, _orders) = gateway.tunnel().await;
    client.up().await;
    client.signal(Signal::TunnelUp).await;
    let (second, _more) = gateway.tunnel().await;
    let closed = gateway
        .until(|seen| match seen {
            Seen::Closed(epoch) => Some(epoch),
            _ => None,
        })
        .await;
    assert_eq!((first, second, closed), (1, 2, 1));
    client.ping(1).await;
    let status = client.up().await;
    assert_eq!((status.sessions, status.path_losses), (1, 0));
    client.stopped().await;
}

#[tokio::test]
async fn the_old_connection_goes_on_if_the_new_one_fails() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let mut client = Client::start(&pki, &gateway, "");
    let (_, _orders) = gateway.tunnel().await;
    client.up().await;
    gateway.change(|behaviour| behaviour.refusal = Some(Refusal::Unavailable(None)));
    client.signal(Signal::TunnelUp).await;
    gateway.until(|seen| matches!(seen, Seen::Call).then_some(())).await;
    client.ping(1).await;
    client.stopped().await;
}

#[tokio::test]
async fn the_gateways_goodbye_is_the_end_with_its_reason() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let mut client = Client::start(&pki, &gateway, "");
    let (_, orders) = gateway.tunnel().await;
    client.up().await;
    orders
        .send(Order::Send(Kind::Disconnect, b"\xb0maintenance\x1b[2J".to_vec()))
        .expect("the tunnel lives");
    let error = client.ended().await.expect_err("ended");
    assert_eq!(error.exit_code(), 6);
    assert_eq!(error.to_string(), "the session is over: admin: maintenance\\u{1b}[2J");
}

#[tokio::test]
async fn a_gateway_that_goes_away_is_waited_for() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let mut client = Client::start(&pki, &gateway, "");
    let (_, orders) = gateway.tunnel().await;
    client.up().await;
    orders
        .send(Order::Send(Kind::Disconnect, Vec::new()))
        .expect("the tunnel lives");
    let (_, _orders) = gateway.tunnel().await;
    client.up().await;
}

#[tokio::test]
async fn a_hostile_grant_is_refused_with_the_reason_and_a_goodbye() {
    let pki = Pki::new("vpn.test");
    let mut behaviour = Behaviour::default();
    behaviour.grant.include = vec!["127.0.0.1/32".parse().expect("net")];
    let mut gateway = StubGateway::start(&pki, behaviour).await;
    let client = Client::start(&pki, &gateway, "");
    let error = client.ended().await.expect_err("refused");
    assert_eq!(
        error.to_string(),
        "the gateway pushed the route 127.0.0.1/32, which is its own address"
    );
    gateway
        .until(|seen| matches!(seen, Seen::Frame(Kind::Disconnect, _)).then_some(()))
        .await;
}

#[tokio::test]
async fn a_grant_that_cannot_be_read_is_not_asked_for_again_with_the_same_cookie() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let mut client = Client::start(&pki, &gateway, "");
    let (_, orders) = gateway.tunnel().await;
    client.up().await;
    gateway.change(|behaviour| behaviour.garbled_grant = true);
    orders.send(Order::Close).expect("the tunnel lives");
    gateway.until(|seen| matches!(seen, Seen::Login(_)).then_some(())).await;
    gateway.change(|behaviour| behaviour.garbled_grant = false);
    client.until("a second session", |status| status.sessions == 2).await;
    client.ping(1).await;
    client.stopped().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_gateway_that_says_nothing() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    gateway.port = mute.local_addr().expect("address").port();
    let client = Client::start(&pki, &gateway, "");
    let (_held, _) = timeout(PATIENCE, mute.accept())
        .await
        .expect("called")
        .expect("accepted");
    let begin = tokio::time::Instant::now();
    client.stopped().await;
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn the_tunnel_goes_down_and_up_again_while_the_daemon_stays() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let mut client = Client::start(&pki, &gateway, "");
    gateway.tunnel().await;
    client.up().await;
    client.signal(Signal::TunnelDown).await;
    client.until("idle", |status| status.state == "idle").await;
    client.signal(Signal::TunnelDown).await;
    client.signal(Signal::TunnelUp).await;
    client.until("a second session", |status| status.sessions == 2).await;
    client.ping(1).await;
    client.stopped().await;
    assert_eq!(logins(&gateway.rest()), 1, "a start after a stop logs in anew");
}

#[tokio::test]
async fn a_client_told_to_start_down_waits_for_its_order() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let mut client = Client::start(&pki, &gateway, "[tunnel]\nstart = \"down\"\n");
    client.until("idle", |status| status.state == "idle").await;
    client.signal(Signal::TunnelUp).await;
    client.up().await;
    assert_eq!(logins(&gateway.rest()), 1);
    client.stopped().await;
}

#[tokio::test]
async fn packets_with_a_foreign_source_stay_here_and_are_counted() {
    let pki = Pki::new("vpn.test");
    let gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let mut client = Client::start(&pki, &gateway, "");
    client.up().await;
    client
        .host
        .to_tunnel
        .send(packet_bytes([192, 0, 2, 9], [10, 77, 0, 1], 7))
        .await
        .expect("room");
    client.ping(1).await;
    let status = client.status.clone();
    client.stopped().await;
    let traffic = status.borrow().traffic;
    assert_eq!(traffic.packets_out, 1);
    assert_eq!(traffic.drops.of(packet::DropReason::ForeignSource), 1);
}

#[tokio::test]
async fn a_frozen_client_goes_on_over_the_same_connection_and_forwards_nothing_old() {
    let pki = Pki::new("vpn.test");
    let mut behaviour = Behaviour::default();
    behaviour.grant.dpd = Some(Duration::from_secs(2));
    let mut gateway = StubGateway::start(&pki, behaviour).await;
    let mut client = Client::start(&pki, &gateway, "");
    let (_, _orders) = gateway.tunnel().await;
    client.up().await;
    client.ping(1).await;

    crate::clock::freeze(Duration::from_secs(600));
    for _ in 0..3 {
        let old = packet_bytes([10, 78, 0, 2], [10, 77, 0, 1], 66);
        client.host.to_tunnel.send(old).await.expect("room");
    }
    client.until("the gap", |status| status.clock_gaps == 1).await;
    client.ping(2).await;
    let status = client.status.clone();
    client.stopped().await;
    let status = status.borrow().clone();
    assert_eq!((status.path_losses, status.sessions), (0, 1));
    assert_eq!(status.traffic.drops.of(packet::DropReason::Stale), 3);
    assert_eq!(status.traffic.packets_out, 2);
    let probes = gateway
        .rest()
        .iter()
        .filter(|seen| matches!(seen, Seen::Frame(Kind::DpdRequest, _)))
        .count();
    assert_eq!(probes, 0, "time in a gap is no silence of the gateway");
}

#[tokio::test]
async fn a_reload_with_a_mistake_changes_nothing_and_a_good_one_counts_from_the_next_connection() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let mut client = Client::start(&pki, &gateway, "");
    gateway.tunnel().await;
    client.up().await;
    let path = pki.folder().join("client.toml");
    let good = std::fs::read_to_string(path).expect("readable");
    pki.write("client.toml", &good.replace("user =", "usr ="), 0o644);
    client.signal(Signal::Reload).await;
    client.ping(1).await;
    let carol = good.replace("\"alice\"", "\"carol\"");
    pki.write("client.toml", &carol, 0o644);
    client.signal(Signal::Reload).await;
    client.ping(2).await;
    client.signal(Signal::TunnelDown).await;
    client.signal(Signal::TunnelUp).await;
    let user = gateway
        .until(|seen| match seen {
            Seen::Login(user) => Some(user),
            _ => None,
        })
        .await;
    assert_eq!(user, "carol");
    client.stopped().await;
}

#[tokio::test]
async fn a_freeze_shorter_than_the_idle_tick_condemns_nobody_while_a_probe_is_out() {
    let pki = Pki::new("vpn.test");
    let mut behaviour = Behaviour::default();
    behaviour.grant.dpd = Some(Duration::from_secs(2));
    let mut gateway = StubGateway::start(&pki, behaviour).await;
    let mut client = Client::start(&pki, &gateway, "");
    let (_, _orders) = gateway.tunnel().await;
    client.up().await;
    // So long that traffic is forgotten, and the clocks are looked at every 5 s only.
    crate::clock::freeze(Duration::from_secs(600));
    client.until("the long gap", |status| status.clock_gaps == 1).await;
    gateway
        .until(|seen| matches!(seen, Seen::Frame(Kind::DpdRequest, _)).then_some(()))
        .await;
    crate::clock::freeze(Duration::from_millis(4500));
    let status = client.until("the short gap", |status| status.clock_gaps == 2).await;
    assert_eq!(status.path_losses, 0);
    client.ping(1).await;
    let status = client.status.borrow().clone();
    assert_eq!((status.path_losses, status.sessions), (0, 1));
    client.stopped().await;
}

/// Replaces the configuration by one for `gateway` and `user`, and tells the client.
async fn reload(client: &Client, pki: &Pki, gateway: &StubGateway, user: &str) {
    let toml = format!(
        "[gateway]\nurl = \"https://vpn.test:{}\"\naddresses = [\"127.0.0.1\"]\n[reconnect]\nfirst_s = 0.05\n{}",
        gateway.port,
        LOGIN.replace("alice", user),
    );
    pki.write("client.toml", &client_toml(&toml), 0o644);
    client.signal(Signal::Reload).await;
}

#[tokio::test]
async fn another_gateway_after_a_reload_sees_no_cookie_of_the_old_one_and_a_new_session_starts() {
    let pki = Pki::new("vpn.test");
    let mut old = StubGateway::start(&pki, Behaviour::default()).await;
    let mut new = StubGateway::start(&pki, Behaviour::default()).await;
    let mut client = Client::start(&pki, &old, "");
    let (_, _orders) = old.tunnel().await;
    client.up().await;
    reload(&client, &pki, &new, "alice").await;
    client.signal(Signal::TunnelUp).await;
    client.until("a second session", |status| status.sessions == 2).await;
    client.ping(1).await;
    client.stopped().await;
    let seen = new.rest();
    assert_eq!(logins(&seen), 1);
    assert!(!seen.iter().any(|seen| matches!(seen, Seen::UnknownCookie)), "{seen:?}");
}

#[tokio::test]
async fn another_user_after_a_reload_logs_in_when_the_connection_is_lost() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let mut client = Client::start(&pki, &gateway, "");
    let (_, orders) = gateway.tunnel().await;
    client.up().await;
    reload(&client, &pki, &gateway, "carol").await;
    client.ping(1).await;
    orders.send(Order::Close).expect("the tunnel lives");
    client.until("a second session", |status| status.sessions == 2).await;
    client.stopped().await;
    let users = gateway.rest().into_iter().filter_map(|seen| match seen {
        Seen::Login(user) => Some(user),
        _ => None,
    });
    assert_eq!(users.collect::<Vec<_>>(), ["carol"]);
}

#[tokio::test]
async fn an_attempt_in_flight_during_a_reload_leaves_no_cookie_behind() {
    let pki = Pki::new("vpn.test");
    let busy = Behaviour {
        refusal: Some(Refusal::Unavailable(Some("full".into()))),
        ..Behaviour::default()
    };
    let mut old = StubGateway::start(&pki, busy).await;
    let mut new = StubGateway::start(&pki, Behaviour::default()).await;
    let mut client = Client::start(&pki, &old, "");
    old.until(|seen| matches!(seen, Seen::Login(_)).then_some(())).await;
    reload(&client, &pki, &new, "alice").await;
    client.up().await;
    client.stopped().await;
    let seen = new.rest();
    assert_eq!(logins(&seen), 1);
    assert!(!seen.iter().any(|seen| matches!(seen, Seen::UnknownCookie)), "{seen:?}");
}

#[tokio::test]
async fn a_device_that_goes_away_ends_the_client_with_an_error() {
    let pki = Pki::new("vpn.test");
    let mut gateway = StubGateway::start(&pki, Behaviour::default()).await;
    let mut client = Client::start(&pki, &gateway, "");
    gateway.tunnel().await;
    client.up().await;
    let Client {
        task,
        signals: _signals,
        status: _status,
        host,
    } = client;
    drop(host);
    let error = timeout(PATIENCE, task)
        .await
        .expect("ends")
        .expect("no panic")
        .expect_err("no device");
    assert!(matches!(error, ClientError::DeviceGone(_)), "{error}");
    gateway
        .until(|seen| matches!(seen, Seen::Frame(Kind::Disconnect, _)).then_some(()))
        .await;
}
