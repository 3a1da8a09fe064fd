//! Who comes in, and who does not.

use crate::client::{Client, NoTunnel, cookie, log_in, soon, tunnel_of};
use crate::house::{House, PASSWORD, Wishes, client_authority, client_certificate};

const FORM: &str = "application/x-www-form-urlencoded";

#[tokio::test]
async fn a_form_asks_for_name_and_password_and_the_right_ones_give_a_cookie() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    let (reply, form) = client.init().await;
    assert_eq!(reply.head.status, 200);
    assert!(
        form.contains("name=\"username\"") && form.contains("name=\"password\""),
        "{form}"
    );
    let (reply, done) = client.answer("alice", PASSWORD).await;
    assert!(done.contains("complete"), "{done}");
    assert_eq!(cookie(&reply).len(), 43);
    // The same connection may go on to the tunnel.
    client.tunnel(&cookie(&reply)).await.expect("a tunnel");
    house.logged(&["session.start", "alice"]);
}

#[tokio::test]
async fn the_legacy_form_gives_a_cookie_too() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client
        .send(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(client.reply().await.head.status, 200);
    let body = format!("username=alice&password={}", PASSWORD.replace(' ', "+"));
    let (reply, _) = client.post(FORM, &body).await;
    assert_eq!(cookie(&reply).len(), 43);
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_get_the_same_form_again() {
    let house = House::new();
    let mut texts = Vec::new();
    for (user, password) in [("alice", "wrong"), ("nobody", PASSWORD)] {
        let mut client = Client::connect(&house).await;
        let (reply, text) = client.answer(user, password).await;
        assert_eq!(reply.head.status, 200);
        assert!(reply.head.headers.set_cookie("webvpn").is_none());
        texts.push(text);
        house.logged(&["login denied", user]);
    }
    assert!(texts[0].contains("Login failed"), "{}", texts[0]);
    assert_eq!(texts[0], texts[1]);
}

#[tokio::test]
async fn a_name_cannot_pass_for_other_fields_of_the_log() {
    let house = House::new();
    let name = "bob peer=192.0.2.66 why=&quot;credentials&quot;";
    Client::connect(&house).await.answer(name, PASSWORD).await;
    let line = house.logged(&["login denied", "192.0.2.66"]);
    let (fields, name) = line.split_once("user=").expect("a user");
    assert!(fields.contains("peer=127.0.0.1"), "{line}");
    assert!(
        name.starts_with(r#""bob peer=192.0.2.66 why=\"credentials\"""#),
        "{line}"
    );
}

#[tokio::test]
async fn a_client_that_guesses_on_is_refused() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.answer("alice", "one").await;
    client.answer("alice", "two").await;
    let (reply, _) = client.answer("alice", "three").await;
    assert_eq!(reply.head.status, 401);
    client.closed().await;
}

#[tokio::test]
async fn failed_logins_of_an_address_are_limited_over_all_its_connections() {
    let house = House::with(Wishes {
        more: "[limits]\nlogin_attempts_per_address = 2",
        ..Wishes::default()
    });
    for _ in 0..2 {
        let (reply, _) = Client::connect(&house).await.answer("alice", "wrong").await;
        assert_eq!(reply.head.status, 200);
    }
    for _ in 0..3 {
        let (reply, _) = Client::connect(&house).await.answer("alice", PASSWORD).await;
        assert_eq!(reply.head.status, 401);
    }
    // One line a minute, and the tally.
    let lines = house.stop_and_read();
    let with = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
    assert_eq!(with("login_attempts_per_address"), 1);
    assert_eq!(with("denied=5"), 1);
}

#[tokio::test]
async fn an_unknown_cookie_is_refused_for_good() {
    let house = House::new();
    let refused = Client::connect(&house).await.tunnel("bm9ib2R5").await.err();
    assert_eq!(
        refused,
        Some(NoTunnel {
            status: 401,
            reason: None
        })
    );
}

#[tokio::test]
async fn an_exhausted_pool_says_so_and_the_session_can_try_again() {
    let house = House::with(Wishes {
        pool: Some("ipv4 = \"10.78.0.0/30\"\nrest_s = 0"),
        ..Wishes::default()
    });
    let (first, first_cookie) = tunnel_of(&house, "alice").await;
    let second = log_in(&house, "bob").await;
    let refused = Client::connect(&house).await.tunnel(&second).await.err();
    assert_eq!(
        refused,
        Some(NoTunnel {
            status: 503,
            reason: Some("address pool exhausted".to_owned())
        })
    );
    house.logged(&["address pool exhausted"]);

    log_out(first).await;
    house.logged(&["session.end", "user_stop"]);
    Client::connect(&house)
        .await
        .tunnel(&second)
        .await
        .expect("the address is free now");
    assert_eq!(
        Client::connect(&house)
            .await
            .tunnel(&first_cookie)
            .await
            .err()
            .map(|no| no.status),
        Some(401)
    );
}

#[tokio::test]
async fn a_logout_destroys_the_cookie() {
    let house = House::new();
    let (tunnel, cookie) = tunnel_of(&house, "alice").await;
    log_out(tunnel).await;
    let line = house.logged(&["session.end", "user_stop"]);
    assert!(line.contains("alice") && !line.contains(&cookie), "{line}");
    let refused = Client::connect(&house).await.tunnel(&cookie).await.err();
    assert_eq!(refused.map(|no| no.status), Some(401));
}

#[tokio::test]
async fn a_certificate_of_a_known_user_comes_in_without_a_form() {
    let wishes = Wishes {
        auth: "methods = [\"certificate\"]\nclient_ca_file = \"clients.crt\"",
        ..Wishes::default()
    };
    let house = House::with(wishes);
    let known = client_certificate("alice", &house.clients);
    let mut client = Client::connect_with(&house, Some(known)).await.expect("TLS");
    let (reply, _) = client.init().await;
    let cookie = cookie(&reply);
    client.tunnel(&cookie).await.expect("a tunnel");

    let unknown = client_certificate("mallory", &house.clients);
    let mut client = Client::connect_with(&house, Some(unknown)).await.expect("TLS");
    assert_eq!(client.init().await.0.head.status, 401);
}

#[tokio::test]
async fn without_the_certificate_that_is_needed_there_is_nothing_to_fill_in() {
    let wishes = Wishes {
        auth: "methods = [\"certificate\"]\nclient_ca_file = \"clients.crt\"",
        ..Wishes::default()
    };
    let house = House::with(wishes);
    let mut client = Client::connect(&house).await;
    let (_, form) = client.init().await;
    assert!(form.contains("certificate") && !form.contains("<input"), "{form}");
    let (reply, _) = client.answer("alice", PASSWORD).await;
    assert!(reply.head.headers.set_cookie("webvpn").is_none());
}

#[tokio::test]
async fn a_certificate_of_another_authority_ends_the_handshake() {
    let wishes = Wishes {
        auth: "methods = [\"certificate\"]\nclient_ca_file = \"clients.crt\"",
        ..Wishes::default()
    };
    let house = House::with(wishes);
    let stranger = client_certificate("alice", &client_authority());
    // With TLS 1.3 the client is done before the gateway has looked at its certificate.
    if let Ok(client) = Client::connect_with(&house, Some(stranger)).await {
        client.closed().await;
    }
    house.logged(&["no TLS"]);
}

/// Says goodbye and waits for the gateway to close.
async fn log_out(mut tunnel: crate::client::Tunnel) {
    tunnel.send(wire::cstp::Kind::Disconnect, b"\xb0user stop").await;
    soon(tunnel.end()).await;
}
