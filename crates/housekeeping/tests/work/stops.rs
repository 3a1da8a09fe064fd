//! Stops, crashes, and more than one worker.

use std::sync::Arc;

use housekeeping::{Ended, work_off_alone};
use ledger::{Chore, Folder};
use tokio::sync::watch;

use crate::desk::{Desk, soon, tell, told};

#[tokio::test]
async fn a_stop_interrupts_a_hook_and_its_job_is_due_again_without_counting() {
    let mut desk = Desk::new();
    let started = desk.fifo("started");
    desk.hook("10-done", "echo done >> {}/log");
    let long = desk.hook("20-long", "echo $$ > {}/started; exec sleep 1000");
    let job = desk.owe(&[Chore::Account, Chore::Hooks]);
    let (stopper, stop) = watch::channel(false);
    let worker = desk.worker();
    let (outcome, pid) = tokio::join!(soon(worker.work_off(stop)), async {
        let pid = told(&started).await;
        stopper.send_replace(true);
        pid
    });
    assert_eq!((outcome.ended, outcome.failed.len()), (Ended::Stopped, 0));
    assert!(!std::path::Path::new("/proc").join(pid.trim()).exists());
    let listed = desk.listed();
    assert_eq!((listed.id, listed.folder, listed.attempts), (job, Folder::Due, 0));
    assert_eq!(listed.owed, ["hooks"], "what was done stays done");

    std::fs::remove_file(long).expect("removed");
    desk.hook("20-long", "echo attempt $MARMOT_ATTEMPT >> {}/log");
    assert_eq!(desk.work_off().await.done, [job]);
    assert_eq!(desk.read("log"), "done\nattempt 1\n");
}

#[tokio::test]
async fn a_stop_gives_up_what_waits_for_the_network() {
    let mut desk = Desk::new();
    desk.office.hangs = true;
    let token = ledger::Token::new("t");
    desk.owe(&[Chore::Logout {
        token_expires_ms: None,
        token,
    }]);
    let (stopper, stop) = watch::channel(false);
    let worker = desk.worker();
    let asked = Arc::clone(&desk.office.asked);
    let stopping = async {
        while asked.lock().expect("no panic").is_empty() {
            tokio::task::yield_now().await;
        }
        stopper.send_replace(true);
    };
    let (outcome, ()) = tokio::join!(soon(worker.work_off(stop)), stopping);
    assert_eq!(outcome.ended, Ended::Stopped);
    assert_eq!((desk.listed().folder, desk.listed().attempts), (Folder::Due, 0));
}

#[tokio::test]
async fn a_worker_that_was_told_to_stop_before_it_began_does_nothing() {
    let mut desk = Desk::new();
    desk.hook("hook", "echo ran >> {}/log");
    desk.owe(&[Chore::Hooks]);
    let (stopper, stop) = watch::channel(false);
    drop(stopper);
    assert_eq!(soon(desk.worker().work_off(stop)).await.ended, Ended::Stopped);
    assert_eq!((desk.read("log").as_str(), desk.listed().folder), ("", Folder::Due));
}

#[tokio::test]
async fn the_history_takes_effect_once_though_its_worker_died_and_was_retried() {
    let mut desk = Desk::new();
    let started = desk.fifo("started");
    let hook = desk.hook("hook", "echo $$ > {}/started; exec sleep 1000");
    let job = desk.owe(&[Chore::Account, Chore::Hooks]);
    let (_stopper, stop) = watch::channel(false);
    let worker = desk.worker();
    tokio::select! {
        outcome = worker.work_off(stop) => panic!("it waits: {outcome:?}"),
        _ = told(&started) => {}
    }
    // The worker was dropped: as after a crash its job is in nobody's hands.
    assert_eq!(desk.listed().folder, Folder::Running);
    assert_eq!(desk.ledger.history(10).expect("readable").entries.len(), 1);

    desk.nobody_works().await;
    std::fs::remove_file(hook).expect("removed");
    desk.hook("hook", "test -e {}/mended");
    assert_eq!(desk.work_off().await.failed.len(), 1);
    std::fs::write(desk.path("mended"), "").expect("written");
    desk.retry(job);
    assert_eq!(desk.work_off().await.done, [job]);
    let history = desk.ledger.history(10).expect("readable");
    assert_eq!(history.entries.len(), 1);
    assert_eq!(history.entries[0].id, job);
}

