//! What happens to sessions when clients come, sleep, come back and crowd.

use super::*;
use crate::park::ParkKind;

mod resume;

const LIMITS: Limits = Limits {
    sessions: 4,
    per_user: 2,
    cookie_lifetime: Duration::from_secs(900),
    session_timeout: Some(Duration::from_secs(36_000)),
    park_ttl: Some(Duration::from_secs(28_800)),
    quiet: Duration::from_secs(60),
    parked_per_user: 2,
};

fn now(seconds: u64) -> Now {
    Now::default().plus(Duration::from_secs(seconds))
}

fn table() -> Sessions {
    let pool = "10.78.0.0/29".parse().expect("net");
    Sessions::new(LIMITS, Leases::new(Some(pool), None, Duration::from_secs(600)))
}

fn cookie(n: u8) -> CookieHash {
    CookieHash([n; 32])
}

fn login(table: &mut Sessions, user: &str, n: u8, at: u64) -> Result<Vec<Ended>, LoginRefused> {
    login_with(table, user, Reservation::default(), n, at)
}

fn login_with(
    table: &mut Sessions,
    user: &str,
    reserved: Reservation,
    n: u8,
    at: u64,
) -> Result<Vec<Ended>, LoginRefused> {
    let login = Login {
        user,
        group: None,
        certified: false,
        reserved,
        id: SessionId([n; 16]),
        cookie: cookie(n),
    };
    table.login(&login, now(at))
}

/// Of a client that shows its cookie and nothing else.
fn claim(n: u8) -> Claim<'static> {
    Claim {
        shown: Shown::Cookie(cookie(n)),
        families: (true, true),
        key: None,
        proof: None,
        certificate_user: None,
    }
}

fn welcome(_: &str, _: Option<&str>) -> Standing {
    Standing::Good(Reservation::default())
}

fn connect(table: &mut Sessions, n: u8, at: u64) -> Result<Connected, ConnectRefused> {
    table.connect(&claim(n), welcome, now(at))
}

#[test]
fn a_reconnect_with_the_cookie_keeps_the_addresses_and_raises_the_epoch() {
    let mut table = table();
    login(&mut table, "alice", 1, 0).expect("room");
    let first = connect(&mut table, 1, 1).expect("cookie");
    assert!(table.detach(first.id, 1, now(10)));
    let second = connect(&mut table, 1, 600).expect("within the lifetime");
    assert_eq!((first.epoch, second.epoch), (1, 2));
    assert_eq!(first.lease, second.lease);
    assert_eq!(second.replaced, None);
}

#[test]
fn a_take_over_wins_and_the_old_connection_cannot_end_it() {
    let mut table = table();
    login(&mut table, "alice", 1, 0).expect("room");
    let first = connect(&mut table, 1, 1).expect("cookie");
    let second = connect(&mut table, 1, 2).expect("cookie");
    assert_eq!(second.replaced, Some(1));
    assert!(!table.detach(first.id, 1, now(3)), "an old epoch detaches nothing");
    assert_eq!(table.end(first.id, Some(1), EndReason::UserStop, now(3)), None);
    assert!(table.iter().all(|(_, entry)| entry.has_tunnel()));
}

#[test]
fn a_session_is_parked_once_and_keeps_the_time_of_its_first_kind() {
    let mut table = table();
    login(&mut table, "alice", 1, 0).expect("room");
    let id = connect(&mut table, 1, 1).expect("cookie").id;
    let parked = |table: &Sessions| table.iter().next().and_then(|(_, entry)| entry.parked());
    assert_eq!(
        table.park(id, 1, ParkKind::Announced, now(10)),
        Some(Vec::new()),
        "said once"
    );
    assert_eq!(table.park(id, 1, ParkKind::Frozen, now(20)), None);
    assert_eq!(table.park(id, 7, ParkKind::Frozen, now(20)), None, "another epoch");
    assert!(table.stirred(id, 1, true, now(30)));
    assert!(table.control_lost(id, 1) && !table.control_lost(id, 1));
    assert!(table.detach(id, 1, now(40)));
    let expected = Parked {
        kind: ParkKind::Unreachable,
        since: Since::now(now(10).boot),
        wakes: 1,
    };
    assert_eq!(parked(&table), Some(expected));
    assert!(table.unreachable(now(1000)).is_empty(), "it is parked already");
    assert_eq!(connect(&mut table, 1, 50).expect("cookie").parked, Some(expected));
    assert_eq!(parked(&table), None);
    assert_eq!(table.unpark(id, 2, now(60)), None);
}

