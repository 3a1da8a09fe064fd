//! What the room keeps, and what it tells whom.

use super::*;
use crate::device::MemoryDevice;
use crate::worker::Order;
use session::gateway::Leases;
use session::park::ParkKind;
use session::resume::{SEED_BYTES, SessionKey};
use session::ticket::FRESH_BYTES;
use std::task::{Context, Waker};
use std::time::Duration;

const LIMITS: Limits = Limits {
    sessions: 10,
    per_user: 2,
    cookie_lifetime: Duration::from_secs(900),
    session_timeout: Some(Duration::from_secs(3600)),
    park_ttl: None,
    quiet: Duration::from_secs(60),
    parked_per_user: 2,
};

fn room() -> SessionRoom {
    room_of("10.78.0.0/29", LIMITS)
}

fn room_of(pool: &str, limits: Limits) -> SessionRoom {
    let (near, _far) = MemoryDevice::pair(8);
    let leases = Leases::new(pool.parse().ok(), None, Duration::from_secs(600));
    let crew = Crew::alone(near, leases.gateway_addresses().collect());
    let keys = TicketKeys::new([7; FRESH_BYTES], at(0).wall);
    SessionRoom::new(
        Sessions::new(limits, leases),
        Rc::new(crew),
        Accounts::nowhere(),
        (keys, Store::nowhere()),
    )
}

fn at(seconds: u64) -> Now {
    Now::default().plus(Duration::from_secs(seconds))
}

fn login(room: &SessionRoom) -> Secret {
    room.login("alice", None, (Reservation::default(), false), at(0))
        .expect("session")
}

/// Of a client that shows its cookie and nothing else.
fn try_to_connect(room: &SessionRoom, cookie: &Secret, seconds: u64) -> Result<Booking, ConnectRefused> {
    let offer = Offer {
        cookie: cookie.clone(),
        want_v4: true,
        want_v6: true,
        ..Offer::default()
    };
    try_with(room, &offer, seconds)
}

fn try_with(room: &SessionRoom, offer: &Offer, seconds: u64) -> Result<Booking, ConnectRefused> {
    let caller = Caller {
        offer,
        peer: SocketAddr::from(([192, 0, 2, 1], 40_000)),
        binding: None,
        certificate_user: None,
    };
    room.connect(&caller, |_, _| Standing::Good(Reservation::default()), at(seconds))
}

fn connect(room: &SessionRoom, cookie: &Secret, seconds: u64) -> Booking {
    try_to_connect(room, cookie, seconds).expect("tunnel")
}

/// What the tunnel of this connection was told last.
fn order(room: &SessionRoom, booking: &Booking) -> Option<Order> {
    let Connected { id, epoch, .. } = booking.connected;
    room.crew().here().order_for(id, epoch)
}

fn records(room: &SessionRoom) -> usize {
    room.records.borrow().len()
}

#[test]
fn cookies_differ_and_are_long() {
    let room = room();
    let (one, other) = (login(&room), login(&room));
    assert_ne!(one, other);
    assert_eq!(one.expose().len(), 43);
}

#[test]
fn the_timer_hears_of_every_login_and_connect() {
    let room = room();
    let woken = || {
        let notified = std::pin::pin!(room.changed.notified());
        notified.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    };
    assert!(!woken());
    let cookie = login(&room);
    assert!(woken() && !woken());
    connect(&room, &cookie, 1);
    assert!(woken() && !woken());
    try_to_connect(&room, &Secret::from("unknown"), 2).expect_err("refused");
    assert!(woken());
}

#[test]
fn a_second_connection_makes_the_first_give_way_and_keeps_the_lease() {
    let room = room();
    let cookie = login(&room);
    let first = connect(&room, &cookie, 1);
    let second = connect(&room, &cookie, 2);
    assert!(matches!(order(&room, &first), Some(Order::GiveWay(_))));
    assert_eq!(first.connected.lease, second.connected.lease);

    let id = first.connected.id;
    room.left(id, 1, &Traffic::default(), Left::Ordered, at(3));
    room.left(id, 1, &Traffic::default(), Left::Detached("late".to_owned()), at(3));
    assert!(room.table.borrow().iter().all(|(_, entry)| entry.has_tunnel()));
}

