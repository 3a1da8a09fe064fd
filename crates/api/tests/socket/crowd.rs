//! More of everything than there is room for.

use std::time::Duration;

use api::{MAX_CONNECTIONS, Privilege};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::fake::{Site, ask, get, within};

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
