//! What a client says about a daemon that is not as it should be.

use api::{Client, ClientError, UpOrder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::fake::{JOB, Site, within};

#[tokio::test]
async fn no_socket_and_a_dead_socket_both_mean_that_no_daemon_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("work.sock");
    for _ in 0..2 {
        let error = Client::new(&socket).status().await.expect_err("nobody");
        assert!(matches!(error, ClientError::NotRunning(_)), "{error}");
        // What a killed daemon leaves.
        drop(UnixListener::bind(&socket));
    }
}

#[tokio::test]
async fn every_order_and_question_has_its_answer() {
    let site = Site::new();
    let client = site.client();
    assert_eq!(client.status().await.expect("an answer").name, "work");
    assert!(!client.up(UpOrder { reconnect: true }).await.expect("an answer").already);
    assert_eq!(client.down().await.expect("an answer").job.as_deref(), Some(JOB));
    assert_eq!(client.history(1000).await.expect("an answer").sessions.len(), 1000);
    assert_eq!(client.housekeeping().await.expect("an answer").jobs[0].id, JOB);
    assert_eq!(client.retry(JOB).await.expect("an answer").jobs.len(), 1);
    assert_eq!(client.run().await.expect("an answer").jobs.len(), 1);
    assert_eq!(
        site.fake.orders(),
        ["reconnect", "down", &format!("retry {JOB}"), "run"]
    );
}

#[tokio::test]
async fn a_refusal_keeps_its_words() {
    let site = Site::new();
    match site.client().retry("1-2").await {
        Err(ClientError::Refused { status, code, message }) => {
            assert_eq!(
                (status, code.as_str(), message.as_str()),
                (404, "not_found", "there is no such job")
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn somebody_else_at_the_socket_is_not_believed() {
    let large = "x".repeat(9 << 20);
    for (answer, what) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"version\":2}".to_owned(),
            "version 2",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_owned(),
            "cannot understand",
        ),
        ("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n".to_owned(), "500"),
        (
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{large}", large.len()),
            "more than",
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("work.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let stranger = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut request).await.expect("read");
            }
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        let error = within(Client::new(&socket).status()).await.expect_err("a stranger");
        assert!(error.to_string().contains(what), "{error}");
        within(stranger).await.expect("no panic");
    }
}

/// Reads a request and hangs up, once; whoever comes again gets an answer.
async fn asked_twice<T>(ask: impl AsyncFnOnce(Client) -> Result<T, ClientError>) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("work.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let daemon = async {
        drop(heard(&listener).await);
        let mut stream = heard(&listener).await;
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"version\":2}";
        stream.write_all(answer.as_bytes()).await.expect("written");
        std::future::pending().await
    };
    let error = tokio::select! {
        answer = within(ask(Client::new(&socket))) => answer.err().expect("no answer of ours"),
        () = daemon => unreachable!("it waits for ever"),
    };
    match error {
        ClientError::Closed => false,
        ClientError::Strange(_) => true,
        other => panic!("{other}"),
    }
}

async fn heard(listener: &UnixListener) -> UnixStream {
    let (mut stream, _) = listener.accept().await.expect("accepted");
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        stream.read_buf(&mut request).await.expect("read");
    }
    stream
}

#[tokio::test]
async fn what_may_have_been_done_is_asked_again_only_if_it_does_no_harm_twice() {
    assert!(asked_twice(async |client| client.status().await).await);
    assert!(asked_twice(async |client| client.history(5).await).await);
    assert!(asked_twice(async |client| client.down().await).await);
    assert!(!asked_twice(async |client| client.up(UpOrder::default()).await).await);
    assert!(!asked_twice(async |client| client.retry(JOB).await).await);
    assert!(!asked_twice(async |client| client.run().await).await);
}