#[test]
fn a_session_that_ends_from_outside_waits_for_the_counters_of_its_tunnel() {
    let room = room();
    let seat = connect(&room, &login(&room), 1);
    room.expire(at(3600));
    assert!(matches!(order(&room, &seat), Some(Order::End(EndReason::AuthExpired))));
    assert_eq!((room.len(), records(&room)), (0, 1));
    room.left(seat.connected.id, 1, &Traffic::default(), Left::Ordered, at(3601));
    assert_eq!(records(&room), 0);
}

#[test]
fn a_detached_session_waits_and_then_ends() {
    let room = room();
    let cookie = login(&room);
    let seat = connect(&room, &cookie, 1);
    room.left(
        seat.connected.id,
        1,
        &Traffic::default(),
        Left::Detached("eof".to_owned()),
        at(10),
    );
    assert_eq!((room.len(), records(&room)), (1, 1));
    room.expire(at(909));
    assert_eq!(room.len(), 1);
    room.expire(at(910));
    assert_eq!((room.len(), records(&room)), (0, 0));
}

#[test]
fn a_logout_destroys_the_cookie() {
    let room = room();
    let cookie = login(&room);
    let seat = connect(&room, &cookie, 1);
    room.left(
        seat.connected.id,
        1,
        &Traffic::default(),
        Left::Ended(EndReason::UserStop),
        at(2),
    );
    let refused = try_to_connect(&room, &cookie, 3).expect_err("refused");
    assert_eq!(refused, ConnectRefused::UnknownCookie);
    assert_eq!(records(&room), 0);
}

#[test]
fn a_reload_ends_the_sessions_of_users_who_are_gone() {
    let room = room();
    let cookie = login(&room);
    let seat = connect(&room, &cookie, 1);
    let limits = Limits {
        session_timeout: None,
        ..LIMITS
    };
    room.reload(limits, Vec::new(), |user, _| user != "alice", at(2));
    assert!(matches!(order(&room, &seat), Some(Order::End(EndReason::Admin(_)))));
}

#[test]
fn a_session_is_counted_parked_once_and_back_once() {
    let room = room();
    let cookie = login(&room);
    let id = connect(&room, &cookie, 1).connected.id;
    for kind in [ParkKind::Announced, ParkKind::Frozen] {
        room.parked(id, 1, kind, at(10));
    }
    room.stirred(id, 1, true, at(20));
    room.stirred(id, 1, false, at(30));
    room.unparked(id, 1, Via::Rebind, at(30));
    room.unparked(id, 1, Via::SamePath, at(31));
    let counters = room.counters();
    assert_eq!(counters.parks.into_iter().collect::<Vec<_>>(), [("announced", 1)]);
    assert_eq!(counters.unparks.into_iter().collect::<Vec<_>>(), [("rebind", 1)]);
}

#[test]
fn a_session_without_a_connection_is_parked_after_a_while_unless_its_client_comes_back() {
    let room = room();
    let cookie = login(&room);
    let gone = || Left::Detached("eof".to_owned());
    let id = connect(&room, &cookie, 1).connected.id;
    room.left(id, 1, &Traffic::default(), gone(), at(10));
    room.expire(at(69));
    connect(&room, &cookie, 69);
    assert_eq!(room.counters(), Counters::default());
    room.left(id, 2, &Traffic::default(), gone(), at(80));
    room.expire(at(140));
    room.expire(at(150));
    connect(&room, &cookie, 160);
    let counters = room.counters();
    assert_eq!(counters.parks.into_iter().collect::<Vec<_>>(), [("unreachable", 1)]);
    assert_eq!(counters.unparks.into_iter().collect::<Vec<_>>(), [("resume", 1)]);
}

