//! Going on with a session: who may, over a restart, and after what the gateway knew is lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use session::resume::{SEED_BYTES, SessionKey};
use wire::cstp::Kind;
use wire::offer::{MarmotSession, Resume};

use crate::client::{Client, NoTunnel, Tunnel, log_in, tunnel_of};
use crate::house::{House, Wishes, users};

/// A client of ours that can park, and what it keeps in memory.
struct Sleeper {
    key: SessionKey,
    cookie: String,
    ticket: String,
    session: MarmotSession,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn offer(key: &SessionKey) -> String {
    let key = hex(&key.public().0);
    format!("X-CSTP-Address-Type: IPv4\r\nX-Marmot-Session: 1\r\nX-Marmot-Park: v=1;key={key}\r\n")
}

fn resume_header(resume: &Resume) -> String {
    let MarmotSession { id, epoch } = &resume.session;
    format!("X-Marmot-Resume: {id};{epoch};{}\r\n", hex(&resume.signature))
}

fn session_of(tunnel: &Tunnel) -> MarmotSession {
    let session = tunnel.header("X-Marmot-Session").expect("a session");
    let (id, epoch) = session.split_once(';').expect("id and epoch");
    MarmotSession {
        id: id.to_owned(),
        epoch: epoch.parse().expect("a number"),
    }
}

impl Sleeper {
    async fn new(house: &House, user: &str, seed: u8) -> (Self, Tunnel) {
        let key = SessionKey::from_seed([seed; SEED_BYTES]);
        let cookie = log_in(house, user).await;
        let client = Client::connect(house).await;
        let tunnel = client.tunnel_with(&cookie, &offer(&key)).await.expect("a tunnel");
        let ticket = tunnel.header("X-Marmot-Ticket").expect("a ticket").to_owned();
        let session = session_of(&tunnel);
        let this = Self {
            key,
            cookie,
            ticket,
            session,
        };
        (this, tunnel)
    }

    /// Asks with `shown`, signed by `key`, as `epoch`.
    async fn asks(&self, house: &House, shown: &str, key: &SessionKey, epoch: u64) -> Result<Tunnel, NoTunnel> {
        let client = Client::connect(house).await;
        let session = MarmotSession {
            id: self.session.id.clone(),
            epoch,
        };
        let proof = key.sign(&client.binding(), session);
        let headers = offer(&self.key) + &resume_header(&proof);
        client.tunnel_with(shown, &headers).await
    }

