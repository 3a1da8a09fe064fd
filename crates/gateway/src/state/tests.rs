//! What a restart finds of what was written, also after damage.

use super::*;
use now::Boot;
use session::Traffic;
use session::gateway::{CookieHash, Kept, Lease, Since};
use session::park::ParkKind;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use wire::offer::ParkKey;

#[path = "../../../../tests/fuzz/src/rows.rs"]
#[expect(unreachable_pub, reason = "the fuzzer includes the file as well")]
mod rows;

const LIMIT: Duration = Duration::from_secs(30);

fn now() -> Now {
    platform::clock::now()
}

fn memory(n: u32, now: Now) -> Memory {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    let boot_id = platform::clock::boot_id();
    Memory {
        kept: Kept {
            id: SessionId(id),
            user: format!("user{n}"),
            group: Some("staff".to_owned()),
            certified: n.is_multiple_of(2),
            cookie: Some(CookieHash([3; 32])),
            key: Some(ParkKey([5; 32])),
            token: None,
            epoch: 7,
            lease: Lease {
                v4: Some(Ipv4Addr::from(0x0a00_0002 + n)),
                v6: None,
            },
            began: Since::ago(Duration::from_secs(100), now.boot),
            parked: Some((ParkKind::Frozen, Since::ago(Duration::from_secs(50), now.boot))),
            last_word: Some(Since::ago(Duration::from_secs(60), now.boot)),
            tickets_until: Some(now.boot.plus(Duration::from_secs(1000))),
        },
        started: row::stamp_at(now.boot, now, &boot_id),
        peer: IpAddr::from([192, 0, 2, 1]),
        connections: 3,
        traffic: Traffic {
            packets_in: 1,
            bytes_in: 2,
            packets_out: 3,
            bytes_out: 4,
            ..Traffic::default()
        },
    }
}

/// What the same folder has after the gateway that wrote `memories` is gone.
async fn written(folder: &Path, memories: impl IntoIterator<Item = Memory>) {
    let (store, _) = Store::open(folder);
    assert!(store.keeps());
    for memory in memories {
        store.put(&memory, now());
    }
    store.finish(LIMIT).await;
}

#[tokio::test]
async fn a_session_reads_back_and_what_has_ended_does_not() {
    let folder = tempfile::tempdir().expect("folder");
    let at = now();
    let (store, left) = Store::open(folder.path());
    assert!(left.sessions.is_empty() && !left.is_lost);
    for n in 1..=3 {
        store.put(&memory(n, at), at);
    }
    let until = at.boot.plus(Duration::from_secs(5000));
    store.ended(memory(2, at).kept.id, Some(until), at);
    store.ended(memory(3, at).kept.id, None, at);
    store.finish(LIMIT).await;
    let mode = fs::metadata(folder.path().join(FILE))
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let (_store, left) = Store::open(folder.path());
    let boot_id = platform::clock::boot_id();
    let back: Vec<Memory> = left
        .sessions
        .iter()
        .filter_map(|row| row.memory(at, &boot_id))
        .collect();
    let [back] = &back[..] else {
        panic!("one session is left: {back:?}");
    };
    let had = memory(1, at);
    let second = Duration::from_secs(1);
    let ages = |kept: &Kept| {
        let parked = kept.parked.expect("parked").1.age(at.boot);
        (
            kept.began.age(at.boot),
            parked,
            kept.last_word.expect("silent").age(at.boot),
        )
    };
    let (have, want) = (ages(&back.kept), ages(&had.kept));
    for (have, want) in [(have.0, want.0), (have.1, want.1), (have.2, want.2)] {
        assert!(have.abs_diff(want) < second, "{have:?} {want:?}");
    }
    assert_eq!(
        (
            &back.kept.user,
            back.kept.key,
            back.kept.cookie,
            back.kept.epoch,
            back.kept.lease
        ),
        (&had.kept.user, had.kept.key, had.kept.cookie, 7, had.kept.lease)
    );
    assert_eq!(
        (&back.started, back.connections, back.traffic),
        (&had.started, 3, had.traffic)
    );
    let [(revoked, stamp)] = &left.revoked[..] else {
        panic!("one was ended with tickets");
    };
    assert_eq!(*revoked, memory(2, at).kept.id);
    assert!(until_of(stamp, at, &boot_id).since(until) < second && until.since(until_of(stamp, at, &boot_id)) < second);
}

