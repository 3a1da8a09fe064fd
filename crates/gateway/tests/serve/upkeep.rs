//! Reload and stop.

use channel::Closed;
use wire::cstp::Kind;

use crate::client::{Client, log_in, packet, tunnel_of};
use crate::house::{House, PASSWORD, Wishes, client_authority, client_certificate, config_text, users};

#[tokio::test]
async fn a_new_certificate_is_used_without_ending_a_session() {
    let mut house = House::new();
    let (mut tunnel, _) = tunnel_of(&house, "alice").await;
    house.renew_certificate();
    house.reload.ask();
    house.logged(&["configuration reloaded"]);
    // Clients trust the new certificate only.
    log_in(&house, "bob").await;
    tunnel.send(Kind::DpdRequest, b"still there").await;
    assert_eq!(tunnel.next().await.kind, Kind::DpdResponse);
}

#[tokio::test]
async fn a_user_who_was_removed_is_told_and_cannot_come_back() {
    let house = House::new();
    let (mut alice, cookie) = tunnel_of(&house, "alice").await;
    let (mut bob, _) = tunnel_of(&house, "bob").await;
    house.write("users.toml", &users(&["bob"]));
    house.reload.ask();
    assert_eq!(alice.next().await.kind, Kind::Disconnect);
    alice.end().await;
    let line = house.logged(&["session.end"]);
    assert!(line.contains("alice") && line.contains("admin"), "{line}");
    assert_eq!(
        Client::connect(&house)
            .await
            .tunnel(&cookie)
            .await
            .err()
            .map(|no| no.status),
        Some(401)
    );
    bob.send(Kind::DpdRequest, b"").await;
    assert_eq!(bob.next().await.kind, Kind::DpdResponse);
}

#[tokio::test]
async fn a_certificate_that_was_verified_before_a_reload_logs_nobody_in() {
    let auth = "methods = [\"certificate\"]\nclient_ca_file = \"clients.crt\"";
    let house = House::with(Wishes {
        auth,
        ..Wishes::default()
    });
    let known = client_certificate("alice", &house.clients);
    let mut client = Client::connect_with(&house, Some(known)).await.expect("TLS");
    house.write("clients.crt", &client_authority().pem());
    house.reload.ask();
    house.logged(&["configuration reloaded"]);
    assert_eq!(client.init().await.0.head.status, 503);
    client.closed().await;
}

#[tokio::test]
async fn a_login_begun_before_a_reload_obeys_the_new_rules() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.init().await;
    house.write(
        "gateway.toml",
        &config_text(&Wishes {
            auth: "methods = [\"password\", \"certificate\"]\nrequire_both = true\nclient_ca_file = \"clients.crt\"",
            ..Wishes::default()
        }),
    );
    house.reload.ask();
    house.logged(&["configuration reloaded"]);
    assert_eq!(client.answer("alice", PASSWORD).await.0.head.status, 503);
}

#[tokio::test]
async fn a_reserved_address_that_another_session_of_the_user_holds_is_warned_of() {
    let house = House::new();
    let reserved = format!("{}ipv4 = \"10.78.0.9\"\n", users(&["alice"]));
    house.write("users.toml", &reserved);
    house.reload.ask();
    house.logged(&["configuration reloaded"]);
    let (first, _) = tunnel_of(&house, "alice").await;
    assert_eq!(first.address.octets(), [10, 78, 0, 9]);
    let (second, _) = tunnel_of(&house, "alice").await;
    assert_ne!(second.address, first.address);
    house.logged(&["WARN", "10.78.0.9", "alice"]);
}

#[tokio::test]
async fn new_settings_are_for_new_tunnels() {
    let house = House::new();
    house.write(
        "gateway.toml",
        &config_text(&Wishes {
            auth: "banner = \"maintenance tonight\"",
            ..Wishes::default()
        }),
    );
    house.reload.ask();
    house.logged(&["configuration reloaded"]);
    let (tunnel, _) = tunnel_of(&house, "alice").await;
    assert_eq!(tunnel.header("X-CSTP-Banner"), Some("maintenance tonight"));
}

#[tokio::test]
async fn a_reload_with_a_mistake_changes_nothing_and_says_where_it_is() {
    let house = House::new();
    let (mut tunnel, _) = tunnel_of(&house, "alice").await;
    // A good users file beside a bad configuration: neither is applied.
    house.write("users.toml", &users(&["bob"]));
    house.write(
        "gateway.toml",
        &config_text(&Wishes {
            more: "[limits]\nsesions = 3",
            ..Wishes::default()
        }),
    );
    house.reload.ask();
    let line = house.logged(&["ERROR", "reload refused"]);
    assert!(line.contains("gateway.toml:12:1") || line.contains("sesions"), "{line}");
    tunnel.send(Kind::DpdRequest, b"").await;
    assert_eq!(tunnel.next().await.kind, Kind::DpdResponse);
    log_in(&house, "alice").await;
}

#[tokio::test]
async fn what_only_a_start_can_change_is_refused() {
    let house = House::new();
    let pool = Some("ipv4 = \"10.79.0.0/24\"");
    house.write(
        "gateway.toml",
        &config_text(&Wishes {
            pool,
            ..Wishes::default()
        }),
    );
    house.reload.ask();
    house.logged(&["ERROR", "reload refused", "[pool]", "restart"]);
}

#[tokio::test]
async fn a_stop_ends_tunnels_without_a_word_so_that_clients_come_back() {
    let house = House::new();
    let (tunnel, _) = tunnel_of(&house, "alice").await;
    let _half_open = tokio::net::TcpStream::connect(house.address).await.expect("connect");
    let address = house.address;
    house.stop().expect("a clean stop");
    assert!(matches!(tunnel.end().await, Closed::Eof { clean: true }));
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn without_a_folder_a_stop_accounts_for_every_session() {
    let mut house = House::with(Wishes {
        change: Some(|config| config.storage.state_dir = None),
        ..Wishes::default()
    });
    let (mut tunnel, _) = tunnel_of(&house, "alice").await;
    let up = packet(tunnel.address, std::net::Ipv4Addr::new(192, 168, 7, 7), b"up");
    tunnel.send(Kind::Data, &up).await;
    house.packet().await;
    let lines = house.stop_and_read();
    let ends: Vec<_> = lines.iter().filter(|line| line.contains("session.end")).collect();
    assert_eq!(ends.len(), 1);
    assert!(
        ends[0].contains("packets_in=1") && ends[0].contains("admin"),
        "{}",
        ends[0]
    );
}