#[tokio::test]
async fn nobody_runs_a_hook_while_one_of_a_dead_worker_lives() {
    let mut desk = Desk::new();
    let started = desk.fifo("started");
    let deaf = "trap '' TERM; echo $$ > {}/started; while :; do sleep 1000; done";
    let hook = desk.hook("hook", deaf);
    let job = desk.owe(&[Chore::Hooks]);
    let (_stopper, stop) = watch::channel(false);
    let worker = desk.worker();
    let pid = tokio::select! {
        outcome = worker.work_off(stop) => panic!("it waits: {outcome:?}"),
        pid = told(&started) => pid,
    };
    // The worker was dropped: the hook has two seconds to end by itself.
    assert_eq!(desk.try_work_off().await.ended, Ended::Busy);
    desk.nobody_works().await;
    assert!(!std::path::Path::new("/proc").join(pid.trim()).exists());

    std::fs::remove_file(hook).expect("removed");
    desk.hook("hook", "echo ran >> {}/log");
    assert_eq!(desk.work_off().await.done, [job]);
    assert_eq!(desk.read("log"), "ran\n");
}

#[tokio::test]
async fn while_one_works_another_finds_nothing_to_do() {
    let mut desk = Desk::new();
    let (started, release) = (desk.fifo("started"), desk.fifo("release"));
    desk.hook("hook", "echo ran >> {}/log; echo > {}/started; cat {}/release");
    let first = desk.owe(&[Chore::Hooks]);
    let (_stopper, stop) = watch::channel(false);
    let worker = desk.worker();
    let meanwhile = async {
        told(&started).await;
        let outcome = desk.try_work_off().await;
        assert_eq!((outcome.ended, outcome.done.len()), (Ended::Busy, 0));
        tell(&release).await;
    };
    let (outcome, ()) = tokio::join!(soon(worker.work_off(stop)), meanwhile);
    assert_eq!(outcome.done, [first]);
    assert_eq!(desk.read("log"), "ran\n");
}

#[tokio::test]
async fn two_workers_never_run_the_same_job() {
    let mut desk = Desk::new();
    desk.hook("hook", "echo $MARMOT_JOB >> {}/log");
    let mut jobs: Vec<_> = (0..12).map(|_| desk.owe(&[Chore::Hooks]).to_string()).collect();
    let (_stopper, stop) = watch::channel(false);
    let until_nothing_is_due = || async {
        let worker = desk.worker();
        while worker.work_off(stop.clone()).await.ended == Ended::Busy {
            tokio::task::yield_now().await;
        }
    };
    soon(async { tokio::join!(until_nothing_is_due(), until_nothing_is_due()) }).await;
    let log = desk.read("log");
    let mut ran: Vec<_> = log.lines().map(str::to_owned).collect();
    ran.sort();
    jobs.sort();
    assert_eq!(ran, jobs);
}

#[tokio::test]
async fn a_job_that_becomes_due_while_others_run_is_done_too() {
    let mut desk = Desk::new();
    let (started, release) = (desk.fifo("started"), desk.fifo("release"));
    desk.hook(
        "hook",
        "test -e {}/once || { touch {}/once; echo > {}/started; cat {}/release; }",
    );
    let first = desk.owe(&[Chore::Hooks]);
    let (_stopper, stop) = watch::channel(false);
    let worker = desk.worker();
    let mut second = None;
    let meanwhile = async {
        told(&started).await;
        second = Some(desk.owe(&[Chore::Hooks]));
        tell(&release).await;
    };
    let (outcome, ()) = tokio::join!(soon(worker.work_off(stop)), meanwhile);
    assert_eq!(outcome.done, [first, second.expect("owed")]);
}

#[tokio::test]
async fn a_worker_of_its_own_waits_for_another_if_it_is_asked_to() {
    let mut desk = Desk::new();
    let (started, release) = (desk.fifo("started"), desk.fifo("release"));
    desk.hook(
        "hook",
        "test -e {}/once || { touch {}/once; echo > {}/started; cat {}/release; exit 1; }",
    );
    let job = desk.owe(&[Chore::Hooks]);
    let (_stopper, stop) = watch::channel(false);
    let worker = desk.worker();
    let (ours, patient) = (desk.worker(), desk.worker());
    let meanwhile = async {
        told(&started).await;
        let ended = tokio::task::spawn_blocking(move || work_off_alone(&ours, false).expect("a runtime").ended);
        assert_eq!(soon(ended).await.expect("no panic"), Ended::Busy);
        let waiting = tokio::task::spawn_blocking(move || work_off_alone(&patient, true).expect("a runtime"));
        tell(&release).await;
        soon(waiting).await.expect("no panic")
    };
    let (first, second) = tokio::join!(soon(worker.work_off(stop)), meanwhile);
    assert_eq!(first.failed.len(), 1);
    assert_eq!((second.ended, second.next), (Ended::NothingDue, first.failed[0].again));
    assert_eq!(desk.listed().id, job);
}
