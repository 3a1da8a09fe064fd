//! The bytes of records: what was written is read, and what was changed is noticed.

use std::net::IpAddr;

use ledger::{
    Chore, Damage, End, HistoryEntry, Job, JobId, LedgerError, MAX_RECORD, OpenRecord, Record, Role, SessionFacts,
    Sleep, Stamp, Token,
};
use plan::{Dns, MAX_DOMAINS, MAX_ROUTES, NetworkPlan, Route, RouteKind, Undo};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z.0-9]{0,20}", "\\PC{0,20}", any::<String>()]
}

fn id() -> impl Strategy<Value = JobId> {
    (any::<u64>(), any::<u64>()).prop_map(|(started_s, random)| JobId::new(started_s, random))
}

fn stamp() -> impl Strategy<Value = Stamp> {
    (any::<u64>(), any::<u64>(), text()).prop_map(|(wall_ms, boot_ms, boot_id)| Stamp {
        wall_ms,
        boot_ms,
        boot_id,
    })
}

fn end() -> impl Strategy<Value = End> {
    (stamp(), text(), option::of(text())).prop_map(|(at, reason, detail)| End { at, reason, detail })
}

fn facts() -> impl Strategy<Value = SessionFacts> {
    let names = (
        option::of(text()),
        option::of(any::<u64>()),
        text(),
        option::of(text()),
        option::of(any::<IpAddr>()),
    );
    let addresses = vec(any::<IpAddr>().prop_map(Into::into), 0..3);
    let life = (stamp(), option::of(end()));
    let counts = any::<[u64; 8]>();
    (names, addresses, option::of(text()), life, counts).prop_map(
        |((session, epoch, gateway, user, peer), addresses, interface, (started, end), counts)| {
            let [
                packets_in,
                packets_out,
                bytes_in,
                bytes_out,
                dropped,
                path_losses,
                wakes,
                last,
            ] = counts;
            SessionFacts {
                session,
                epoch,
                gateway,
                user,
                peer,
                addresses,
                interface,
                started,
                end,
                packets_in,
                packets_out,
                bytes_in,
                bytes_out,
                dropped,
                path_losses,
                wakes,
                sleeps: (0..last % 3)
                    .map(|number| Sleep {
                        at_ms: last.wrapping_add(number),
                        gap_s: number,
                        wakes: 1,
                        via: "same_path".to_owned(),
                    })
                    .collect(),
            }
        },
    )
}

fn undo() -> impl Strategy<Value = Undo> {
    let kind = prop_oneof![Just(RouteKind::Tunnel), Just(RouteKind::Throw)];
    let route = (any::<IpAddr>(), kind).prop_map(|(net, kind)| Route { net: net.into(), kind });
    let servers = vec(any::<IpAddr>(), 0..3);
    (
        any::<u8>(),
        text(),
        vec(route, 0..5),
        servers,
        any::<u16>(),
        any::<bool>(),
    )
        .prop_map(|(slot, interface, routes, servers, mtu, default_v4)| Undo {
            slot,
            interface,
            plan: NetworkPlan {
                mtu,
                routes,
                default_v4,
                dns: Dns {
                    servers,
                    ..Dns::default()
                },
                ..NetworkPlan::default()
            },
        })
}

fn chore() -> impl Strategy<Value = Chore> {
    let logout = (option::of(any::<u64>()), text()).prop_map(|(token_expires_ms, token)| Chore::Logout {
        token_expires_ms,
        token: Token::new(token),
    });
    prop_oneof![
        Just(Chore::Account),
        logout,
        Just(Chore::Hooks),
        Just(Chore::Upload),
        Just(Chore::ReleaseLease),
        Just(Chore::Forget),
        Just(Chore::Prune),
    ]
}

fn open_record() -> impl Strategy<Value = OpenRecord> {
    let role = prop_oneof![Just(Role::Client), Just(Role::Gateway)];
    let whole = (
        id(),
        text(),
        role,
        any::<u64>(),
        facts(),
        option::of(undo()),
        vec(chore(), 0..7),
    );
    whole.prop_map(|(id, tunnel, role, generation, facts, undo, chores)| OpenRecord {
        id,
        tunnel,
        role,
        generation,
        facts,
        undo,
        chores,
    })
}