#[test]
fn a_login_that_pushes_a_parked_session_out_is_its_way_back() {
    let room = room();
    let gone = || Left::Detached("eof".to_owned());
    let first = connect(&room, &login(&room), 1).connected.id;
    room.left(first, 1, &Traffic::default(), gone(), at(2));
    room.expire(at(62));
    let _second = connect(&room, &login(&room), 63);
    assert_eq!(room.counters().unparks.len(), 0, "two are allowed");
    login(&room);
    let counters = room.counters();
    assert_eq!(counters.unparks.into_iter().collect::<Vec<_>>(), [("login", 1)]);
    assert_eq!(counters.disconnects.into_iter().collect::<Vec<_>>(), [("replaced", 1)]);
}

#[test]
fn status_says_by_what_each_connection_got_its_session() {
    let room = room();
    let cookie = login(&room);
    let by = |room: &SessionRoom| room.describe(at(5)).sessions[0].entrance.clone();
    assert_eq!(by(&room), None);
    for (seconds, word) in [(1, "login"), (2, "cookie")] {
        connect(&room, &cookie, seconds);
        assert_eq!(by(&room).as_deref(), Some(word));
    }
}

#[tokio::test]
async fn what_is_revoked_leaves_the_file_when_its_last_ticket_is_over() {
    let folder = tempfile::tempdir().expect("folder");
    let limits = Limits {
        park_ttl: Some(Duration::from_secs(3600)),
        session_timeout: None,
        ..LIMITS
    };
    let (store, _) = Store::open(folder.path());
    let room = SessionRoom {
        store,
        ..room_of("10.78.0.0/24", limits)
    };
    let mut until = at(0).boot;
    for n in 0..2 {
        let offer = Offer {
            cookie: login(&room),
            want_v4: true,
            session: true,
            park: Some(SessionKey::from_seed([7; SEED_BYTES]).public()),
            ..Offer::default()
        };
        let id = try_with(&room, &offer, n * 100).expect("tunnel").connected.id;
        room.left(
            id,
            1,
            &Traffic::default(),
            Left::Ended(EndReason::UserStop),
            at(n * 100),
        );
        until = room
            .table
            .borrow()
            .revoked()
            .map(|(_, until)| until)
            .min()
            .expect("there are tickets");
    }
    let over = at(until.since_origin().as_secs());
    let wakes = room.deadline(at(1000)).map(|deadline| deadline.at);
    assert_eq!(wakes, Some(over.awake));
    room.expire(over);
    room.finish(Duration::from_secs(30)).await;
    let (_store, left) = Store::open(folder.path());
    assert_eq!(left.revoked.len(), 1, "the later one is refused still");
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a number") * 4096
}

#[test]
fn ten_thousand_parked_sessions_are_small() {
    const SESSIONS: u64 = 10_000;
    let room = room_of(
        "10.64.0.0/16",
        Limits {
            sessions: 20_000,
            session_timeout: None,
            park_ttl: Some(Duration::from_secs(28_800)),
            ..LIMITS
        },
    );
    let before = resident();
    for n in 0..SESSIONS {
        let user = format!("user{n}");
        let cookie = room
            .login(&user, None, (Reservation::default(), false), at(n))
            .expect("session");
        let key = SessionKey::from_seed([7; SEED_BYTES]);
        let offer = Offer {
            cookie,
            want_v4: true,
            session: true,
            park: Some(key.public()),
            ..Offer::default()
        };
        let seat = try_with(&room, &offer, n).expect("tunnel");
        assert!(seat.ticket.is_some());
        let id = seat.connected.id;
        room.parked(id, 1, ParkKind::Announced, at(n));
        room.nobody_came(&seat, "asleep", at(n));
    }
    let each = resident().saturating_sub(before) / SESSIONS;
    println!("{each} bytes of memory for each of {SESSIONS} parked sessions");
    assert_eq!(room.counts().parked, SESSIONS);
    // Other tests of this process hash passwords meanwhile.
    assert!(each < 16_384, "{each}");
    room.expire(at(28_800 + SESSIONS));
    assert_eq!(room.len(), 0);
}
