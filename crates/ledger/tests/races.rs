//! Two processes on one ledger: whatever one does between any two steps of the other, no job is lost or done again.
//!
//! The tunnel's process writes without a lock while a worker works; hands and requests try jobs again whenever they like.

mod disk;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use disk::{Lock, MemoryDisk};
use ledger::{
    Chore, Disk, End, Fate, Folder, JobId, Ledger, LedgerError, Limits, OpenRecord, Role, SessionFacts, Stamp, Work,
};
use now::Wall;

const NOW: Wall = Wall::from_origin(Duration::from_secs(1_700_000_000));

const MINUTE_AGO: Wall = Wall::from_origin(Duration::from_secs(1_699_999_940));

/// The session that lives.
const LIVE: u64 = 1;
const DUE: u64 = 2;
/// Waits for longer than any job may: the clock was set back.
const WAITING_FOR_EVER: u64 = 3;
const WAITING: u64 = 4;
const GIVEN_UP: u64 = 5;
const ABANDONED: u64 = 6;
/// Done, with a record in open/ that a crash left.
const DONE: u64 = 7;
/// A record in open/ that a crash left.
const LEFT: u64 = 8;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Reopen,
    Close,
    Start,
    RetryWaiting,
    RetryClamped,
    RetryGivenUp,
    /// A worker finishes everything that is due, and drops the past.
    Finish,
    /// A worker fails at everything.
    Fail,
    /// A worker is stopped.
    Requeue,
}

const ACTS: [Act; 9] = [
    Act::Reopen,
    Act::Close,
    Act::Start,
    Act::RetryWaiting,
    Act::RetryClamped,
    Act::RetryGivenUp,
    Act::Finish,
    Act::Fail,
    Act::Requeue,
];

#[derive(Debug, Default)]
struct Log {
    finished: BTreeSet<JobId>,
    again: Vec<JobId>,
    closed: bool,
    errors: Vec<String>,
}

/// The sessions began so long ago that all of them would be pruned if that counted.
fn id(number: u64) -> JobId {
    JobId::new(1_690_000_000, number)
}

fn record(number: u64) -> OpenRecord {
    OpenRecord {
        id: id(number),
        tunnel: "office".to_owned(),
        role: Role::Client,
        generation: 1,
        facts: SessionFacts::default(),
        undo: None,
        chores: vec![Chore::Account],
    }
}

fn end() -> End {
    let at = Stamp {
        wall_ms: 1_699_999_500_000,
        ..Stamp::default()
    };
    End::new(at, "user_stop")
}

fn ledger(disk: &MemoryDisk) -> Ledger<&MemoryDisk> {
    let limits = Limits {
        attempts: 2,
        keep_done: 1,
        ..Limits::default()
    };
    Ledger::new(disk, limits)
}

/// One file in each place where one can be.
fn scene() -> Result<MemoryDisk, LedgerError> {
    let disk = MemoryDisk::new();
    let ledger = ledger(&disk);
    for number in [WAITING, WAITING_FOR_EVER, GIVEN_UP, DONE, ABANDONED] {
        ledger.close(record(number), end())?;
    }
    let lock = ledger.lock_worker()?.expect("nobody else works");
    let (mut work, _) = ledger.recover(lock, NOW)?;
    let day = Duration::from_secs(24 * 3600);
    while let Some(claim) = ledger.claim(&mut work)? {
        match claim.job().id() {
            job if job == id(WAITING) => drop(ledger.fail(&work, claim, "not now", MINUTE_AGO, 0)?),
            job if job == id(WAITING_FOR_EVER) => drop(ledger.fail(&work, claim, "not now", NOW.plus(day), 0)?),
            job if job == id(GIVEN_UP) => {
                if let Fate::Waiting(_) = ledger.fail(&work, claim, "no", NOW.plus(day * 30), 0)? {
                    ledger.retry(job, NOW)?;
                }
            }
            job if job == id(DONE) => ledger.finish(&work, claim, NOW)?,
            _ => drop(claim),
        }
    }
    ledger.close(record(DUE), end())?;
    for number in [LIVE, LEFT, DONE] {
        ledger.open(&record(number))?;
    }
    drop(work);
    Ok(disk)
}

