//! One request, one answer.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::fake::{Answer, JOB, Site, get, post, skip, within};

#[tokio::test]
async fn every_answer_is_one_line_of_json_with_a_version() {
    let site = Site::new();
    let requests = [
        get("/v1/status"),
        post("/v1/up", ""),
        post("/v1/down", "{}"),
        get("/v1/history"),
        get("/v1/housekeeping"),
        post(&format!("/v1/housekeeping/{JOB}/retry"), ""),
        post("/v1/housekeeping/run", ""),
    ];
    for request in requests {
        let answer = site.raw(&request).await;
        assert_eq!(answer.status, 200, "{request}{answer:?}");
        assert!(answer.head.contains("content-type: application/json"), "{answer:?}");
        assert_eq!(answer.json()["version"], 1, "{answer:?}");
        assert_eq!(answer.body.find('\n'), Some(answer.body.len() - 1), "{answer:?}");
    }
    assert_eq!(site.fake.orders(), ["up", "down", &format!("retry {JOB}"), "run"]);
}

#[tokio::test]
async fn an_answer_has_the_members_that_are_promised() {
    let site = Site::new();
    let status = site.raw(get("/v1/status")).await.json();
    assert_eq!((&status["name"], &status["state"]), (&"work".into(), &"up".into()));
    for member in ["wanted", "problem", "tunnel", "traffic", "last_stop", "housekeeping"] {
        assert!(status.get(member).is_some(), "{member}: {status}");
    }
    let down = site.raw(post("/v1/down", "")).await.json();
    assert_eq!(down["ms"], 2.5);
    assert_eq!(down["residue"], serde_json::json!([]));
    assert_eq!((&down["owed"], &down["job"]), (&"recorded".into(), &JOB.into()));
    let history = site.raw(get("/v1/history?last=3")).await.json();
    assert_eq!(history["sessions"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn an_order_says_more_only_in_members_that_we_know() {
    let site = Site::new();
    assert_eq!(site.raw(post("/v1/up", r#"{"reconnect":true}"#)).await.status, 200);
    for (path, body) in [
        ("/v1/up", "{"),
        ("/v1/up", r#"{"speed":9}"#),
        ("/v1/down", "[]"),
        ("/v1/down", "\u{0}\u{1}"),
        ("/v1/housekeeping/run", "no"),
    ] {
        let answer = site.raw(post(path, body)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "bad_request"),
            "{path} {body}"
        );
    }
    assert_eq!(site.fake.orders(), ["reconnect"]);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whether_it_says_its_length_or_not() {
    let site = Site::new();
    let said = site.raw(post("/v1/up", &" ".repeat(16 * 1024 + 1))).await;
    assert_eq!((said.status, said.code().as_str()), (413, "too_large"));

    let head = "POST /v1/down HTTP/1.1\r\nhost: marmot\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("1000\r\n{}\r\n", " ".repeat(4096));
    let unsaid = site.raw(format!("{head}{}", chunk.repeat(5))).await;
    assert_eq!((unsaid.status, unsaid.code().as_str()), (413, "too_large"));

    let promised = site
        .raw("POST /v1/up HTTP/1.1\r\nhost: marmot\r\ncontent-length: 99999999999\r\n\r\n")
        .await;
    assert_eq!((promised.status, promised.code().as_str()), (413, "too_large"));
    assert_eq!(site.fake.orders(), [""; 0]);
}

#[tokio::test]
async fn the_largest_body_that_is_allowed_is_read() {
    let site = Site::new();
    let body = format!("{{}}{}", " ".repeat(16 * 1024 - 2));
    assert_eq!(site.raw(post("/v1/up", &body)).await.status, 200);
}

#[tokio::test]
async fn a_wrong_method_and_an_unknown_path_are_told_apart() {
    let site = Site::new();
    for (request, allow) in [
        (get("/v1/up"), "post"),
        (get("/v1/housekeeping/run"), "post"),
        (post("/v1/status", ""), "get"),
        (get("/v1/status").replace("GET", "DELETE"), "get"),
    ] {
        let answer = site.raw(&request).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (405, "wrong_method"),
            "{request}"
        );
        let allowed = answer.head.lines().find_map(|line| line.strip_prefix("allow: "));
        assert!(allowed.is_some_and(|methods| methods.contains(allow)), "{answer:?}");
    }
    for path in [
        "/",
        "/v1",
        "/v2/status",
        "/v1/status/",
        "/v1/../etc/passwd",
        "/v1/housekeeping/retry",
    ] {
        let answer = site.raw(get(path)).await;
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        assert_eq!(answer.code(), "unknown_path", "{path}");
    }
    assert_eq!(site.fake.orders(), [""; 0]);
}

#[tokio::test]
async fn a_job_that_is_not_there_is_not_found_whatever_it_is_called() {
    let site = Site::new();
    for name in [
        "1800000000-ffffffffffffffff",
        "..",
        "%2e%2e%2fx",
        "a%00b",
        "%ff",
        &"a".repeat(100),
    ] {
        let answer = site.raw(post(&format!("/v1/housekeeping/{name}/retry"), "")).await;
        assert!(matches!(answer.status, 400 | 404), "{name}: {answer:?}");
    }
    assert_eq!(site.fake.orders(), [""; 0]);
}

#[tokio::test]
async fn a_query_that_means_nothing_is_a_bad_request() {
    let site = Site::new();
    for query in ["last=0", "last=1001", "last=x", "first=1"] {
        let answer = site.raw(get(&format!("/v1/history?{query}"))).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"), "{query}");
    }
}

#[tokio::test]
async fn what_is_no_http_ends_the_connection_and_nothing_else() {
    let site = Site::new();
    let long = format!("GET /v1/status HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let many = format!("GET /v1/status HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000));
    for noise in [
        "\u{16}\u{3}\u{1}\u{2}",
        "hello\r\n\r\n",
        "GET /v1/status\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET http://[::1/v1/status HTTP/1.1\r\n\r\n",
        "POST /v1/down HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        "POST /v1/down HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        &long,
        &many,
    ] {
        let answer = site.raw(noise).await;
        assert!(matches!(answer.status, 0 | 400..=499), "{:.40}: {answer:?}", noise);
    }
    assert_eq!(site.fake.orders(), [""; 0]);
    assert_eq!(site.raw(get("/v1/status")).await.status, 200);
}

#[tokio::test]
async fn half_a_head_and_half_a_body_are_waited_for_no_longer_than_their_limits() {
    let site = Site::new();
    let began = Instant::now();
    let slow_head = async {
        let mut stream = site.connect().await;
        stream.write_all(b"GET /v1/sta").await.expect("written");
        Answer::read(&mut stream).await
    };
    let nothing = async {
        let mut stream = site.connect().await;
        Answer::read(&mut stream).await
    };
    let slow_body = async {
        let mut stream = site.connect().await;
        let half = b"POST /v1/up HTTP/1.1\r\nhost: marmot\r\ncontent-length: 10\r\n\r\n{";
        stream.write_all(half).await.expect("written");
        Answer::read(&mut stream).await
    };
    let (head, nothing, body) = tokio::join!(slow_head, nothing, slow_body);
    assert!(matches!(head.status, 0 | 408), "{head:?}");
    assert_eq!(nothing.body, "");
    assert_eq!((body.status, body.code().as_str()), (408, "too_slow"));
    let took = began.elapsed().as_secs_f64();
    assert!((4.5..9.0).contains(&took), "{took} s");
    assert_eq!(site.fake.orders(), [""; 0]);
}

#[tokio::test]
async fn several_requests_go_over_one_connection() {
    let site = Site::new();
    let mut stream = site.connect().await;
    let keep = get("/v1/status").replace("connection: close\r\n", "");
    for _ in 0..3 {
        stream.write_all(keep.as_bytes()).await.expect("written");
        let mut heard = Vec::new();
        while !heard.ends_with(b"}\n") {
            assert_ne!(within(stream.read_buf(&mut heard)).await.expect("read"), 0);
        }
    }
}

#[tokio::test]
async fn curl_gets_the_same() {
    let site = Site::new();
    let socket = site.socket();
    let status = curl(&[
        "--unix-socket",
        &socket.display().to_string(),
        "http://marmot/v1/status",
    ])
    .await;
    let Some(status) = status else {
        skip("curl_gets_the_same", "there is no curl");
        return;
    };
    assert!(status.contains(r#""state":"up""#), "{status}");
    // -d sends a type that is not JSON's; that is no reason to refuse.
    let words = [
        "-d",
        r#"{"reconnect":true}"#,
        "--unix-socket",
        &socket.display().to_string(),
        "http://marmot/v1/up",
    ];
    assert!(curl(&words).await.expect("curl").contains(r#""version":1"#));
    assert_eq!(site.fake.orders(), ["reconnect"]);
}

/// What curl prints; `None` if there is no curl.
async fn curl(words: &[&str]) -> Option<String> {
    let mut command = std::process::Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "20"])
        .args(words);
    let output = within(tokio::task::spawn_blocking(move || command.output()))
        .await
        .expect("no panic")
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    Some(text)
}
