//! What a worker does with jobs, and when.

use ledger::{Chore, Fate, Folder, Ledger, LedgerError, Limits};
use now::Wall;

use super::{Claim, Desk, Lock, MemoryDisk, NOW, Work, file, id, seconds};

/// A claim of the one job that waits or is due.
fn claim_at(desk: &Desk<'_>, work: &mut Work<Lock>, now: Wall) -> Option<Claim> {
    desk.ledger.drain_waiting(work, now).expect("a healthy disk");
    desk.ledger.claim(work).expect("a healthy disk")
}

fn fail(desk: &Desk<'_>, work: &Work<Lock>, claim: Claim, now: Wall) -> Fate {
    desk.ledger
        .fail(work, claim, "no route", now, 0)
        .expect("a healthy disk")
}

#[test]
fn jobs_are_claimed_oldest_session_first_and_each_once() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    for number in [2, 3, 1] {
        desk.close(number);
    }
    let mut work = desk.work();
    let claimed: Vec<_> = (0..3).map(|_| desk.claim(&mut work).job().id()).collect();
    assert_eq!(claimed, [id(1), id(2), id(3)]);
    assert_eq!(desk.ledger.claim(&mut work), Ok(None));
}

#[test]
fn a_job_closed_while_a_worker_works_is_claimed_too() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    let mut work = desk.work();
    assert_eq!(desk.ledger.claim(&mut work), Ok(None));
    desk.close(1);
    assert_eq!(desk.claim(&mut work).job().id(), id(1));
}

#[test]
fn one_worker_at_a_time() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    let work = desk.work();
    assert!(desk.ledger.lock_worker().expect("a healthy disk").is_none());
    drop(work);
    assert!(desk.ledger.lock_worker().expect("a healthy disk").is_some());
}

#[test]
fn what_is_noted_as_done_is_not_owed_when_the_worker_ends() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.close(1);
    let mut work = desk.work();
    let mut claim = desk.claim(&mut work);
    for word in ["account", "hooks/10-notify", "account"] {
        desk.ledger.progress(&work, &mut claim, word).expect("a healthy disk");
    }
    drop((work, claim));
    let lock = desk.ledger.lock_worker().expect("a healthy disk").expect("free");
    let (mut work, found) = desk.ledger.recover(lock, NOW).expect("a healthy disk");
    assert_eq!(found.interrupted, [id(1)]);
    let claim = desk.claim(&mut work);
    let job = claim.job();
    assert_eq!(job.done, ["account", "hooks/10-notify"]);
    assert_eq!(job.owed().map(Chore::word).collect::<Vec<_>>(), ["hooks", "prune"]);
    assert_eq!((job.attempts, job.interrupted, claim.attempt()), (0, 1, 1));
}

#[test]
fn a_finished_job_lies_in_done_only() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.close(1);
    let mut work = desk.work();
    let claim = desk.claim(&mut work);
    desk.ledger.finish(&work, claim, NOW).expect("a healthy disk");
    assert_eq!(desk.files(), ["done/01.job"]);
}

#[test]
fn a_job_that_a_stop_interrupts_is_due_again_and_nothing_is_counted() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.close(1);
    let mut work = desk.work();
    let claim = desk.claim(&mut work);
    desk.ledger.requeue(&work, claim).expect("a healthy disk");
    assert_eq!(desk.files(), ["due/01.job"]);
    let claim = desk.claim(&mut work);
    assert_eq!((claim.job().attempts, claim.job().interrupted), (0, 0));
}

#[test]
fn what_is_noted_is_durable_with_the_next_step_that_is() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.close(1);
    let mut work = desk.work();
    let mut claim = desk.claim(&mut work);
    let before = disk.bytes(Folder::Running, &file(1));
    claim.note("account");
    claim.note("account");
    assert_eq!(
        disk.bytes(Folder::Running, &file(1)),
        before,
        "noting asks the disk nothing"
    );
    desk.ledger.save(&work, &claim).expect("a healthy disk");
    drop((work, claim));
    let mut work = desk.work();
    assert_eq!(desk.claim(&mut work).job().done, ["account"]);
}