fn act(disk: &MemoryDisk, log: &Rc<RefCell<Log>>, what: Act) {
    let acted = match what {
        Act::Reopen | Act::Close if log.borrow().closed => Ok(()),
        Act::Reopen => ledger(disk).open(&record(LIVE)),
        Act::Close => {
            log.borrow_mut().closed = true;
            ledger(disk).close(record(LIVE), end()).map(drop)
        }
        Act::Start => start(disk),
        Act::RetryWaiting => retry(disk, WAITING),
        Act::RetryClamped => retry(disk, WAITING_FOR_EVER),
        Act::RetryGivenUp => retry(disk, GIVEN_UP),
        Act::Finish | Act::Fail | Act::Requeue => work(disk, log, what),
    };
    if let Err(error) = acted {
        log.borrow_mut().errors.push(format!("{what:?}: {error}"));
    }
}

/// The process that owns `LIVE` is up: of the others it takes care.
fn start(disk: &MemoryDisk) -> Result<(), LedgerError> {
    let (records, damaged) = ledger(disk).opens()?;
    assert_eq!(damaged, [], "nothing is damaged");
    for record in records.into_iter().filter(|record| record.id != id(LIVE)) {
        ledger(disk).close(record, end())?;
    }
    Ok(())
}

fn retry(disk: &MemoryDisk, number: u64) -> Result<(), LedgerError> {
    match ledger(disk).retry(id(number), NOW) {
        // A worker or another hand was faster.
        Err(LedgerError::NoSuchJob(_)) => Ok(()),
        retried => retried,
    }
}

fn work(disk: &MemoryDisk, log: &Rc<RefCell<Log>>, what: Act) -> Result<(), LedgerError> {
    let ledger = ledger(disk);
    let Some(lock) = ledger.lock_worker()? else {
        return Ok(());
    };
    let (mut work, found) = ledger.recover(lock, NOW)?;
    assert_eq!(found.damaged, [], "nothing is damaged");
    for now in [NOW, NOW.plus(Duration::from_secs(7200))] {
        ledger.drain_waiting(&mut work, now)?;
        shift(&ledger, &mut work, log, what)?;
    }
    if what == Act::Finish {
        ledger.prune(&work, NOW)?;
    }
    Ok(())
}

/// One round of a worker through what is due.
fn shift(
    ledger: &Ledger<&MemoryDisk>,
    work: &mut Work<Lock>,
    log: &Rc<RefCell<Log>>,
    what: Act,
) -> Result<(), LedgerError> {
    while let Some(claim) = ledger.claim(work)? {
        let job = claim.job().id();
        if log.borrow().finished.contains(&job) || job == id(DONE) {
            log.borrow_mut().again.push(job);
        }
        match what {
            Act::Fail => drop(ledger.fail(work, claim, "not now", NOW, 0)?),
            Act::Requeue => {
                ledger.requeue(work, claim)?;
                break;
            }
            _ => {
                ledger.finish(work, claim, NOW)?;
                log.borrow_mut().finished.insert(job);
            }
        }
    }
    Ok(())
}

/// When all is quiet, everything owed gets done.
fn settle(disk: &MemoryDisk, log: &Rc<RefCell<Log>>) {
    act(disk, log, Act::Close);
    act(disk, log, Act::Start);
    for _ in 0..2 {
        for listed in ledger(disk).summary().expect("a healthy disk").jobs {
            if matches!(listed.folder, Folder::Waiting | Folder::Failed) {
                let _ = ledger(disk).retry(listed.id, NOW);
            }
        }
        act(disk, log, Act::Finish);
    }
}

