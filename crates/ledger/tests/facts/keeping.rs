//! The past, and how much of it is kept.

use ledger::{Folder, HistoryEntry, Limits, Pruned, Record, SessionFacts};
use now::Wall;

use super::{Desk, End, Lock, MemoryDisk, NOW, Work, file, id, record, seconds, stamp};

const DAY: u64 = 24 * 3600;

fn days(days: u64) -> Wall {
    NOW.plus(seconds(days * DAY))
}

fn entry(number: u64, ended: Wall) -> HistoryEntry {
    let mut entry = HistoryEntry::from(&record(number));
    entry.facts.end = Some(End::new(stamp(ended), "user_stop"));
    entry
}

fn remember(desk: &Desk<'_>, number: u64, ended: Wall) {
    desk.ledger
        .history_write(&entry(number, ended))
        .expect("a healthy disk");
}

fn finish(desk: &Desk<'_>, work: &mut Work<Lock>, number: u64, now: Wall) {
    desk.close(number);
    let claim = desk.claim(work);
    desk.ledger.finish(work, claim, now).expect("a healthy disk");
}

fn give_up(desk: &Desk<'_>, work: &mut Work<Lock>, number: u64, now: Wall) {
    desk.close_at(number, Wall::default());
    for _ in 0..2 {
        let claim = desk.claim(work);
        desk.ledger.fail(work, claim, "no", now, 0).expect("a healthy disk");
        desk.ledger.retry(id(number), now).expect("it waits");
    }
    let claim = desk.claim(work);
    desk.ledger.fail(work, claim, "no", now, 0).expect("a healthy disk");
}

#[test]
fn the_history_gives_the_last_sessions_newest_first() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    for number in [2, 1, 3] {
        remember(&desk, number, NOW);
    }
    let history = desk.ledger.history(2).expect("a healthy disk");
    assert_eq!(history.entries, [entry(3, NOW), entry(2, NOW)]);
}

#[test]
fn a_session_is_in_the_history_once_however_often_it_is_written() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    remember(&desk, 1, NOW);
    remember(&desk, 1, NOW);
    assert_eq!(desk.ledger.history(10).expect("a healthy disk").entries.len(), 1);
}

#[test]
fn a_damaged_entry_of_the_history_is_named() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    disk.plant(Folder::History, &file(1), b"torn");
    remember(&desk, 2, NOW);
    let history = desk.ledger.history(10).expect("a healthy disk");
    assert_eq!((history.entries.len(), history.damaged), (1, vec![id(1).file_name()]));
}

#[test]
fn of_too_many_files_those_that_were_settled_last_are_kept() {
    let disk = MemoryDisk::new();
    let limits = Limits {
        keep_done: 2,
        keep_failed: 1,
        keep_history: 2,
        ..Limits::default()
    };
    let desk = Desk::with(&disk, limits);
    let mut work = desk.work();
    // The session that began first ended last.
    for (number, day) in [(1, 9), (2, 2), (3, 3)] {
        finish(&desk, &mut work, number, days(day));
        remember(&desk, number, days(day));
    }
    give_up(&desk, &mut work, 4, days(1));
    give_up(&desk, &mut work, 5, days(2));
    let pruned = desk.ledger.prune(&work, days(10)).expect("a healthy disk");
    assert_eq!(
        pruned,
        Pruned {
            done: 1,
            history: 1,
            failed: vec![id(4)],
            damaged: vec![],
        }
    );
    assert_eq!(
        desk.files(),
        [
            "failed/05.job",
            "done/01.job",
            "done/03.job",
            "history/01.job",
            "history/03.job"
        ]
    );
}

#[test]
fn files_older_than_the_limit_go_and_files_of_the_future_stay() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    let mut work = desk.work();
    finish(&desk, &mut work, 1, NOW);
    give_up(&desk, &mut work, 2, NOW);
    remember(&desk, 3, NOW);
    remember(&desk, 4, days(100));
    assert_eq!(desk.ledger.prune(&work, days(89)), Ok(Pruned::default()));
    let pruned = desk.ledger.prune(&work, days(90)).expect("a healthy disk");
    assert_eq!((pruned.done, pruned.history, pruned.failed), (1, 1, vec![id(2)]));
    assert_eq!(desk.files(), ["history/04.job"]);
}