fn job() -> impl Strategy<Value = Job> {
    let times = (option::of(any::<u64>()), any::<u64>(), option::of(any::<u64>()));
    (
        open_record(),
        vec(text(), 0..4),
        any::<[u32; 2]>(),
        times,
        option::of(text()),
    )
        .prop_map(
            |(record, done, [attempts, interrupted], (not_before_ms, deadline_ms, settled_ms), last_error)| Job {
                record,
                done,
                attempts,
                interrupted,
                not_before_ms,
                deadline_ms,
                settled_ms,
                last_error,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_open_record_survives_being_written_and_read(record in open_record()) {
        let bytes = record.to_bytes().expect("it fits");
        prop_assert_eq!(OpenRecord::from_bytes(&bytes), Ok(record));
    }

    #[test]
    fn a_job_survives_being_written_and_read(job in job()) {
        let bytes = job.to_bytes().expect("it fits");
        prop_assert_eq!(Job::from_bytes(&bytes), Ok(job));
    }

    #[test]
    fn a_history_entry_survives_being_written_and_read(record in open_record()) {
        let entry = HistoryEntry::from(&record);
        let bytes = entry.to_bytes().expect("it fits");
        prop_assert_eq!(HistoryEntry::from_bytes(&bytes), Ok(entry));
    }

    #[test]
    fn an_id_is_its_text_and_its_file(id in id()) {
        prop_assert_eq!(id.to_string().parse(), Ok(id));
        prop_assert_eq!(JobId::of_file(&id.file_name()), Some(id));
        prop_assert_eq!(id.to_string().len(), 27);
    }

    #[test]
    fn a_record_cut_short_or_gone_on_with_is_damaged(record in open_record(), cut: prop::sample::Index, more: u8) {
        let mut bytes = record.to_bytes().expect("it fits");
        let torn = OpenRecord::from_bytes(&bytes[..cut.index(bytes.len())]);
        prop_assert!(matches!(torn, Err(Damage::Foreign | Damage::Length)), "{:?}", torn);
        bytes.push(more);
        prop_assert_eq!(OpenRecord::from_bytes(&bytes), Err(Damage::Length));
    }

    #[test]
    fn a_changed_byte_is_noticed(record in open_record(), at: prop::sample::Index, with in 1u8..) {
        let mut bytes = record.to_bytes().expect("it fits");
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        prop_assert!(OpenRecord::from_bytes(&bytes).is_err());
    }

    #[test]
    fn bytes_of_whatever_kind_are_no_reason_to_panic(bytes: Vec<u8>, json in "[{}\\[\\]\",:a-z0-9]{0,60}") {
        prop_assert!(Job::from_bytes(&bytes).is_err());
        let mut framed = b"MMLG\x01".to_vec();
        framed.extend((json.len() as u32).to_be_bytes());
        framed.extend(crc32c::crc32c(json.as_bytes()).to_be_bytes());
        framed.extend(json.as_bytes());
        prop_assert_eq!(Job::from_bytes(&framed), Err(Damage::Content));
    }
}

#[test]
fn the_frame_is_the_documented_one() {
    let id = JobId::new(1_700_000_000, 0xab);
    let entry = HistoryEntry {
        id,
        tunnel: "office".to_owned(),
        role: Role::Client,
        generation: 1,
        facts: SessionFacts::default(),
    };
    let bytes = entry.to_bytes().expect("it fits");
    let json = &bytes[13..];
    assert_eq!(&bytes[..5], b"MMLG\x01");
    assert_eq!(bytes[5..9], (json.len() as u32).to_be_bytes());
    assert_eq!(bytes[9..13], crc32c::crc32c(json).to_be_bytes());
    assert!(json.starts_with(br#"{"id":"1700000000-00000000000000ab","tunnel":"office","role":"client""#));
}

#[test]
fn another_version_is_named() {
    assert_eq!(Job::from_bytes(b"MMLG\x02\0\0\0\0\0\0\0\0"), Err(Damage::Version(2)));
    assert_eq!(Job::from_bytes(b"MMLG"), Err(Damage::Foreign));
}

#[test]
fn texts_that_are_almost_ids_are_none() {
    for text in [
        "",
        "1700000000",
        "1700000000-",
        "1700000000-00000000000000AB",
        "1700000000-ab",
        "+700000000-00000000000000ab",
        "1700000000-+0000000000000ab",
        "01700000000-00000000000000ab",
        "12345678901-00000000000000ab",
        "1700000000-000000000000000ab",
    ] {
        assert!(text.parse::<JobId>().is_err(), "{text}");
    }
}

/// The most a gateway may push, in its longest form.
fn largest_undo() -> Undo {
    let net = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124"
        .parse()
        .expect("a network");
    let route = Route {
        net,
        kind: RouteKind::Tunnel,
    };
    Undo {
        slot: 63,
        interface: "marmot-office-1".to_owned(),
        plan: NetworkPlan {
            routes: vec![route; MAX_ROUTES],
            dns: Dns {
                servers: Vec::new(),
                search: vec!["x".repeat(253); MAX_DOMAINS],
                split: Vec::new(),
            },
            ..NetworkPlan::default()
        },
    }
}

#[test]
fn the_largest_plan_fits_and_more_is_refused() {
    let mut record = OpenRecord {
        id: JobId::new(1, 1),
        tunnel: "office".to_owned(),
        role: Role::Client,
        generation: 1,
        facts: SessionFacts::default(),
        undo: Some(largest_undo()),
        chores: Vec::new(),
    };
    let bytes = record.to_bytes().expect("the largest plan");
    assert!(bytes.len() < MAX_RECORD * 9 / 10, "{} bytes", bytes.len());
    record.tunnel = "x".repeat(MAX_RECORD);
    assert!(matches!(record.to_bytes(), Err(LedgerError::TooLarge(_))));
}

#[test]
fn a_token_is_not_shown() {
    let chore = Chore::Logout {
        token_expires_ms: None,
        token: Token::new("5ec2e7"),
    };
    assert!(!format!("{chore:?}").contains("5ec2e7"));
}

#[test]
fn a_session_lasts_as_long_as_the_boot_clock_says_within_a_boot() {
    let at = |wall_ms, boot_ms, boot_id: &str| Stamp {
        wall_ms,
        boot_ms,
        boot_id: boot_id.to_owned(),
    };
    let mut facts = SessionFacts {
        started: at(1_000_000, 500, "a"),
        ..SessionFacts::default()
    };
    assert_eq!(facts.lasted_ms(), None);
    facts.end = Some(End::new(at(0, 4500, "a"), "user_stop"));
    assert_eq!(facts.lasted_ms(), Some(4000), "the wall clock was set back");
    facts.end = Some(End::new(at(1_009_000, 10, "b"), "crash"));
    assert_eq!(facts.lasted_ms(), Some(9000), "another boot");
    facts.end = Some(End::new(at(5, 10, ""), "crash"));
    assert_eq!(facts.lasted_ms(), Some(0));
}