#[test]
fn moments_count_by_the_boot_clock_within_a_boot_and_by_the_wall_clock_over_one() {
    let s = Duration::from_secs;
    let at = |boot, wall| Now {
        boot: Boot::from_origin(s(boot)),
        wall: Wall::from_origin(s(wall)),
        ..Now::default()
    };
    let row = Row::new(&memory(1, at(1000, 50_000)), at(1000, 50_000), "one");
    let age = |now, boot_id| row.memory(now, boot_id).expect("whole").kept.began.age(now.boot);
    assert_eq!(age(at(1600, 50_600), "one"), s(700));
    for stepped in [50_600 - 3600, 50_600 + 3600] {
        assert_eq!(age(at(1600, stepped), "one"), s(700), "the clock was set");
    }
    assert_eq!(age(at(5, 50_600), "other"), s(700));
    let again = Row::new(
        &row.memory(at(5, 50_600), "other").expect("whole"),
        at(5, 50_600),
        "other",
    );
    let age = again.memory(at(65, 50_660), "other").expect("whole").kept.began;
    assert_eq!(age.age(Boot::from_origin(s(65))), s(760), "from before this boot");
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_the_next_is_written() {
    let folder = tempfile::tempdir().expect("folder");
    written(folder.path(), (0..200).map(|n| memory(n, now()))).await;
    let path = folder.path().join(FILE);
    for damage in 0..3_usize {
        let mut bytes = fs::read(&path).expect("there");
        match damage {
            0 => bytes.iter_mut().skip(4096).step_by(97).for_each(|byte| *byte ^= 0x55),
            1 => bytes[..64].fill(0),
            _ => bytes = b"this was a database once".to_vec(),
        }
        fs::write(&path, bytes).expect("written");
        let (store, left) = Store::open(folder.path());
        assert!(
            store.keeps() && left.is_lost && left.sessions.is_empty(),
            "damage {damage}"
        );
        let kept_as = folder.path().join(format!("{FILE}.damaged-{}", damage + 1));
        assert!(kept_as.exists());
        store.put(&memory(7, now()), now());
        store.finish(LIMIT).await;
        let (store, left) = Store::open(folder.path());
        assert_eq!((left.sessions.len(), left.is_lost), (1, false));
        store.finish(LIMIT).await;
    }
}

#[test]
fn the_keys_of_tickets_outlive_the_process_and_a_damaged_file_of_them_is_set_aside() {
    let folder = tempfile::tempdir().expect("folder");
    let at = now().wall;
    let first = keys(Some(folder.path()), at);
    let path = folder.path().join(KEYS_FILE);
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(keys(Some(folder.path()), at).encode(), first.encode());
    fs::write(&path, "no keys").expect("written");
    let other = keys(Some(folder.path()), at);
    assert_ne!(other.encode(), first.encode());
    assert!(folder.path().join("tickets.key.damaged-1").exists());
    assert_eq!(keys(Some(folder.path()), at).encode(), other.encode());
}

#[test]
fn many_damaged_files_do_not_fill_the_folder() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join(FILE);
    for _ in 0..20 {
        fs::write(&path, "damaged").expect("written");
        assert!(set_aside(&path).is_some());
    }
    assert_eq!(
        fs::read_dir(folder.path()).expect("readable").count(),
        MAX_DAMAGED as usize
    );
}

#[tokio::test]
async fn ten_thousand_sessions_are_kept_and_come_back() {
    const SESSIONS: u32 = 10_000;
    let folder = tempfile::tempdir().expect("folder");
    let begun = std::time::Instant::now();
    written(folder.path(), (0..SESSIONS).map(|n| memory(n, now()))).await;
    let wrote = begun.elapsed();
    let size = fs::metadata(folder.path().join(FILE)).expect("there").len();
    let begun = std::time::Instant::now();
    let (_store, left) = Store::open(folder.path());
    println!(
        "{SESSIONS} sessions: written in {wrote:?}, read in {:?}, {} bytes of file each",
        begun.elapsed(),
        size / u64::from(SESSIONS)
    );
    assert_eq!(left.sessions.len(), SESSIONS as usize);
}

#[test]
fn every_row_of_the_corpus_runs_through_its_fuzz_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/session_row");
    let files: Vec<_> = fs::read_dir(folder).expect("a corpus").collect();
    assert!(files.len() >= 2, "{} inputs", files.len());
    let mut read = 0;
    for file in files {
        let bytes = fs::read(file.expect("a readable corpus").path()).expect("a readable input");
        read += u32::from(Row::parse(SessionId([1; 16]), &bytes).is_some());
        rows::session_row(&bytes);
    }
    assert!(read >= 2, "{read} of them are rows");
}
