//! Who may go on with a session: proofs, epochs, certificates, tickets, and what a restart leaves.

use super::*;
use crate::park::ParkKind;
use crate::resume::{BINDING_BYTES, SEED_BYTES, SessionKey};
use crate::ticket::Ticket;
use proptest::prelude::*;
use wire::offer::{MarmotSession, Resume};

const BINDING: [u8; BINDING_BYTES] = [9; BINDING_BYTES];

fn key(n: u8) -> SessionKey {
    SessionKey::from_seed([n; SEED_BYTES])
}

fn proof(key: &SessionKey, n: u8, epoch: u64) -> Resume {
    let session = MarmotSession {
        id: SessionId([n; 16]).to_string(),
        epoch,
    };
    key.sign(&BINDING, session)
}

fn with<'a>(claim: Claim<'a>, resume: &'a Resume) -> Claim<'a> {
    Claim {
        proof: Some(Proof {
            resume,
            binding: BINDING,
        }),
        ..claim
    }
}

/// A client with a key has connected as epoch 1; what it was granted.
fn parking_client(table: &mut Sessions, user: &str, n: u8) -> Connected {
    login(table, user, n, 0).expect("room");
    let first = Claim {
        key: Some(key(n).public()),
        ..claim(n)
    };
    table.connect(&first, welcome, now(1)).expect("cookie")
}

fn by_ticket(ticket: &Ticket) -> Claim<'_> {
    Claim {
        shown: Shown::Ticket(ticket),
        key: Some(ticket.key),
        ..claim(0)
    }
}

#[test]
fn a_cookie_or_a_ticket_without_the_key_opens_nothing() {
    let mut table = table();
    let ticket = parking_client(&mut table, "alice", 1).ticket.expect("granted");
    let (stolen, other_session) = (proof(&key(7), 1, 2), proof(&key(1), 2, 2));
    let good = proof(&key(1), 1, 2);
    let elsewhere = Claim {
        proof: Some(Proof {
            resume: &good,
            binding: [8; BINDING_BYTES],
        }),
        ..claim(1)
    };
    for claim in [
        claim(1),
        by_ticket(&ticket),
        with(claim(1), &stolen),
        with(by_ticket(&ticket), &other_session),
        elsewhere,
    ] {
        assert_eq!(table.connect(&claim, welcome, now(2)), Err(ConnectRefused::NoProof));
    }
    for (shown, epoch, by) in [
        (claim(1), 2, Entrance::Cookie),
        (by_ticket(&ticket), 3, Entrance::Ticket),
    ] {
        let good = proof(&key(1), 1, epoch);
        let back = table.connect(&with(shown, &good), welcome, now(3));
        assert_eq!(back.map(|it| (it.epoch, it.entrance)), Ok((epoch, by)));
    }
}

#[test]
fn an_epoch_that_is_not_higher_is_told_the_newest_only_with_a_good_proof() {
    let mut table = table();
    parking_client(&mut table, "alice", 1);
    let ahead = proof(&key(1), 1, 40);
    table
        .connect(&with(claim(1), &ahead), welcome, now(2))
        .expect("any higher epoch is good");
    for epoch in [0, 1, 39, 40] {
        let stale = proof(&key(1), 1, epoch);
        assert_eq!(
            table.connect(&with(claim(1), &stale), welcome, now(3)),
            Err(ConnectRefused::Stale(SessionId([1; 16]), 40))
        );
        let wrong = proof(&key(2), 1, epoch);
        assert_eq!(
            table.connect(&with(claim(1), &wrong), welcome, now(3)),
            Err(ConnectRefused::NoProof)
        );
    }
}

#[test]
fn another_key_at_a_later_connection_does_not_replace_the_first() {
    let mut table = table();
    parking_client(&mut table, "alice", 1);
    let good = proof(&key(1), 1, 2);
    let takes_over = Claim {
        key: Some(key(2).public()),
        ..with(claim(1), &good)
    };
    let connected = table.connect(&takes_over, welcome, now(2)).expect("proven");
    assert_eq!(connected.ticket.map(|ticket| ticket.key), Some(key(1).public()));
    let theirs = proof(&key(2), 1, 3);
    assert_eq!(
        table.connect(&with(claim(1), &theirs), welcome, now(3)),
        Err(ConnectRefused::NoProof)
    );
}

