//! A flood of connections. In a process of its own, of which it measures the memory.

#[expect(dead_code, reason = "the other tests need the rest")]
#[path = "socket/fake.rs"]
mod fake;

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::fake::{Answer, Site, ask, get, within};

/// Connections of a flood, all at once.
const FLOOD: usize = 200;

/// How often the flood comes.
const WAVES: usize = 25;

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
    // The waves threw 500 MB at it.
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
