//! What strangers can send, and how little it does.

use std::time::Duration;

use config::gateway::GatewayConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Client, log_in, soon};
use crate::house::{House, Wishes};

/// Waits until the gateway closes the connection, whatever it says before.
async fn closed(mut socket: TcpStream) {
    let mut rest = Vec::new();
    // A reset is as good as an end.
    let _ = soon(socket.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn garbage_on_the_port_ends_that_connection_only() {
    let house = House::new();
    let mut socket = TcpStream::connect(house.address).await.expect("connect");
    socket
        .write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
        .await
        .expect("write");
    closed(socket).await;
    house.logged(&["DEBUG", "no TLS"]);
    log_in(&house, "alice").await;
}

#[tokio::test]
async fn a_client_that_does_not_shake_hands_is_cut() {
    let change = |config: &mut GatewayConfig| config.limits.handshake_timeout = Duration::from_millis(100);
    let house = House::with(Wishes {
        change: Some(change),
        ..Wishes::default()
    });
    let socket = TcpStream::connect(house.address).await.expect("connect");
    closed(socket).await;
    house.logged(&["cut", "handshake"]);
}

#[tokio::test]
async fn a_client_that_does_not_log_in_is_cut() {
    let change = |config: &mut GatewayConfig| config.limits.login_timeout = Duration::from_millis(100);
    let house = House::with(Wishes {
        change: Some(change),
        ..Wishes::default()
    });
    let mut client = Client::connect(&house).await;
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\n").await;
    client.closed().await;
    house.logged(&["cut", "login"]);
}

#[tokio::test]
async fn an_oversized_head_is_refused() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nX-Pad: {}\r\n\r\n", "0".repeat(40_000));
    client.send(head.as_bytes()).await;
    assert_eq!(client.reply().await.head.status, 431);
    client.closed().await;
}

#[tokio::test]
async fn an_oversized_body_is_refused_announced_or_not() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client
        .send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        .await;
    assert_eq!(client.reply().await.head.status, 413);
    client.closed().await;

    let mut client = Client::connect(&house).await;
    client
        .send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    for _ in 0..8 {
        client.send(chunk.as_bytes()).await;
    }
    assert_eq!(client.reply().await.head.status, 413);
}

#[tokio::test]
async fn http_that_is_none_is_refused() {
    let house = House::new();
    for (request, status) in [
        (&b"\x00\x01\x02\x03\r\n\r\n"[..], 400),
        (b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"CONNECT /elsewhere HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n<x>", 400),
    ] {
        let mut client = Client::connect(&house).await;
        client.send(request).await;
        assert_eq!(
            client.reply().await.head.status,
            status,
            "{}",
            String::from_utf8_lossy(request)
        );
        client.closed().await;
    }
}

#[tokio::test]
async fn one_connection_has_so_many_requests() {
    let house = House::with(Wishes {
        more: "[limits]\nrequests_per_connection = 4",
        ..Wishes::default()
    });
    let mut client = Client::connect(&house).await;
    for _ in 0..4 {
        assert_eq!(client.init().await.0.head.status, 200);
    }
    client.closed().await;
}

#[tokio::test]
async fn one_address_has_so_many_connections() {
    let house = House::with(Wishes {
        more: "[limits]\nconnections_per_address = 2",
        ..Wishes::default()
    });
    let first = Client::connect(&house).await;
    let _second = Client::connect(&house).await;
    assert!(Client::connect_with(&house, None).await.is_err());
    house.logged(&["not let in", "connections_per_address"]);
    drop(first);
    // The gateway learns of the end on its own time.
    soon(async { while Client::connect_with(&house, None).await.is_err() {} }).await;
}