#[test]
fn a_client_that_can_park_is_kept_for_the_park_and_a_stock_one_for_its_cookie() {
    let mut table = table();
    let granted = parking_client(&mut table, "alice", 1);
    assert_eq!(granted.park, Some(Duration::from_secs(28_800)));
    login(&mut table, "bob", 2, 0).expect("room");
    let stock = connect(&mut table, 2, 1).expect("cookie");
    assert_eq!((stock.park, stock.ticket), (None, None));
    table.park(granted.id, 1, ParkKind::Announced, now(10));
    table.detach(granted.id, 1, now(100));
    table.detach(stock.id, 1, now(100));
    let over: Vec<_> = table.expire(now(1000)).iter().map(|ended| ended.id).collect();
    assert_eq!(over, [stock.id]);
    assert!(table.expire(now(10 + 28_799)).is_empty());
    let over = table.expire(now(10 + 28_800));
    assert_eq!(over[0].reason, EndReason::ParkTtl);
}

#[test]
fn a_word_of_a_parked_client_begins_its_time_anew() {
    let mut table = table();
    let id = parking_client(&mut table, "alice", 1).id;
    table.park(id, 1, ParkKind::Frozen, now(10));
    assert!(table.stirred(id, 1, true, now(5000)) && table.stirred(id, 1, false, now(5010)));
    assert!(table.expire(now(5000 + 28_800)).is_empty());
    let wakes = |table: &Sessions| table.iter().next().and_then(|(_, entry)| Some(entry.parked()?.wakes));
    assert_eq!(wakes(&table), Some(1), "one wake, however long");
    assert_eq!(table.expire(now(5010 + 28_800)).len(), 1);
}

#[test]
fn a_park_is_no_longer_than_the_login() {
    let limits = Limits {
        session_timeout: Some(Duration::from_secs(1000)),
        ..LIMITS
    };
    let pool = "10.78.0.0/29".parse().expect("net");
    let mut table = Sessions::new(limits, Leases::new(Some(pool), None, Duration::ZERO));
    let granted = parking_client(&mut table, "alice", 1);
    assert_eq!(granted.park, Some(Duration::from_secs(999)));
    let ticket = granted.ticket.expect("granted");
    assert_eq!(ticket.expires, now(1000).wall);
    table.park(granted.id, 1, ParkKind::Announced, now(10));
    assert_eq!(table.expire(now(1000))[0].reason, EndReason::AuthExpired);
}

#[test]
fn a_session_of_a_certificate_is_connected_with_the_certificate_only() {
    let mut table = table();
    let by_certificate = Login {
        user: "alice",
        group: None,
        certified: true,
        reserved: Reservation::default(),
        id: SessionId([1; 16]),
        cookie: cookie(1),
    };
    table.login(&by_certificate, now(0)).expect("room");
    for wrong in [None, Some("bob")] {
        let stolen = Claim {
            certificate_user: wrong,
            ..claim(1)
        };
        assert_eq!(
            table.connect(&stolen, welcome, now(1)),
            Err(ConnectRefused::NoCertificate)
        );
    }
    let own = Claim {
        certificate_user: Some("alice"),
        ..claim(1)
    };
    table.connect(&own, welcome, now(2)).expect("her certificate");
}

#[test]
fn who_may_not_be_here_any_more_does_not_come_back() {
    let mut table = table();
    parking_client(&mut table, "alice", 1);
    let good = proof(&key(1), 1, 2);
    for (standing, expected) in [
        (Standing::Bad, ConnectRefused::NotAdmitted),
        (Standing::Unknown, ConnectRefused::Undecided),
    ] {
        let refused = table.connect(&with(claim(1), &good), |_, _| standing, now(2));
        assert_eq!(refused, Err(expected));
    }
}

/// A client whose ticket nobody can open any more: it shows what nobody knows, names its session, and proves that it is its own.
fn by_name(resume: &Resume) -> Claim<'_> {
    with(claim(99), resume)
}

#[test]
fn a_client_whose_ticket_is_unreadable_goes_on_with_the_session_that_it_names_and_proves() {
    let mut table = table();
    let granted = parking_client(&mut table, "alice", 1);
    let good = proof(&key(1), 1, 2);
    let claim = Claim {
        key: Some(key(1).public()),
        ..by_name(&good)
    };
    let back = table.connect(&claim, welcome, now(2)).expect("its own");
    assert_eq!((back.id, back.epoch, back.lease), (granted.id, 2, granted.lease));
    assert_eq!(back.entrance, Entrance::Proof);
    let ticket = back.ticket.expect("one that can be read");
    let next = proof(&key(1), 1, 3);
    let back = table.connect(&with(by_ticket(&ticket), &next), welcome, now(3));
    assert_eq!(back.map(|it| (it.epoch, it.entrance)), Ok((3, Entrance::Ticket)));
    assert_eq!(
        table.connect(&by_name(&good), welcome, now(4)),
        Err(ConnectRefused::Stale(granted.id, 3))
    );
}

