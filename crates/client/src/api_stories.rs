//! The API socket of a running client, from the other end.

use std::os::unix::fs::PermissionsExt;

use api::{Happening, Owed, State, UpOrder, Wanted};
use tokio::time::timeout;

use crate::stop_stories::{Daemon, stub};
use crate::testing::{PATIENCE, Pki, client_config};
use crate::{Client, MemoryDevice, Place};

/// Events until `pick` takes one.
async fn event<T>(events: &mut api::EventStream, mut pick: impl FnMut(Happening) -> Option<T>) -> T {
    let wait = async {
        loop {
            let event = events.next().await.expect("a line").expect("no end yet");
            if let Some(found) = pick(event.what) {
                return found;
            }
        }
    };
    timeout(PATIENCE, wait).await.expect("in time")
}

fn state_of(what: &Happening) -> Option<State> {
    match what {
        Happening::Status { status } => Some(status.state),
        _ => None,
    }
}

#[tokio::test]
async fn up_and_down_over_the_socket_tell_what_became_of_them() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let daemon = Daemon::open(&pki, gateway.port, "start = \"down\"").await;
    let client = api::Client::new(&daemon.socket);
    let mut events = client.events().await.expect("events");
    let status = client.status().await.expect("status");
    assert_eq!(
        (status.state, status.wanted, status.generation),
        (State::Idle, Wanted::Down, 0)
    );

    let up = client.up(UpOrder::default()).await.expect("accepted");
    assert_eq!((up.state, up.generation, up.already), (State::Starting, 1, false));
    event(&mut events, |what| (state_of(&what) == Some(State::Up)).then_some(())).await;
    let status = client.status().await.expect("status");
    assert_eq!(
        (status.state, status.wanted, status.sessions),
        (State::Up, Wanted::Up, 1)
    );
    assert_eq!(status.user.as_deref(), Some("alice"));
    let tunnel = status.tunnel.expect("granted");
    assert_eq!((tunnel.addresses, tunnel.mtu), (vec!["10.78.0.2/32".to_owned()], 1400));
    assert!(client.up(UpOrder::default()).await.expect("accepted").already);

    let down = client.down().await.expect("acknowledged");
    assert_eq!(
        (down.already, down.owed, down.residue.len()),
        (false, Owed::Recorded, 0)
    );
    let told = event(&mut events, |what| match what {
        Happening::StopAck(down) => Some(down),
        _ => None,
    });
    assert_eq!(told.await, down);
    let status = client.status().await.expect("status");
    assert_eq!((status.state, status.last_stop), (State::Idle, Some(down)));
    assert!(client.down().await.expect("acknowledged").already);
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_status_says_why_the_tunnel_is_not_up_and_when_it_is_tried_again() {
    let pki = Pki::new("vpn.test");
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = closed.local_addr().expect("address").port();
    drop(closed);
    let daemon = Daemon::open(&pki, port, "").await;
    let client = api::Client::new(&daemon.socket);
    let mut events = client.events().await.expect("events");
    let problem = event(&mut events, |what| match what {
        Happening::Status { status } => status.problem.filter(|problem| problem.next_attempt_unix_ms.is_some()),
        _ => None,
    })
    .await;
    assert!(problem.message.contains("127.0.0.1"), "{}", problem.message);
    client.down().await.expect("acknowledged");
    let status = client.status().await.expect("status");
    assert_eq!((status.state, status.problem), (State::Idle, None));
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn the_socket_is_for_its_owner_and_group_and_goes_with_the_daemon() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let daemon = Daemon::start(&pki, &gateway).await;
    let socket = daemon.socket.clone();
    let mode = std::fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777;
    assert!(mode & 0o007 == 0 && mode & 0o600 == 0o600, "{mode:o}");
    daemon.exits().await.expect("no error");
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_second_daemon_for_one_tunnel_is_refused_and_leaves_the_first_alone() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    daemon.up().await;
    let config = client_config(&pki, "[login]\nuser = \"alice\"\npassword_file = \"password\"\n");
    let (device, _host) = MemoryDevice::pair(4);
    let second = Client::open(config, "client.toml".into(), Place::Memory(device)).await;
    let error = second.err().expect("refused").to_string();
    let own = std::process::id();
    assert_eq!(error, format!("tunnel `marmot` is already run by process {own}"));
    // From elsewhere, where neither its socket nor its slot is seen.
    let toml = "[tunnel]\nstate_dir = \"state\"\nruntime_dir = \"elsewhere\"\n[login]\nuser = \"alice\"\n";
    let (device, _host) = MemoryDevice::pair(4);
    let third = Client::open(client_config(&pki, toml), "client.toml".into(), Place::Memory(device)).await;
    assert_eq!(third.err().expect("refused").to_string(), error);
    assert!(!pki.folder().join("elsewhere").exists());
    let status = api::Client::new(&daemon.socket).status().await.expect("status");
    assert_eq!(status.state, State::Up);
    assert_eq!(
        status.housekeeping.counts.due, 0,
        "its record was not taken for a leftover"
    );
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_disk_that_stands_still_is_named_in_the_status_and_holds_up_nobody() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let mut daemon = Daemon::start(&pki, &gateway).await;
    daemon.up().await;
    let stalled = daemon.books.stall();
    let status = api::Client::new(&daemon.socket).status().await.expect("status");
    assert_eq!(status.state, State::Up);
    assert_eq!(status.housekeeping.problem.as_deref(), Some("the disk does not answer"));
    drop(stalled);
    daemon.exits().await.expect("no error");
}

#[tokio::test]
async fn a_job_that_is_not_there_cannot_be_tried_again() {
    let pki = Pki::new("vpn.test");
    let gateway = stub(&pki).await;
    let daemon = Daemon::start(&pki, &gateway).await;
    let client = api::Client::new(&daemon.socket);
    for job in ["1800000000-0123456789abcdef", "nonsense"] {
        let error = client.retry(job).await.expect_err("there is none").to_string();
        assert!(error.contains("there is no job"), "{error}");
    }
    daemon.exits().await.expect("no error");
}
