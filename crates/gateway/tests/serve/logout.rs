//! Ending a session without a tunnel.

use wire::Secret;
use wire::cstp::Kind;
use wire::offer::{Logout, MarmotSession};

use crate::client::{Client, Tunnel, log_in};
use crate::house::{House, NAME, PASSWORD, Wishes};

/// A tunnel of a client of ours.
async fn our_tunnel(house: &House, cookie: &str) -> Tunnel {
    let client = Client::connect(house).await;
    client
        .tunnel_with(cookie, "X-Marmot-Session: 1\r\n")
        .await
        .expect("a tunnel")
}

/// What the grant lets its client do later.
fn logout_of(tunnel: &Tunnel) -> Logout {
    let session = tunnel.header("X-Marmot-Session").expect("a session");
    let (id, epoch) = session.split_once(';').expect("id and epoch");
    Logout {
        session: MarmotSession {
            id: id.to_owned(),
            epoch: epoch.parse().expect("a number"),
        },
        token: Secret::from(tunnel.header("X-Marmot-Logout").expect("a token")),
    }
}

/// Posts a logout over a connection of its own and returns the status.
async fn post(house: &House, logout: &Logout) -> u16 {
    let mut client = Client::connect(house).await;
    client.send(&logout.encode(NAME, "test")).await;
    let status = client.reply().await.head.status;
    client.closed().await;
    status
}

/// Whether the gateway answers on this tunnel.
async fn assert_alive(tunnel: &mut Tunnel) {
    tunnel.send(Kind::DpdRequest, b"there?").await;
    assert_eq!(tunnel.next().await.kind, Kind::DpdResponse);
}

#[tokio::test]
async fn a_logout_token_ends_its_session_and_nothing_else() {
    let house = House::new();
    let (cookie, other_cookie) = (log_in(&house, "alice").await, log_in(&house, "alice").await);
    let mut tunnel = our_tunnel(&house, &cookie).await;
    let mut other = our_tunnel(&house, &other_cookie).await;
    let logout = logout_of(&tunnel);

    assert_eq!(post(&house, &logout).await, 204);
    let line = house.logged(&["session.end"]);
    assert!(
        line.contains("user_stop") && line.contains(&logout.session.id),
        "{line}"
    );
    assert_eq!(tunnel.next().await.kind, Kind::Disconnect);
    let refused = Client::connect(&house).await.tunnel(&cookie).await.err();
    assert_eq!(
        refused.map(|no| no.status),
        Some(401),
        "the cookie went with the session"
    );
    assert_alive(&mut other).await;
    assert_eq!(
        post(&house, &logout).await,
        204,
        "it is over, so there is nothing left to do"
    );
}

#[tokio::test]
async fn a_wrong_token_and_an_old_epoch_end_nothing() {
    let house = House::new();
    let cookie = log_in(&house, "alice").await;
    let first = logout_of(&our_tunnel(&house, &cookie).await);
    let mut tunnel = our_tunnel(&house, &cookie).await;
    let second = logout_of(&tunnel);
    assert_eq!((first.session.epoch, second.session.epoch), (1, 2));
    assert_ne!(first.token, second.token);

    assert_eq!(
        post(&house, &first).await,
        204,
        "a later connection took the session over"
    );
    let wrong = Logout {
        token: first.token.clone(),
        ..second.clone()
    };
    assert_eq!(post(&house, &wrong).await, 403);
    assert_alive(&mut tunnel).await;
    assert_eq!(post(&house, &second).await, 204);
    assert_eq!(tunnel.next().await.kind, Kind::Disconnect);
}

#[tokio::test]
async fn wrong_tokens_count_as_failed_logins_of_their_address() {
    let house = House::with(Wishes {
        more: "[limits]\nlogin_attempts_per_address = 2",
        ..Wishes::default()
    });
    let cookie = log_in(&house, "alice").await;
    let mut tunnel = our_tunnel(&house, &cookie).await;
    let right = logout_of(&tunnel);
    let wrong = Logout {
        token: Secret::from("0123456789abcdef0123456789abcdef"),
        ..right.clone()
    };
    assert_eq!(post(&house, &wrong).await, 403);
    assert_eq!(post(&house, &wrong).await, 403);
    assert_eq!(post(&house, &right).await, 503);
    let (reply, _) = Client::connect(&house).await.answer("alice", PASSWORD).await;
    assert_eq!(reply.head.status, 401);
    assert_alive(&mut tunnel).await;
}

#[tokio::test]
async fn a_stock_client_never_sees_a_token() {
    let house = House::new();
    let cookie = log_in(&house, "alice").await;
    let tunnel = Client::connect(&house).await.tunnel(&cookie).await.expect("a tunnel");
    assert_eq!(tunnel.header("X-Marmot-Session"), None);
    assert_eq!(tunnel.header("X-Marmot-Logout"), None);
}

#[tokio::test]
async fn a_body_that_is_no_logout_is_a_bad_request() {
    let house = House::new();
    for body in ["", "a;1", "a;1;token", &"9".repeat(4000)] {
        let mut client = Client::connect(&house).await;
        let length = body.len();
        let request = format!("POST /marmot/logout HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {length}\r\n\r\n{body}");
        client.send(request.as_bytes()).await;
        assert_eq!(client.reply().await.head.status, 400);
    }
}