#[test]
fn of_too_many_bytes_failed_jobs_are_kept_before_newer_sessions() {
    let disk = MemoryDisk::new();
    let limits = Limits {
        keep_bytes: 3000,
        ..Limits::default()
    };
    let desk = Desk::with(&disk, limits);
    let mut work = desk.work();
    give_up(&desk, &mut work, 1, NOW);
    for number in 2..9 {
        remember(&desk, number, days(number));
    }
    let pruned = desk.ledger.prune(&work, days(10)).expect("a healthy disk");
    let files = desk.files();
    assert_eq!(files[0], "failed/01.job");
    assert_eq!(files.last().map(String::as_str), Some("history/08.job"));
    assert_eq!(pruned.history as usize, 8 - files.len());
    let left: usize = (2..9)
        .filter_map(|number| disk.bytes(Folder::History, &file(number)))
        .map(|b| b.len())
        .sum();
    assert!(left < 3000, "{left} bytes");
}

#[test]
fn a_job_that_was_done_stays_known_while_another_copy_of_it_is_there() {
    let disk = MemoryDisk::new();
    let limits = Limits {
        keep_done: 0,
        ..Limits::default()
    };
    let desk = Desk::with(&disk, limits);
    let mut work = desk.work();
    finish(&desk, &mut work, 1, NOW);
    desk.ledger.open(&record(1)).expect("a healthy disk");
    assert_eq!(desk.ledger.prune(&work, NOW), Ok(Pruned::default()));
    desk.close(1);
    assert_eq!(desk.ledger.prune(&work, NOW).map(|pruned| pruned.done), Ok(1));
    assert_eq!(desk.files(), Vec::<String>::new());
}

#[test]
fn damaged_files_are_pruned_by_the_age_of_their_session_and_named_and_foreign_ones_never() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    disk.plant(Folder::Failed, &format!("{}.damaged-2", file(1)), b"torn");
    disk.plant(Folder::Failed, "README.damaged", b"foreign");
    disk.plant(Folder::History, &file(2), b"torn");
    let work = desk.work();
    assert_eq!(desk.ledger.prune(&work, days(80)), Ok(Pruned::default()));
    let pruned = desk.ledger.prune(&work, days(100)).expect("a healthy disk");
    let named: Vec<_> = pruned.damaged.iter().map(ToString::to_string).collect();
    assert_eq!(named, [format!("{}.damaged-2", file(1)), file(2)]);
    assert_eq!(desk.files(), ["failed/README.damaged"]);
}

#[test]
fn a_session_without_an_end_counts_from_its_start() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    let mut entry = entry(1, NOW);
    entry.facts = SessionFacts {
        started: stamp(NOW),
        ..SessionFacts::default()
    };
    desk.ledger.history_write(&entry).expect("a healthy disk");
    let work = desk.work();
    assert_eq!(desk.ledger.prune(&work, days(91)).map(|pruned| pruned.history), Ok(1));
}

#[test]
fn a_history_larger_than_a_listing_shrinks_and_keeps_the_newest() {
    let disk = MemoryDisk::new();
    let limits = Limits {
        keep_history: usize::MAX,
        keep_bytes: u64::MAX,
        ..Limits::default()
    };
    let desk = Desk::with(&disk, limits);
    for number in 0..10_100 {
        let bytes = entry(number, NOW).to_bytes().expect("it fits");
        disk.plant(Folder::History, &file(number), &bytes);
    }
    let work = desk.work();
    let pruned = [(); 2].map(|()| desk.ledger.prune(&work, NOW).expect("a healthy disk").history);
    assert_eq!(pruned, [5000, 100]);
    let history = desk.ledger.history(1).expect("a healthy disk");
    assert_eq!(history.entries, [entry(10_099, NOW)]);
}
