//! The local socket: who is there, and the end of a session by order.

use std::path::PathBuf;

use api::{Attendance, Client as Local, ClientError};
use wire::cstp::Kind;

use crate::client::{Client, tunnel_of};
use crate::house::{House, Wishes};

fn socket(house: &House) -> PathBuf {
    gateway::local_socket(&house.config()).expect("it is enabled")
}

#[tokio::test]
async fn sessions_are_listed_with_their_state() {
    let house = House::new();
    let (tunnel, _) = tunnel_of(&house, "alice").await;
    let (gone, _) = tunnel_of(&house, "bob").await;
    let address = gone.address;
    drop(gone);
    house.logged(&["session detached"]);
    let local = Local::new(socket(&house));
    let sessions = local.sessions().await.expect("an answer");
    let [alice, bob] = &sessions.sessions[..] else {
        panic!("two sessions: {sessions:?}");
    };
    assert_eq!(
        (alice.user.as_str(), alice.state, alice.control),
        ("alice", Attendance::Connected, true)
    );
    assert_eq!(
        (bob.user.as_str(), bob.state, bob.control),
        ("bob", Attendance::Waiting, false)
    );
    assert_eq!(bob.addresses, [std::net::IpAddr::from(address)]);
    assert_eq!((alice.epoch, alice.can_park, alice.parked.as_deref()), (1, false, None));
    let status = local.gateway_status().await.expect("an answer");
    assert_eq!((status.sessions.connected, status.sessions.waiting), (1, 1));
    assert_eq!(status.listen, [house.address.to_string()]);
    drop(tunnel);
}

#[tokio::test]
async fn a_kicked_session_hears_why_and_does_not_come_back() {
    let house = House::new();
    let (mut tunnel, cookie) = tunnel_of(&house, "alice").await;
    let local = Local::new(socket(&house));
    let id = local.sessions().await.expect("an answer").sessions[0].id.clone();
    let kicked = local.kick(&id).await.expect("it was there");
    assert_eq!((kicked.id.as_str(), kicked.user.as_str()), (id.as_str(), "alice"));
    assert_eq!(tunnel.next().await.kind, Kind::Disconnect);
    let line = house.logged(&["session.end"]);
    assert!(line.contains("admin") && line.contains(&id), "{line}");
    let refused = Client::connect(&house).await.tunnel(&cookie).await.map(drop);
    assert_eq!(refused.expect_err("over").status, 401);
    let again = local.kick(&id).await.expect_err("over");
    assert!(matches!(again, ClientError::Refused { status: 404, .. }), "{again}");
    let counters = local.sessions().await.expect("an answer").counters;
    assert_eq!(counters.disconnects_total.get("admin"), Some(&1));
}

#[tokio::test]
async fn a_gateway_that_is_told_so_has_no_socket() {
    let house = House::with(Wishes {
        change: Some(|config| config.api.enabled = false),
        ..Wishes::default()
    });
    assert!(!house.folder().join("run").exists());
}
