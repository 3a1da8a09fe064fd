//! More of everything than there is room for.

use std::time::Duration;

use api::{MAX_CONNECTIONS, Privilege};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::fake::{Answer, Site, get, within};

/// Connections of a flood, all at once.
const FLOOD: usize = 200;

/// How often the flood comes.
const WAVES: usize = 25;

/// Fills `places` with connections that had an answer, so that they are counted for sure.
async fn occupy(site: &Site, places: usize) -> Vec<UnixStream> {
    let mut guests = Vec::new();
    for _ in 0..places {
        let mut stream = site.connect().await;
        ask(&mut stream).await;
        guests.push(stream);
    }
    guests
}

/// One request on a connection that stays.
async fn ask(stream: &mut UnixStream) {
    let keep = get("/v1/status").replace("connection: close\r\n", "");
    stream.write_all(keep.as_bytes()).await.expect("written");
    let mut heard = Vec::new();
    while !heard.ends_with(b"}\n") {
        assert_ne!(within(stream.read_buf(&mut heard)).await.expect("read"), 0, "closed");
    }
    assert!(
        heard.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&heard)
    );
}

#[tokio::test]
async fn the_thirty_third_connection_hears_why_and_the_others_stay() {
    let site = Site::new();
    let mut guests = occupy(&site, MAX_CONNECTIONS).await;
    let answer = site.raw(get("/v1/status")).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "busy"));
    for guest in &mut guests {
        ask(guest).await;
    }
    guests.pop();
    // The place is free once the server has seen the end.
    let deadline = Instant::now() + Duration::from_secs(5);
    while site.raw(get("/v1/status")).await.status != 200 {
        assert!(Instant::now() < deadline, "the place stays taken");
    }
}

#[tokio::test]
async fn four_places_are_kept_for_those_who_administer() {
    let nobody_administers = Site::allowing(|_, privilege| privilege == Privilege::Use);
    let _guests = occupy(&nobody_administers, MAX_CONNECTIONS - 4).await;
    let answer = nobody_administers.raw(get("/v1/status")).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "busy"));

    let everybody_does = Site::allowing(|_, _| true);
    let _guests = occupy(&everybody_does, MAX_CONNECTIONS - 1).await;
    assert_eq!(everybody_does.raw(get("/v1/status")).await.status, 200);
}

#[tokio::test]
async fn a_connection_that_asks_nothing_gives_its_place_away() {
    let site = Site::new();
    let _silent = {
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(site.connect().await);
        }
        silent
    };
    // The client knocks until there is room.
    let began = Instant::now();
    within(site.client().status()).await.expect("an answer");
    let took = began.elapsed().as_secs_f64();
    assert!(took < 8.5, "{took} s");
}

#[tokio::test]
async fn a_flood_neither_starves_a_client_that_is_in_nor_grows_the_memory() {
    let site = Site::new();
    let mut established = site.connect().await;
    ask(&mut established).await;
    let mut slowest = Duration::ZERO;
    let mut after_first = 0;
    for wave in 0..WAVES {
        let flood: Vec<_> = (0..FLOOD)
            .map(|number| tokio::spawn(pest(site.socket(), number)))
            .collect();
        for _ in 0..4 {
            let began = Instant::now();
            ask(&mut established).await;
            slowest = slowest.max(began.elapsed());
        }
        for pest in flood {
            within(pest).await.expect("no panic");
        }
        if wave == 0 {
            after_first = resident_kib();
        }
    }
    let grown = resident_kib().saturating_sub(after_first);
    eprintln!(
        "{} connections in waves of {FLOOD}: slowest answer {slowest:?}, grown by {grown} KiB",
        FLOOD * WAVES
    );
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    // The waves threw 500 MB at it. Other tests run in this process, too.
    assert!(grown < 24 * 1024, "{grown} KiB");
}

/// A peer that means no good.
async fn pest(socket: std::path::PathBuf, number: usize) {
    let Ok(mut stream) = UnixStream::connect(socket).await else {
        return;
    };
    let noise = match number % 4 {
        0 => get("/v1/history?last=1000").into_bytes(),
        1 => vec![b'x'; 300_000],
        2 => format!(
            "POST /v1/up HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n{}",
            "[".repeat(100_000)
        )
        .into_bytes(),
        _ => b"GET /v1/ev".to_vec(),
    };
    let _ = stream.write_all(&noise).await;
    if number % 4 < 3 {
        let _ = Answer::read(&mut stream).await;
    }
}

/// Memory of this process, of which the server is a part.
fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    pages * 4
}