#[test]
fn a_job_that_cannot_be_settled_can_be_put_back_and_nothing_is_counted() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.close(1);
    let mut work = desk.work();
    for settle_as_done in [true, false] {
        let claim = desk.claim(&mut work);
        disk.fail_at(disk.steps() + 1);
        if settle_as_done {
            desk.ledger.finish(&work, claim, NOW).expect_err("the disk fails");
        } else {
            desk.ledger
                .fail(&work, claim, "no route", NOW, 0)
                .expect_err("the disk fails");
        }
        assert_eq!(disk.names(Folder::Running), [file(1)]);
        desk.ledger.release(&work, id(1)).expect("a healthy disk");
        assert_eq!(
            (disk.names(Folder::Running).len(), disk.names(Folder::Due)),
            (0, vec![file(1)])
        );
    }
    let claim = desk.claim(&mut work);
    assert_eq!((claim.job().attempts, claim.job().interrupted), (0, 0));
}

#[test]
fn a_job_that_fails_waits_in_a_folder_that_nobody_watches_and_longer_each_time() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.close(1);
    let mut work = desk.work();
    let mut now = NOW;
    for wait_ms in [3750, 7500, 15_000] {
        let claim = claim_at(&desk, &mut work, now).expect("its time has come");
        let until = now.plus(seconds(wait_ms) / 1000);
        assert_eq!(fail(&desk, &work, claim, now), Fate::Waiting(until));
        assert_eq!(desk.files(), ["waiting/01.job"]);
        assert_eq!(desk.ledger.next_time(now), Ok(Some(until)));
        let early = Wall::from_origin(until.since_origin() - seconds(1));
        assert_eq!(claim_at(&desk, &mut work, early), None);
        now = until;
    }
    let summary = desk.ledger.summary().expect("a healthy disk");
    let [listed] = &summary.jobs[..] else {
        panic!("one job: {summary:?}");
    };
    assert_eq!((listed.folder, listed.attempts), (Folder::Waiting, 3));
    assert_eq!(listed.last_error.as_deref(), Some("no route"));
    assert_eq!(listed.owed, ["account", "hooks", "prune"]);
}

#[test]
fn a_job_is_given_up_when_its_attempts_are_used_up_and_then_named() {
    let disk = MemoryDisk::new();
    let desk = Desk::with(
        &disk,
        Limits {
            attempts: 2,
            ..Limits::default()
        },
    );
    desk.close(1);
    let mut work = desk.work();
    let claim = desk.claim(&mut work);
    fail(&desk, &work, claim, NOW);
    let later = NOW.plus(seconds(60));
    let claim = claim_at(&desk, &mut work, later).expect("its time has come");
    assert_eq!(claim.attempt(), 2);
    assert_eq!(fail(&desk, &work, claim, later), Fate::GivenUp);
    assert_eq!(desk.files(), ["failed/01.job"]);
    assert_eq!(desk.ledger.next_time(later), Ok(None));
    let summary = desk.ledger.summary().expect("a healthy disk");
    assert_eq!(summary.failed, 1);
    assert_eq!(summary.jobs[0].last_error.as_deref(), Some("no route"));
}

#[test]
fn a_job_that_was_never_tried_before_its_deadline_is_given_up_at_the_third_failure() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.close(1);
    let mut now = NOW.plus(seconds(30 * 24 * 3600));
    let mut work = desk.work();
    for _ in 0..2 {
        let claim = claim_at(&desk, &mut work, now).expect("a host that was off for a month still owes it");
        let Fate::Waiting(until) = fail(&desk, &work, claim, now) else {
            panic!("it was hardly tried");
        };
        now = until;
    }
    let claim = claim_at(&desk, &mut work, now).expect("its time has come");
    assert_eq!(fail(&desk, &work, claim, now), Fate::GivenUp);
}

#[test]
fn a_job_that_failed_often_is_given_up_at_its_first_failure_past_its_deadline() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.close(1);
    let mut work = desk.work();
    let mut now = NOW;
    for _ in 0..2 {
        let claim = claim_at(&desk, &mut work, now).expect("its time has come");
        fail(&desk, &work, claim, now);
        now = now.plus(seconds(60));
    }
    let week = NOW.plus(seconds(7 * 24 * 3600));
    let claim = claim_at(&desk, &mut work, week).expect("its time has come");
    assert_eq!(fail(&desk, &work, claim, week), Fate::GivenUp);
}

