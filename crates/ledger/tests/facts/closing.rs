//! What the tunnel's own process writes.

use ledger::{DiskError, End, Folder, Job, LedgerError, Record};

use super::{Desk, MemoryDisk, NOW, file, id, record, seconds, stamp};

#[test]
fn a_record_is_written_and_made_durable_before_its_name_and_its_name_before_the_answer() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.ledger.open(&record(1)).expect("a healthy disk");
    let name = file(1);
    assert_eq!(
        disk.take_log(),
        [
            format!("write open/.{name}.tmp"),
            format!("sync open/.{name}.tmp"),
            format!("publish open/{name}"),
            "sync open/".to_owned(),
        ]
    );
}

#[test]
fn a_close_waits_for_the_disk_twice_and_forgets_the_record_last() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.ledger.open(&record(1)).expect("a healthy disk");
    disk.take_log();
    assert_eq!(desk.close(1).job(), id(1));
    let steps = disk.take_log();
    assert_eq!(steps.iter().filter(|step| step.starts_with("sync")).count(), 2);
    let last: Vec<_> = steps.iter().rev().take(2).collect();
    assert_eq!(last, [&format!("remove open/{}", file(1)), "sync due/"]);
    assert_eq!(desk.files(), ["due/01.job"]);
}

#[test]
fn a_job_says_when_and_why_its_session_ended_and_until_when_it_is_tried() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    let end = End {
        detail: Some("é".repeat(600)),
        ..End::new(stamp(NOW), "auth_expired")
    };
    desk.ledger.close(record(1), end).expect("a healthy disk");
    let bytes = disk.bytes(Folder::Due, &file(1)).expect("a due job");
    let job = Job::from_bytes(&bytes).expect("a whole job");
    let end = job.record.facts.end.expect("an end");
    assert_eq!((end.at, end.reason.as_str()), (stamp(NOW), "auth_expired"));
    assert_eq!(end.detail, Some("é".repeat(256)), "512 bytes are kept");
    let week = NOW.plus(seconds(7 * 24 * 3600));
    assert_eq!(job.deadline_ms, stamp(week).wall_ms);
}

#[test]
fn a_new_record_of_a_session_replaces_the_old_one() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.ledger.open(&record(1)).expect("a healthy disk");
    let mut second = record(1);
    second.facts.epoch = Some(2);
    desk.ledger.open(&second).expect("a healthy disk");
    assert_eq!(desk.ledger.opens().expect("a healthy disk"), (vec![second], vec![]));
}

#[test]
fn a_session_that_never_came_to_life_leaves_nothing() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.ledger.open(&record(1)).expect("a healthy disk");
    desk.ledger.withdraw(id(1)).expect("a healthy disk");
    desk.ledger.withdraw(id(1)).expect("again has no effect");
    assert_eq!(desk.files(), Vec::<String>::new());
}

#[test]
fn a_session_closed_again_stays_what_it_is() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.close(1);
    let mut work = desk.work();
    let claim = desk.claim(&mut work);
    desk.close(1);
    assert_eq!(desk.files(), ["running/01.job"]);
    desk.ledger.finish(&work, claim, NOW).expect("a healthy disk");
    desk.ledger.open(&record(1)).expect("a healthy disk");
    assert_eq!(desk.close(1).job(), id(1));
    assert_eq!(desk.files(), ["done/01.job"]);
}

#[test]
fn a_full_disk_is_named_with_the_file_and_the_record_stays() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.ledger.open(&record(1)).expect("a healthy disk");
    let writing = disk.steps() + 10;
    disk.fail_at(writing);
    let error = desk.ledger.close(record(1), End::new(stamp(NOW), "user_stop"));
    let error = error.expect_err("no space");
    assert_eq!(
        error,
        LedgerError::Disk {
            what: format!("write {}", file(1)),
            folder: Folder::Due,
            error: DiskError::Full,
        }
    );
    assert_eq!(
        error.to_string(),
        format!("cannot write {} in due/: no space left on the disk", file(1))
    );
    assert_eq!(desk.files(), ["open/01.job"]);
}

#[test]
fn a_record_that_cannot_be_removed_does_not_take_the_receipt_back() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.ledger.open(&record(1)).expect("a healthy disk");
    let removing = disk.steps() + 14;
    disk.fail_at(removing);
    desk.close(1);
    assert_eq!(desk.files(), ["open/01.job", "due/01.job"]);
    drop(desk.work());
    assert_eq!(desk.files(), ["due/01.job"], "recovery knows that it is closed");
}

#[test]
fn a_session_whose_record_was_left_behind_is_known_as_closed_wherever_its_job_is() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.ledger.open(&record(1)).expect("a healthy disk");
    assert_eq!(desk.ledger.is_closed(id(1)), Ok(false));
    let removing = disk.steps() + 14;
    disk.fail_at(removing);
    desk.close(1);
    assert_eq!(desk.ledger.opens().expect("a healthy disk").0, [record(1)]);
    assert_eq!(desk.ledger.is_closed(id(1)), Ok(true));
    let mut work = desk.work();
    let claim = desk.claim(&mut work);
    assert_eq!(desk.ledger.is_closed(id(1)), Ok(true));
    desk.ledger.finish(&work, claim, NOW).expect("a healthy disk");
    assert_eq!(desk.ledger.is_closed(id(1)), Ok(true));
}