#[test]
fn the_name_of_a_session_alone_gives_nothing_away() {
    let mut table = table();
    parking_client(&mut table, "alice", 1);
    login(&mut table, "bob", 2, 0).expect("room");
    connect(&mut table, 2, 1).expect("a stock client, without a key");
    let unknown = proof(&key(1), 5, 2);
    let wrong = proof(&key(7), 1, 2);
    let keyless = proof(&key(1), 2, 2);
    let mut no_name = proof(&key(1), 1, 2);
    no_name.session.id = "alice".to_owned();
    let good = proof(&key(1), 1, 2);
    let elsewhere = Claim {
        proof: Some(Proof {
            resume: &good,
            binding: [8; BINDING_BYTES],
        }),
        ..by_name(&good)
    };
    let never = |_: &str, _: Option<&str>| -> Standing { panic!("nobody is looked up without a proof") };
    for claim in [
        by_name(&unknown),
        by_name(&wrong),
        by_name(&keyless),
        by_name(&no_name),
        elsewhere,
    ] {
        assert_eq!(table.connect(&claim, never, now(2)), Err(ConnectRefused::UnknownCookie));
    }
    table.state_is_lost(now(2));
    for resume in [&unknown, &wrong] {
        let refused = table.connect(&by_name(resume), never, now(3));
        assert_eq!(refused, Err(ConnectRefused::StateLost), "nor when some may be lost");
    }
}

#[test]
fn a_session_that_is_named_is_checked_as_by_its_cookie() {
    let mut table = table();
    let id = parking_client(&mut table, "alice", 1).id;
    let good = proof(&key(1), 1, 2);
    let bad = table.connect(&by_name(&good), |_, _| Standing::Bad, now(2));
    assert_eq!(bad, Err(ConnectRefused::NotAdmitted));
    table.end(id, None, EndReason::Admin("kicked".to_owned()), now(3));
    let ended = table.connect(&by_name(&good), welcome, now(4));
    assert_eq!(ended, Err(ConnectRefused::UnknownCookie));
}

/// Two tables: `before` is lost.
fn lost() -> (Ticket, Sessions) {
    let mut before = table();
    let ticket = parking_client(&mut before, "alice", 1).ticket.expect("granted");
    (ticket, table())
}

#[test]
fn a_session_that_is_lost_is_rebuilt_from_its_ticket_with_its_addresses() {
    let (ticket, mut table) = lost();
    login(&mut table, "bob", 2, 0).expect("room");
    let good = proof(&key(1), 1, 2);
    let back = table
        .connect(&with(by_ticket(&ticket), &good), welcome, now(50))
        .expect("rebuilt");
    assert_eq!(back.entrance, Entrance::Rebuilt);
    assert_eq!(
        (back.id, back.epoch, back.user.as_str(), back.lease),
        (SessionId([1; 16]), 2, "alice", ticket.lease)
    );
    assert_eq!(
        back.remaining,
        Some(Duration::from_secs(36_000 - 50)),
        "of the login of then"
    );
    let other = connect(&mut table, 2, 51).expect("cookie");
    assert_ne!(other.lease, back.lease);
    assert_eq!(
        table.connect(&with(by_ticket(&ticket), &good), welcome, now(60)),
        Err(ConnectRefused::Stale(back.id, 2))
    );
}

#[test]
fn a_session_that_is_lost_gets_another_address_if_its_own_is_gone() {
    let (ticket, mut table) = lost();
    login(&mut table, "bob", 2, 0).expect("room");
    let bob = connect(&mut table, 2, 1).expect("cookie");
    assert_eq!(bob.lease, ticket.lease);
    let good = proof(&key(1), 1, 2);
    let back = table
        .connect(&with(by_ticket(&ticket), &good), welcome, now(50))
        .expect("rebuilt");
    assert!(back.lease.v4.is_some() && back.lease != bob.lease);
}

#[test]
fn a_ticket_of_a_lost_session_is_checked_as_a_session_is() {
    let (ticket, mut table) = lost();
    let (good, wrong, stale) = (proof(&key(1), 1, 2), proof(&key(2), 1, 2), proof(&key(1), 1, 1));
    let shown = by_ticket(&ticket);
    let refused = |table: &mut Sessions, claim: &Claim<'_>, at| table.connect(claim, welcome, at).expect_err("refused");
    assert_eq!(refused(&mut table, &shown, now(50)), ConnectRefused::NoProof);
    assert_eq!(
        refused(&mut table, &with(shown, &wrong), now(50)),
        ConnectRefused::NoProof
    );
    assert_eq!(
        refused(&mut table, &with(shown, &stale), now(50)),
        ConnectRefused::Stale(SessionId([1; 16]), 1)
    );
    let over = Now {
        wall: ticket.expires,
        ..now(50)
    };
    assert_eq!(refused(&mut table, &with(shown, &good), over), ConnectRefused::Expired);
    let bad = table.connect(&with(shown, &good), |_, _| Standing::Bad, now(50));
    assert_eq!(bad, Err(ConnectRefused::NotAdmitted));
    let certified = Ticket {
        certified: true,
        ..ticket.clone()
    };
    assert_eq!(
        refused(&mut table, &with(by_ticket(&certified), &good), now(50)),
        ConnectRefused::NoCertificate
    );
    assert_eq!(table.iter().count(), 0);
}