#[test]
fn only_a_users_own_oldest_parked_session_gives_way() {
    let mut table = Sessions::new(
        Limits { per_user: 8, ..LIMITS },
        Leases::new(
            Some("10.78.0.0/24".parse().expect("net")),
            None,
            Duration::from_secs(600),
        ),
    );
    for (user, n) in [("bob", 1), ("alice", 2), ("alice", 3), ("alice", 4)] {
        login(&mut table, user, n, 0).expect("room");
        let id = connect(&mut table, n, 1).expect("cookie").id;
        let ended = table
            .park(id, 1, ParkKind::Frozen, now(10 + u64::from(n)))
            .expect("newly parked");
        let gone: Vec<_> = ended.iter().map(|ended| (ended.id, &ended.reason)).collect();
        if n == 4 {
            assert_eq!(gone, [(SessionId([2; 16]), &EndReason::Replaced)]);
        } else {
            assert!(gone.is_empty());
        }
    }
}

#[test]
fn a_logout_destroys_the_cookie() {
    let mut table = table();
    login(&mut table, "alice", 1, 0).expect("room");
    let connected = connect(&mut table, 1, 1).expect("cookie");
    let ended = table
        .end(connected.id, Some(1), EndReason::UserStop, now(2))
        .expect("was there");
    assert_eq!((ended.reason, ended.connected), (EndReason::UserStop, Some(1)));
    assert_eq!(connect(&mut table, 1, 3), Err(ConnectRefused::UnknownCookie));
}

#[test]
fn a_client_that_stays_away_too_long_loses_its_session() {
    let mut table = table();
    login(&mut table, "alice", 1, 0).expect("room");
    let connected = connect(&mut table, 1, 1).expect("cookie");
    table.detach(connected.id, 1, now(10));
    assert_eq!(table.deadline(now(10)).map(|deadline| deadline.at), Some(now(70).awake));
    assert_eq!(table.unreachable(now(70)), [(connected.id, 1)]);
    table.park(connected.id, 1, ParkKind::Unreachable, now(70));
    assert_eq!(
        table.deadline(now(70)).map(|deadline| deadline.at),
        Some(now(910).awake)
    );
    assert!(table.expire(now(909)).is_empty());
    let ended = table.expire(now(910));
    assert_eq!(
        ended.iter().map(|ended| &ended.reason).collect::<Vec<_>>(),
        [&EndReason::ParkTtl]
    );
    assert_eq!(connect(&mut table, 1, 911), Err(ConnectRefused::UnknownCookie));
}

#[test]
fn sleep_of_the_gateway_counts_towards_the_lifetime() {
    let mut table = table();
    login(&mut table, "alice", 1, 0).expect("room");
    let later = now(1).plus_asleep(Duration::from_secs(1000));
    assert_eq!(
        table.connect(&claim(1), welcome, later),
        Err(ConnectRefused::UnknownCookie)
    );
}

#[test]
fn a_connected_session_lives_until_the_session_timeout_only() {
    let mut table = table();
    login(&mut table, "alice", 1, 0).expect("room");
    assert_eq!(
        connect(&mut table, 1, 100).expect("cookie").remaining,
        Some(Duration::from_secs(35_900))
    );
    assert!(table.expire(now(35_999)).is_empty());
    let ended = table.expire(now(36_000));
    assert_eq!(
        (&ended[0].reason, ended[0].connected),
        (&EndReason::AuthExpired, Some(1))
    );
}

#[test]
fn at_the_limit_only_a_users_own_waiting_session_gives_way() {
    let mut table = table();
    for n in 1..=2 {
        login(&mut table, "alice", n, u64::from(n)).expect("room");
    }
    connect(&mut table, 1, 5).expect("cookie");
    let ended = login(&mut table, "alice", 3, 10).expect("session 2 waits");
    assert_eq!(
        (ended[0].id, &ended[0].reason),
        (SessionId([2; 16]), &EndReason::Replaced)
    );
    connect(&mut table, 3, 11).expect("cookie");
    assert_eq!(login(&mut table, "alice", 4, 12), Err(LoginRefused::TooManyOfUser));
    login(&mut table, "bob", 5, 13).expect("room");
    login(&mut table, "bob", 6, 13).expect("room");
    assert_eq!(login(&mut table, "carol", 7, 14), Err(LoginRefused::Full));
}

#[test]
fn at_the_limit_a_login_that_was_never_used_goes_before_a_client_that_sleeps() {
    let mut table = table();
    login(&mut table, "alice", 1, 0).expect("room");
    let laptop = connect(&mut table, 1, 1).expect("cookie");
    table.detach(laptop.id, 1, now(2));
    login(&mut table, "alice", 2, 10).expect("room");
    let ended = login(&mut table, "alice", 3, 20).expect("session 2 gives way");
    assert_eq!(
        ended.iter().map(|ended| ended.id).collect::<Vec<_>>(),
        [SessionId([2; 16])]
    );
    assert_eq!(connect(&mut table, 1, 30).expect("cookie").lease, laptop.lease);
}