#[test]
fn a_job_whose_worker_ends_again_and_again_is_given_up() {
    let disk = MemoryDisk::new();
    let desk = Desk::with(
        &disk,
        Limits {
            interruptions: 2,
            ..Limits::default()
        },
    );
    desk.close(1);
    for _ in 0..3 {
        let mut work = desk.work();
        drop(desk.claim(&mut work));
    }
    let lock = desk.ledger.lock_worker().expect("a healthy disk").expect("free");
    let (_work, found) = desk.ledger.recover(lock, NOW).expect("a healthy disk");
    assert_eq!(found.given_up, [id(1)]);
    assert_eq!(desk.files(), ["failed/01.job"]);
}

#[test]
fn a_clock_that_was_set_back_makes_no_job_wait_longer_than_the_longest_wait() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    let ahead = NOW.plus(seconds(3 * 24 * 3600));
    desk.close(1);
    let mut work = desk.work();
    let claim = desk.claim(&mut work);
    fail(&desk, &work, claim, ahead);
    let longest = NOW.plus(seconds(3600));
    assert_eq!(desk.ledger.next_time(NOW), Ok(Some(longest)));
    assert_eq!(claim_at(&desk, &mut work, NOW), None);
    let half = NOW.plus(seconds(1800));
    assert_eq!(
        desk.ledger.next_time(half),
        Ok(Some(longest)),
        "the shorter wait is on the disk"
    );
    assert_eq!(claim_at(&desk, &mut work, half), None);
    assert!(claim_at(&desk, &mut work, longest).is_some());
}

#[test]
fn a_clock_that_was_set_back_does_not_put_a_deadline_off() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    let year = seconds(365 * 24 * 3600);
    desk.close_at(1, NOW.plus(year));
    let mut work = desk.work();
    for minute in [0, 1] {
        let now = NOW.plus(seconds(60 * minute));
        let claim = claim_at(&desk, &mut work, now).expect("its time has come");
        fail(&desk, &work, claim, now);
    }
    let later = NOW.plus(seconds(8 * 24 * 3600));
    let claim = claim_at(&desk, &mut work, later).expect("its time has come");
    assert_eq!(fail(&desk, &work, claim, later), Fate::GivenUp);
}

#[test]
fn a_job_tried_again_by_hand_is_due_with_all_its_attempts_and_time() {
    let disk = MemoryDisk::new();
    let desk = Desk::with(
        &disk,
        Limits {
            attempts: 1,
            ..Limits::default()
        },
    );
    desk.close(1);
    let mut work = desk.work();
    let claim = desk.claim(&mut work);
    fail(&desk, &work, claim, NOW);
    assert_eq!(desk.ledger.retry(id(1), NOW.plus(seconds(60))), Ok(()));
    assert_eq!(desk.files(), ["due/01.job"]);
    let claim = desk.claim(&mut work);
    assert_eq!(claim.attempt(), 1);
    assert_eq!(claim.job().last_error.as_deref(), Some("no route"), "still to be seen");
}

#[test]
fn a_waiting_job_tried_again_by_hand_does_not_wait() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.close(1);
    let mut work = desk.work();
    let claim = desk.claim(&mut work);
    fail(&desk, &work, claim, NOW);
    assert_eq!(desk.ledger.retry(id(1), NOW), Ok(()));
    assert_eq!(desk.claim(&mut work).attempt(), 2);
}

#[test]
fn a_job_that_is_not_there_cannot_be_tried_again() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.close(1);
    for number in [1, 2] {
        let error = desk.ledger.retry(id(number), NOW).expect_err("none failed or waits");
        assert_eq!(error, LedgerError::NoSuchJob(id(number)));
    }
}

#[test]
fn an_error_is_kept_in_512_bytes() {
    let disk = MemoryDisk::new();
    let desk = Desk::new(&disk);
    desk.close(1);
    let mut work = desk.work();
    let claim = desk.claim(&mut work);
    let long = "x".repeat(100_000);
    desk.ledger.fail(&work, claim, long, NOW, 0).expect("a healthy disk");
    let error = desk.ledger.summary().expect("a healthy disk").jobs[0]
        .last_error
        .clone();
    assert_eq!(error.map(|error| error.len()), Some(512));
}

#[test]
fn an_empty_disk_is_an_empty_ledger() {
    let disk = MemoryDisk::new();
    let ledger = Ledger::new(&disk, Limits::default());
    assert_eq!(ledger.summary(), Ok(ledger::Summary::default()));
    assert_eq!(ledger.opens(), Ok((vec![], vec![])));
    assert_eq!(ledger.next_time(NOW), Ok(None));
}