#[test]
fn the_ticket_of_a_session_that_has_ended_is_refused_until_it_expires() {
    let mut table = table();
    let granted = parking_client(&mut table, "alice", 1);
    let ticket = granted.ticket.expect("granted");
    let ended = table.end(granted.id, None, EndReason::UserStop, now(5)).expect("there");
    let until = ended.revoked_until.expect("there are tickets");
    let good = proof(&key(1), 1, 2);
    let refused = table.connect(&with(by_ticket(&ticket), &good), welcome, now(6));
    assert_eq!(refused, Err(ConnectRefused::Revoked));
    let over = now(until.since_origin().as_secs());
    let wakes = table.deadline(now(6)).map(|deadline| deadline.at);
    assert_eq!(wakes, Some(over.awake), "without any other reason to wake");
    assert_eq!(table.forget_revoked(over), [granted.id]);
    assert_eq!((table.revoked().count(), table.deadline(over)), (0, None));
    let refused = table.connect(
        &with(by_ticket(&ticket), &good),
        welcome,
        now(until.since_origin().as_secs()),
    );
    assert_eq!(refused, Err(ConnectRefused::Expired));
}

#[test]
fn a_session_comes_back_from_a_restart_as_it_was() {
    let mut before = table();
    let granted = parking_client(&mut before, "alice", 1);
    assert_eq!(before.kept(granted.id).and_then(|kept| kept.last_word), None);
    before.park(granted.id, 1, ParkKind::Announced, now(10));
    before.detach(granted.id, 1, now(20));
    let kept = before.kept(granted.id).expect("it had a connection");
    let mut table = table();
    assert_eq!(table.restore(kept, Reservation::default(), now(30)), granted.lease);
    assert!(table.unreachable(now(1000)).is_empty(), "it is parked already");
    assert_eq!(table.expire(now(10 + 28_800)).len(), 1);
}

#[test]
fn a_session_that_was_connected_at_a_restart_has_time_to_come_back_before_it_is_parked() {
    let mut before = table();
    login(&mut before, "alice", 1, 0).expect("room");
    let id = connect(&mut before, 1, 1).expect("cookie").id;
    before.detach(id, 1, now(2));
    let kept = before.kept(id).expect("it had a connection");
    let mut table = table();
    table.restore(kept, Reservation::default(), now(200));
    assert!(table.unreachable(now(259)).is_empty());
    assert_eq!(table.unreachable(now(260)), [(id, 1)]);
    assert_eq!(connect(&mut table, 1, 300).expect("its cookie").epoch, 2);
}

#[test]
fn when_the_state_is_lost_a_cookie_is_not_called_wrong_for_a_while() {
    let mut table = table();
    table.state_is_lost(now(0));
    assert_eq!(connect(&mut table, 1, 899), Err(ConnectRefused::StateLost));
    assert_eq!(connect(&mut table, 1, 900), Err(ConnectRefused::UnknownCookie));
}

proptest! {
    /// Whatever a client tries, epochs of a session only rise, and nobody connects it who has not signed for that epoch.
    #[test]
    fn epochs_only_rise(tries in proptest::collection::vec((any::<bool>(), 0..6_u64, any::<bool>(), any::<bool>()), 1..40)) {
        let mut table = table();
        let ticket = parking_client(&mut table, "alice", 1).ticket.expect("granted");
        let mut newest = 1;
        for (second, (own, epoch, is_ticket, detach)) in tries.into_iter().enumerate() {
            let at = now(2 + second as u64);
            let signed = proof(&key(if own { 1 } else { 2 }), 1, epoch);
            let shown = if is_ticket { by_ticket(&ticket) } else { claim(1) };
            let outcome = table.connect(&with(shown, &signed), welcome, at);
            match outcome {
                Ok(connected) => {
                    prop_assert!(own && epoch > newest);
                    prop_assert_eq!(connected.epoch, epoch);
                    newest = epoch;
                }
                Err(ConnectRefused::Stale(_, told)) => prop_assert!(own && epoch <= newest && told == newest),
                Err(refused) => prop_assert!(!own && refused == ConnectRefused::NoProof),
            }
            if detach {
                table.detach(SessionId([1; 16]), newest, at);
            }
        }
    }
}
