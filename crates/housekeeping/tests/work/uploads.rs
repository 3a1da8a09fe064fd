//! The collector of summaries.

use std::sync::Arc;
use std::time::Duration;

use ledger::{Chore, Folder};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::desk::{Desk, soon};

/// Listens on a port of its own.
async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let port = listener.local_addr().expect("address").port();
    (listener, port)
}

/// Takes one request and answers it with `status`. Returns its head and its body.
async fn serve_one(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), status: &str) -> (String, serde_json::Value) {
    let mut bytes = Vec::new();
    let end = loop {
        assert!(stream.read_buf(&mut bytes).await.expect("readable") > 0, "it goes on");
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).expect("text").to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .expect("a length");
    let length: usize = length.parse().expect("a number");
    while bytes.len() < end + length {
        assert!(stream.read_buf(&mut bytes).await.expect("readable") > 0, "it goes on");
    }
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.expect("writable");
    stream.shutdown().await.expect("closed");
    (head, serde_json::from_slice(&bytes[end..]).expect("JSON"))
}

#[tokio::test]
async fn a_summary_is_posted_as_json_with_the_job_as_its_key() {
    let mut desk = Desk::new();
    let (listener, port) = listen().await;
    desk.collector(port);
    let job = desk.owe(&[Chore::Upload]);
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("accept");
        serve_one(&mut stream, "200 OK").await
    };
    let (outcome, (head, body)) = tokio::join!(desk.work_off(), soon(server));
    assert_eq!(outcome.done, [job]);
    assert!(head.starts_with("post /sessions http/1.1\r\n"), "{head}");
    for header in [
        format!("host: 127.0.0.1:{port}"),
        "content-type: application/json".to_owned(),
        format!("idempotency-key: \"{job}\""),
    ] {
        assert!(head.lines().any(|line| line == header), "{header} is not in {head}");
    }
    assert_eq!(body["version"], 1);
    assert_eq!(body["job"], job.to_string());
    assert_eq!(body["user"], "alice\nroot");
    assert_eq!(body["addresses"][1], "fd00::2");
    assert_eq!((&body["seconds"], &body["bytes_out"]), (&90.into(), &40.into()));
    assert_eq!(body["end_reason"], "user_stop");
}

#[tokio::test]
async fn an_upload_that_was_refused_is_tried_again_with_the_same_key() {
    let mut desk = Desk::new();
    let (listener, port) = listen().await;
    desk.collector(port);
    let job = desk.owe(&[Chore::Upload]);
    let serve = async |status| {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let (head, body) = serve_one(&mut stream, status).await;
        let key = head
            .lines()
            .find(|line| line.starts_with("idempotency-key"))
            .map(str::to_owned);
        (key, body["attempt"].clone())
    };
    let (_, first) = tokio::join!(desk.work_off(), soon(serve("500 Internal Server Error")));
    let error = desk.listed().last_error;
    assert_eq!(
        error.as_deref(),
        Some("upload: the collector answered 500 Internal Server Error")
    );
    desk.retry(job);
    let (outcome, second) = tokio::join!(desk.work_off(), soon(serve("204 No Content")));
    assert_eq!(outcome.done, [job]);
    assert_eq!(first.0, second.0);
    assert_eq!((first.1, second.1), (1.into(), 2.into()));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let mut desk = Desk::new();
    let (listener, port) = listen().await;
    desk.collector(port);
    desk.owe(&[Chore::Upload]);
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("accept");
        serve_one(&mut stream, "302 Found\r\nLocation: http://127.0.0.1:1/").await
    };
    tokio::join!(desk.work_off(), soon(server));
    assert!(desk.listed().last_error.expect("it failed").contains("302"));
}

#[tokio::test]
async fn a_collector_that_hangs_costs_its_time_and_no_more() {
    let mut desk = Desk::new();
    let (listener, port) = listen().await;
    desk.collector(port);
    desk.settings.collector.as_mut().expect("there").timeout = Duration::from_millis(100);
    desk.owe(&[Chore::Upload]);
    let (_, stream) = tokio::join!(desk.work_off(), async {
        let (mut stream, _) = soon(listener.accept()).await.expect("accept");
        // Reads all and never answers.
        let mut sink = Vec::new();
        soon(stream.read_to_end(&mut sink)).await.expect("the client closes");
        stream
    });
    drop(stream);
    assert_eq!(
        desk.listed().last_error.as_deref(),
        Some("upload: no answer within 0.1 s")
    );
    assert_eq!(desk.listed().folder, Folder::Waiting);
}

#[tokio::test]
async fn a_collector_that_is_not_there_or_speaks_something_else_is_tried_again() {
    let mut desk = Desk::new();
    let (listener, port) = listen().await;
    desk.collector(port);
    let job = desk.owe(&[Chore::Upload]);
    let server = async {
        let (mut stream, _) = soon(listener.accept()).await.expect("accept");
        stream
            .write_all(b"220 mail.example.com ESMTP\r\n")
            .await
            .expect("writable");
        drop(stream);
    };
    tokio::join!(desk.work_off(), server);
    let error = desk.listed().last_error.expect("it failed");
    assert!(
        error.starts_with("upload: the collector broke the connection"),
        "{error}"
    );
    drop(listener);
    desk.retry(job);
    desk.work_off().await;
    let error = desk.listed().last_error.expect("it failed");
    assert!(error.starts_with("upload: cannot connect to the collector"), "{error}");
}

#[tokio::test]
async fn over_tls_only_a_collector_with_the_right_certificate_gets_a_summary() {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("key");
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("pair");
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let stranger = generate_simple_self_signed(["127.0.0.1".to_owned()])
        .expect("made")
        .cert;

    let mut desk = Desk::new();
    let (listener, port) = listen().await;
    desk.collector(port);
    let job = desk.owe(&[Chore::Upload]);
    for (authority, good) in [(stranger.pem(), false), (cert.pem(), true)] {
        let tls = housekeeping::collector_tls(Some(authority.as_bytes())).expect("an authority");
        desk.settings.collector.as_mut().expect("there").tls = Some(tls);
        let server = async {
            let (socket, _) = listener.accept().await.expect("accept");
            match acceptor.accept(socket).await {
                Ok(mut stream) if good => drop(serve_one(&mut stream, "200 OK").await),
                Ok(_) => panic!("a client that trusts another does not get here"),
                Err(_) => assert!(!good),
            }
        };
        let (outcome, ()) = tokio::join!(desk.work_off(), soon(server));
        assert_eq!(outcome.done.len(), usize::from(good), "{outcome:?}");
        if !good {
            let error = desk.listed().last_error.expect("it failed");
            assert!(error.starts_with("upload: no TLS with the collector"), "{error}");
            desk.retry(job);
        }
    }
}

#[test]
fn a_file_without_a_certificate_is_no_authority() {
    for pem in [
        &b""[..],
        b"not PEM",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        housekeeping::collector_tls(Some(pem)).expect_err("refused");
    }
}