#[test]
fn whatever_one_does_between_two_steps_of_the_other_no_job_is_lost_or_done_again() {
    for first in ACTS {
        let disk = scene().expect("a healthy disk");
        let begin = disk.steps();
        act(&disk, &Rc::default(), first);
        for at in begin..disk.steps() {
            for second in ACTS {
                let case = format!("{second:?} before step {} of {first:?}", at - begin);
                let disk = scene().expect("a healthy disk");
                let log = Rc::<RefCell<Log>>::default();
                disk.take_log();
                disk.before(at, {
                    let log = Rc::clone(&log);
                    move |disk| act(disk, &log, second)
                });
                act(&disk, &log, first);
                settle(&disk, &log);
                let steps = disk.take_log().join("\n");
                let log = log.borrow();
                assert_eq!(log.errors, Vec::<String>::new(), "{case}\n{steps}");
                assert_eq!(log.again, [], "{case}\n{steps}");
                let owed = [LIVE, DUE, WAITING, WAITING_FOR_EVER, GIVEN_UP, ABANDONED, LEFT];
                let lost: Vec<_> = owed.into_iter().filter(|n| !log.finished.contains(&id(*n))).collect();
                assert_eq!(lost, Vec::<u64>::new(), "{case}\n{steps}");
            }
        }
    }
}

#[test]
fn a_job_that_is_tried_again_while_its_record_is_closed_again_stays_what_it_is() {
    for number in [WAITING, GIVEN_UP] {
        let close_again = |disk: &MemoryDisk| {
            // The removal of its record did not survive a loss of power.
            let mut copy = record(number);
            copy.facts.bytes_in += 1;
            ledger(disk).open(&copy)?;
            let begin = disk.steps();
            disk.take_log();
            Ok::<_, LedgerError>((begin, copy))
        };
        let disk = scene().expect("a healthy disk");
        let (begin, copy) = close_again(&disk).expect("a healthy disk");
        ledger(&disk).close(copy, end()).expect("a healthy disk");
        // Meeting the other takes steps of its own.
        for at in begin..disk.steps() + 4 {
            let disk = scene().expect("a healthy disk");
            let (_, copy) = close_again(&disk).expect("a healthy disk");
            disk.before(at, move |disk| retry(disk, number).expect("a healthy disk"));
            ledger(&disk).close(copy, end()).expect("a healthy disk");
            let steps = disk.take_log().join("\n");
            let ledger = ledger(&disk);
            let lock = ledger
                .lock_worker()
                .expect("a healthy disk")
                .expect("nobody else works");
            let (mut work, _) = ledger.recover(lock, NOW).expect("a healthy disk");
            while let Some(claim) = ledger.claim(&mut work).expect("a healthy disk") {
                if claim.job().id() == id(number) {
                    let facts = &claim.job().record.facts;
                    assert_eq!(
                        facts.bytes_in,
                        record(number).facts.bytes_in,
                        "before step {}\n{steps}",
                        at - begin
                    );
                }
            }
        }
    }
}

#[test]
fn a_job_that_is_tried_again_while_its_copies_are_removed_is_not_lost() {
    for number in [WAITING, GIVEN_UP] {
        let from = if number == WAITING {
            Folder::Waiting
        } else {
            Folder::Failed
        };
        // A rename to where it counts more, or back, was found half done after a loss of power.
        let scene = || {
            let disk = scene().expect("a healthy disk");
            let name = id(number).file_name();
            let bytes = disk.read(from, &name).expect("a healthy disk");
            disk.write_temporary(Folder::Due, &name, &bytes)
                .expect("a healthy disk");
            disk.publish(Folder::Due, &name).expect("a healthy disk");
            disk
        };
        let recover = |disk: &MemoryDisk| {
            let ledger = ledger(disk);
            let lock = ledger
                .lock_worker()
                .expect("a healthy disk")
                .expect("nobody else works");
            drop(ledger.recover(lock, NOW).expect("a healthy disk"));
        };
        let disk = scene();
        let begin = disk.steps();
        recover(&disk);
        for at in begin..disk.steps() {
            let disk = scene();
            disk.take_log();
            disk.before(at, move |disk| retry(disk, number).expect("a healthy disk"));
            recover(&disk);
            let steps = disk.take_log().join("\n");
            let log = Rc::<RefCell<Log>>::default();
            settle(&disk, &log);
            let done = log.borrow().finished.contains(&id(number));
            assert!(done, "before step {}\n{steps}", at - begin);
        }
    }
}