#[test]
fn a_session_whose_time_is_over_takes_no_room() {
    let mut table = table();
    for (user, n) in [("alice", 1), ("alice", 2), ("bob", 3), ("bob", 4)] {
        login(&mut table, user, n, 0).expect("room");
    }
    for n in 2..=4 {
        connect(&mut table, n, 1).expect("cookie");
    }
    assert_eq!(login(&mut table, "carol", 5, 899), Err(LoginRefused::Full));
    let ended = login(&mut table, "carol", 5, 900).expect("session 1 is over");
    assert_eq!(
        (ended[0].id, &ended[0].reason),
        (SessionId([1; 16]), &EndReason::ParkTtl)
    );
}

#[test]
fn what_ended_at_a_login_that_was_refused_is_reported_by_the_next_look() {
    let mut table = table();
    for (user, n) in [("alice", 1), ("bob", 2), ("bob", 3)] {
        login(&mut table, user, n, 0).expect("room");
    }
    for n in 2..=3 {
        connect(&mut table, n, 1).expect("cookie");
    }
    assert_eq!(login(&mut table, "bob", 4, 900), Err(LoginRefused::TooManyOfUser));
    assert_eq!(
        table.deadline(now(900)).map(|deadline| deadline.at),
        Some(now(900).awake)
    );
    assert_eq!(table.expire(now(900)).len(), 1);
}

#[test]
fn an_exhausted_pool_refuses_the_tunnel_but_keeps_the_session() {
    let mut table = Sessions::new(
        LIMITS,
        Leases::new(
            Some("10.78.0.0/30".parse().expect("net")),
            None,
            Duration::from_secs(600),
        ),
    );
    login(&mut table, "alice", 1, 0).expect("room");
    login(&mut table, "bob", 2, 0).expect("room");
    let first = connect(&mut table, 1, 1).expect("one address");
    assert_eq!(connect(&mut table, 2, 1), Err(ConnectRefused::PoolExhausted));
    table.end(first.id, None, EndReason::UserStop, now(2));
    assert_eq!(connect(&mut table, 2, 3).expect("free again").lease, first.lease);
}

#[test]
fn a_reserved_address_follows_its_user() {
    let mut table = table();
    let reserved = Reservation {
        v4: Some([10, 78, 0, 5].into()),
        v6: None,
    };
    table.set_reservations([("alice".to_owned(), reserved)]);
    for n in 1..=2 {
        login_with(&mut table, "alice", reserved, n, 0).expect("room");
    }
    let first = connect(&mut table, 1, 1).expect("cookie");
    assert_eq!(first.lease.v4, reserved.v4);
    table.detach(first.id, 1, now(2));
    let second = connect(&mut table, 2, 3).expect("cookie");
    assert_eq!(second.lease.v4, reserved.v4);
    assert_eq!(
        second.ended.iter().map(|ended| ended.id).collect::<Vec<_>>(),
        [first.id]
    );
}

#[test]
fn a_login_from_before_a_reload_gets_what_is_reserved_now() {
    let mut table = table();
    let of = |last| Reservation {
        v4: Some([10, 78, 0, last].into()),
        v6: None,
    };
    table.set_reservations([("alice".to_owned(), of(5))]);
    for (user, n) in [("alice", 1), ("bob", 2)] {
        let reserved = if user == "alice" { of(5) } else { Reservation::default() };
        login_with(&mut table, user, reserved, n, 0).expect("room");
    }
    table.set_reservations([("bob".to_owned(), of(5))]);
    let alice = connect(&mut table, 1, 1).expect("an address of the pool");
    assert_ne!(alice.lease.v4, of(5).v4);
    assert_eq!(connect(&mut table, 2, 1).expect("reserved").lease.v4, of(5).v4);
}

#[test]
fn a_reconnect_that_needs_no_address_ends_no_sleeping_session() {
    let mut table = table();
    let reserved = Reservation {
        v4: Some([10, 78, 0, 5].into()),
        v6: None,
    };
    table.set_reservations([("alice".to_owned(), reserved)]);
    for n in 1..=2 {
        login_with(&mut table, "alice", reserved, n, 0).expect("room");
    }
    let asleep = connect(&mut table, 1, 1).expect("the reserved address");
    let other = connect(&mut table, 2, 1).expect("an address of the pool");
    assert_eq!((asleep.missed, other.missed), (Reservation::default(), reserved));
    table.detach(asleep.id, 1, now(2));
    table.detach(other.id, 1, now(2));
    let back = connect(&mut table, 2, 3).expect("cookie");
    assert_eq!((back.lease, back.ended), (other.lease, Vec::new()));
    assert_eq!(back.missed, Reservation::default(), "said once");
    assert_eq!(connect(&mut table, 1, 4).expect("cookie").lease, asleep.lease);
}

