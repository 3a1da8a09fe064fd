//! Readers of events: quick, slow, gone, too many.

use api::{ClientError, Down, EVENT_QUEUE, Event, Happening};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fake::{Site, get, within};

/// An event that says `size` bytes.
fn lost(size: usize) -> Happening {
    Happening::PathLost {
        detail: Some("x".repeat(size)),
    }
}

async fn next(stream: &mut api::EventStream) -> Event {
    within(stream.next()).await.expect("an event").expect("not the end")
}

#[tokio::test]
async fn the_status_comes_first_and_then_everything_in_its_order() {
    let site = Site::new();
    let mut stream = site.client().events().await.expect("a stream");
    assert!(matches!(next(&mut stream).await.what, Happening::Status { .. }));
    site.fake.tell(Happening::StopAck(Down::default()));
    site.fake.tell(lost(3));
    assert_eq!(next(&mut stream).await.what, Happening::StopAck(Down::default()));
    assert_eq!(next(&mut stream).await.what, lost(3));
}

#[tokio::test]
async fn a_line_is_an_object_with_a_version_for_curl_too() {
    let mut site = Site::new();
    let mut stream = site.connect().await;
    stream.write_all(get("/v1/events").as_bytes()).await.expect("written");
    let mut heard = Vec::new();
    while !heard.ends_with(b"\n\r\n") {
        assert_ne!(within(stream.read_buf(&mut heard)).await.expect("read"), 0);
    }
    let text = String::from_utf8(heard).expect("text");
    assert!(
        text.to_lowercase().contains("content-type: application/x-ndjson"),
        "{text}"
    );
    let line = text.lines().find(|line| line.starts_with('{')).expect("a line");
    let json: serde_json::Value = serde_json::from_str(line).expect("json");
    assert_eq!((&json["version"], &json["event"]), (&1.into(), &"status".into()));
    site.begin_to_end();
    site.ended().await;
}

#[tokio::test]
async fn a_reader_that_does_not_keep_up_is_dropped_and_a_quick_one_misses_nothing() {
    const SIZE: usize = 16 * 1024;
    let site = Site::new();
    let mut slow = site.connect().await;
    slow.write_all(get("/v1/events").as_bytes()).await.expect("written");
    let mut quick = site.client().events().await.expect("a stream");
    next(&mut quick).await;
    while site.fake.readers() < 2 {
        tokio::task::yield_now().await;
    }
    let mut told = 0;
    while site.fake.readers() > 1 {
        site.fake.tell(lost(SIZE));
        assert_eq!(next(&mut quick).await.what, lost(SIZE));
        told += 1;
        assert!(told < 10 * EVENT_QUEUE, "the slow reader stays");
    }
    // Its connection is over, behind what the socket had taken already.
    let mut heard = Vec::new();
    let _ = within(slow.read_to_end(&mut heard)).await;
    assert!(heard.len() < told * SIZE, "{} of {}", heard.len(), told * SIZE);
    assert!(told >= EVENT_QUEUE, "dropped after {told}");
}

#[tokio::test]
async fn a_reader_that_goes_away_leaves_nothing_behind() {
    let site = Site::new();
    for _ in 0..100 {
        let mut stream = site.client().events().await.expect("a stream");
        next(&mut stream).await;
    }
    within(async {
        while site.fake.readers() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn readers_leave_room_for_orders() {
    let site = Site::new();
    let mut readers = Vec::new();
    for _ in 0..16 {
        readers.push(site.client().events().await.expect("a stream"));
    }
    match site.client().events().await {
        Err(ClientError::Refused { status, code, .. }) => {
            assert_eq!((status, code.as_str()), (503, "too_many_readers"))
        }
        other => panic!("{other:?}"),
    }
    site.client().down().await.expect("an answer");
}

#[tokio::test]
async fn at_the_end_of_the_daemon_readers_hear_the_last_event_and_then_the_end() {
    let mut site = Site::new();
    let mut stream = site.client().events().await.expect("a stream");
    next(&mut stream).await;
    site.fake.tell(lost(1));
    site.begin_to_end();
    assert_eq!(next(&mut stream).await.what, lost(1));
    assert_eq!(within(stream.next()).await.expect("in order"), None);
    site.ended().await;
}

#[tokio::test]
async fn an_answer_that_is_on_its_way_arrives_though_the_daemon_ends() {
    let mut site = Site::gated();
    let client = site.client();
    let order = tokio::spawn(async move { client.down().await });
    site.fake.down_has_begun().await;
    site.begin_to_end();
    site.fake.open_the_gate();
    let down = within(order).await.expect("no panic").expect("acknowledged");
    assert!(!down.already);
    site.ended().await;
}

#[tokio::test]
async fn the_end_waits_for_nobody_who_does_not_listen() {
    let mut site = Site::gated();
    let _silent = site.connect().await;
    let client = site.client();
    let order = tokio::spawn(async move { client.down().await });
    site.fake.down_has_begun().await;
    site.begin_to_end();
    let began = tokio::time::Instant::now();
    site.ended().await;
    let took = began.elapsed().as_millis();
    assert!(took < 1000, "{took} ms");
    order.abort();
}