    /// Goes on with its ticket.
    async fn back(&self, house: &House, epoch: u64) -> Result<Tunnel, NoTunnel> {
        self.asks(house, &self.ticket, &self.key, epoch).await
    }
}

fn status(outcome: Result<Tunnel, NoTunnel>) -> u16 {
    outcome.map_or_else(|no| no.status, |_| 200)
}

fn state(folder: &Path) -> std::path::PathBuf {
    folder.join("state/_gateway/sessions.redb")
}

#[tokio::test]
async fn a_client_goes_on_with_its_ticket_or_its_cookie_and_a_proof() {
    let house = House::new();
    let (sleeper, first) = Sleeper::new(&house, "alice", 1).await;
    assert_eq!(first.header("X-Marmot-Park"), Some("28800"));
    let second = sleeper.back(&house, 2).await.expect("a tunnel");
    assert_eq!(second.address, first.address);
    assert_eq!(session_of(&second).epoch, 2);
    let ticket = second.header("X-Marmot-Ticket").expect("a new one").to_owned();
    assert_ne!(ticket, sleeper.ticket);
    let third = sleeper
        .asks(&house, &sleeper.cookie, &sleeper.key, 9)
        .await
        .expect("a tunnel");
    assert_eq!(session_of(&third).epoch, 9);
    assert_eq!(status(sleeper.asks(&house, &ticket, &sleeper.key, 10).await), 200);
}

#[tokio::test]
async fn a_stolen_cookie_or_ticket_opens_nothing_and_counts_against_the_thief() {
    let house = House::with(Wishes {
        more: "[limits]\nlogin_attempts_per_address = 6",
        ..Wishes::default()
    });
    let (sleeper, mut tunnel) = Sleeper::new(&house, "alice", 1).await;
    let other = SessionKey::from_seed([2; SEED_BYTES]);
    for stolen in [&sleeper.cookie, &sleeper.ticket] {
        let without = Client::connect(&house).await.tunnel(stolen).await.map(drop);
        assert_eq!(without.expect_err("no proof").status, 401);
        assert_eq!(status(sleeper.asks(&house, stolen, &other, 2).await), 401);
    }
    // A proof is good for the connection that it was made for, and for no other.
    let elsewhere = Client::connect(&house).await.binding();
    let proof = sleeper.key.sign(
        &elsewhere,
        MarmotSession {
            epoch: 2,
            ..sleeper.session.clone()
        },
    );
    let headers = offer(&sleeper.key) + &resume_header(&proof);
    let replayed = Client::connect(&house)
        .await
        .tunnel_with(&sleeper.cookie, &headers)
        .await;
    assert_eq!(status(replayed), 401);
    assert_eq!(status(sleeper.asks(&house, &sleeper.cookie, &other, 2).await), 401);
    assert_eq!(
        status(sleeper.asks(&house, &sleeper.cookie, &other, 2).await),
        503,
        "no more tries from there"
    );
    tunnel.send(Kind::DpdRequest, b"there?").await;
    assert_eq!(tunnel.next().await.kind, Kind::DpdResponse, "its owner noticed nothing");
}

#[tokio::test]
async fn an_epoch_that_is_not_higher_is_told_the_newest() {
    let house = House::new();
    let (sleeper, _tunnel) = Sleeper::new(&house, "alice", 1).await;
    let _second = sleeper.back(&house, 5).await.expect("a tunnel");
    for epoch in [1, 5] {
        assert_eq!(status(sleeper.back(&house, epoch).await), 409);
    }
    let other = SessionKey::from_seed([2; SEED_BYTES]);
    assert_eq!(status(sleeper.asks(&house, &sleeper.ticket, &other, 5).await), 401);
    assert_eq!(status(sleeper.back(&house, 6).await), 200);
}

#[tokio::test]
async fn a_user_who_was_removed_does_not_come_back() {
    let house = House::new();
    let (sleeper, tunnel) = Sleeper::new(&house, "alice", 1).await;
    drop(tunnel);
    house.logged(&["session detached"]);
    house.write("users.toml", &users(&["bob"]));
    house.reload.ask();
    house.logged(&["session.end", "admin"]);
    house.logged(&["configuration reloaded"]);
    assert_eq!(status(sleeper.back(&house, 2).await), 401);
    house.write("users.toml", &users(&["alice", "bob"]));
    house.reload.ask();
    house.logged(&["configuration reloaded"]);
    assert_eq!(
        status(sleeper.back(&house, 3).await),
        401,
        "the session has ended for good"
    );
    let house = house.restarted(|folder| fs::remove_file(state(folder)).expect("there"));
    assert_eq!(
        status(sleeper.back(&house, 4).await),
        200,
        "but for what only the file knew"
    );
}

#[tokio::test]
async fn sessions_outlive_a_restart_with_their_addresses_and_one_record() {
    let house = House::new();
    let (sleeper, first) = Sleeper::new(&house, "alice", 1).await;
    let (stock, cookie) = tunnel_of(&house, "bob").await;
    let house = house.restarted(|folder| {
        let mode = fs::metadata(state(folder)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    });
    let line = house.logged(&["sessions.restored"]);
    assert!(line.contains("sessions=2"), "{line}");
    // Whoever asks for an address first gets none of theirs.
    let (_other, _) = tunnel_of(&house, "bob").await;
    let back = sleeper.back(&house, 2).await.expect("a tunnel");
    assert_eq!(back.address, first.address);
    let mut again = Client::connect(&house).await.tunnel(&cookie).await.expect("a tunnel");
    assert_eq!(again.address, stock.address);
    again.send(Kind::Disconnect, b"\xb0bye").await;
    let line = house.logged(&["session.end"]);
    assert!(line.contains("user_stop") && line.contains("connections=2"), "{line}");
    house.logged(&["housekeeping.done"]);
    let lines = house.stop_and_read();
    assert!(!lines.iter().any(|line| line.contains("session.end")), "{lines:?}");
}

#[tokio::test]
async fn a_session_that_ended_does_not_come_back_after_a_restart() {
    let house = House::new();
    let (sleeper, mut tunnel) = Sleeper::new(&house, "alice", 1).await;
    tunnel.send(Kind::Disconnect, b"\xb0bye").await;
    house.logged(&["session.end"]);
    assert_eq!(status(sleeper.back(&house, 2).await), 401);
    let house = house.restarted(|_| ());
    assert_eq!(status(sleeper.back(&house, 3).await), 401);
    assert_eq!(
        status(sleeper.asks(&house, &sleeper.cookie, &sleeper.key, 3).await),
        401
    );
}

#[tokio::test]
async fn a_user_who_was_removed_while_the_gateway_was_down_does_not_come_back() {
    let house = House::new();
    let (sleeper, _tunnel) = Sleeper::new(&house, "alice", 1).await;
    let house = house.restarted(|folder| fs::write(folder.join("users.toml"), users(&["bob"])).expect("written"));
    let line = house.logged(&["session.end"]);
    assert!(line.contains("admin"), "{line}");
    assert_eq!(status(sleeper.back(&house, 2).await), 401);
}

#[tokio::test]
async fn a_damaged_file_costs_nothing_but_stock_clients_their_sessions() {
    let house = House::new();
    let (sleeper, first) = Sleeper::new(&house, "alice", 1).await;
    let (_stock, cookie) = tunnel_of(&house, "bob").await;
    let house = house.restarted(|folder| fs::write(state(folder), "not a database").expect("written"));
    house.logged(&["ERROR", "lost", "sessions.redb.damaged-1"]);
    let back = sleeper.back(&house, 2).await.expect("rebuilt from the ticket");
    assert_eq!(back.address, first.address);
    let line = house.logged(&["session.start"]);
    assert!(line.contains(&sleeper.session.id), "{line}");
    let refused = Client::connect(&house).await.tunnel(&cookie).await.map(drop);
    assert_eq!(refused.expect_err("lost").status, 503, "not called wrong for mere loss");
}

#[tokio::test]
async fn a_gateway_that_lost_its_keys_too_sends_clients_to_log_in() {
    let house = House::new();
    let (sleeper, _tunnel) = Sleeper::new(&house, "alice", 1).await;
    let house = house.restarted(|folder| {
        fs::remove_file(state(folder)).expect("there");
        fs::remove_file(folder.join("state/_gateway/tickets.key")).expect("there");
    });
    assert_eq!(status(sleeper.back(&house, 2).await), 401);
}

#[tokio::test]
async fn a_gateway_that_lost_only_its_keys_goes_on_with_whoever_proves_a_session() {
    let house = House::new();
    let (sleeper, first) = Sleeper::new(&house, "alice", 1).await;
    let house = house.restarted(|folder| {
        fs::write(folder.join("state/_gateway/tickets.key"), "not keys").expect("written");
    });
    house.logged(&["ERROR", "keys of tickets", "tickets.key.damaged-1"]);
    let other = SessionKey::from_seed([2; SEED_BYTES]);
    let stolen = sleeper.asks(&house, &sleeper.ticket, &other, 2).await;
    assert_eq!(status(stolen), 401, "the name alone is worth nothing");
    let back = sleeper.back(&house, 2).await.expect("a tunnel");
    assert_eq!(back.address, first.address);
    let ticket = back.header("X-Marmot-Ticket").expect("one that can be read").to_owned();
    assert_ne!(ticket, sleeper.ticket);
    assert_eq!(status(sleeper.asks(&house, &ticket, &sleeper.key, 3).await), 200);
    let lines = house.stop_and_read();
    assert!(!lines.iter().any(|line| line.contains("session.start")), "{lines:?}");
}

#[tokio::test]
async fn a_gateway_without_a_folder_ends_its_sessions_when_it_stops() {
    let house = House::with(Wishes {
        change: Some(|config| config.storage.state_dir = None),
        ..Wishes::default()
    });
    let (_sleeper, _tunnel) = Sleeper::new(&house, "alice", 1).await;
    let lines = house.stop_and_read();
    assert!(lines.iter().any(|line| line.contains("session.end")), "{lines:?}");
}