#[test]
fn a_session_that_gave_way_in_vain_is_reported_by_the_next_look() {
    let v6 = "fd00:78::/126".parse().expect("net");
    let leases = Leases::new(Some("10.78.0.0/29".parse().expect("net")), Some(v6), Duration::ZERO);
    let mut table = Sessions::new(Limits { per_user: 4, ..LIMITS }, leases);
    let reserved = Reservation {
        v4: Some([10, 78, 0, 5].into()),
        v6: None,
    };
    table.set_reservations([("alice".to_owned(), reserved)]);
    for n in 1..=2 {
        login(&mut table, "bob", n, 0).expect("room");
        connect(&mut table, n, 0).expect("both addresses of the small pool go");
    }
    for n in 3..=4 {
        login_with(&mut table, "alice", reserved, n, 0).expect("room");
    }
    let v4_only = Claim {
        families: (true, false),
        ..claim(3)
    };
    table.connect(&v4_only, welcome, now(1)).expect("the reserved address");
    table.detach(SessionId([3; 16]), 1, now(2));
    assert_eq!(connect(&mut table, 4, 3), Err(ConnectRefused::PoolExhausted));
    assert_eq!(table.deadline(now(3)).map(|deadline| deadline.at), Some(now(3).awake));
    let ended = table.expire(now(3));
    assert_eq!(
        ended.iter().map(|ended| ended.id).collect::<Vec<_>>(),
        [SessionId([3; 16])]
    );
}

#[test]
fn a_removed_user_loses_every_session() {
    let mut table = table();
    login(&mut table, "alice", 1, 0).expect("room");
    login(&mut table, "bob", 2, 0).expect("room");
    connect(&mut table, 1, 1).expect("cookie");
    let ended = table.retain_users(|user, group| user == "bob" && group.is_none(), now(2));
    assert_eq!(ended.len(), 1);
    assert_eq!((ended[0].user.as_str(), ended[0].connected), ("alice", Some(1)));
}

fn token(n: u8) -> TokenHash {
    TokenHash([n; 32])
}

#[test]
fn a_logout_token_ends_its_epoch_and_nothing_else() {
    let mut table = table();
    login(&mut table, "alice", 1, 0).expect("room");
    login(&mut table, "alice", 2, 0).expect("room");
    let one = connect(&mut table, 1, 1).expect("cookie");
    let other = connect(&mut table, 2, 1).expect("cookie");
    assert!(table.allow_logout(one.id, 1, token(1)));
    assert!(table.allow_logout(other.id, 1, token(2)));
    assert_eq!(table.logout(other.id, 1, &token(1), now(2)), Err(WrongToken));
    let ended = table
        .logout(one.id, 1, &token(1), now(2))
        .expect("right")
        .expect("it was there");
    assert_eq!(
        (ended.id, ended.reason, ended.connected),
        (one.id, EndReason::UserStop, Some(1))
    );
    assert_eq!(table.logout(one.id, 1, &token(1), now(3)), Ok(None));
    assert_eq!(table.iter().map(|(id, _)| id).collect::<Vec<_>>(), [other.id]);
}

#[test]
fn a_later_connection_takes_the_session_out_of_reach_of_an_old_token() {
    let mut table = table();
    login(&mut table, "alice", 1, 0).expect("room");
    let id = connect(&mut table, 1, 1).expect("cookie").id;
    assert!(table.allow_logout(id, 1, token(1)));
    connect(&mut table, 1, 2).expect("cookie");
    assert_eq!(table.logout(id, 1, &token(1), now(3)), Ok(None));
    assert_eq!(
        table.logout(id, 2, &token(1), now(3)),
        Err(WrongToken),
        "no token of this epoch"
    );
    assert!(!table.allow_logout(id, 1, token(1)));
    assert_eq!(table.iter().count(), 1);
}

#[test]
fn the_text_of_a_session_id_reads_back() {
    let id = SessionId([0xa0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff]);
    assert_eq!(SessionId::parse(&id.to_string()), Some(id));
    for bad in [
        "",
        "00",
        "0g000000000000000000000000000000",
        "000000000000000000000000000000000",
    ] {
        assert_eq!(SessionId::parse(bad), None, "{bad}");
    }
}
