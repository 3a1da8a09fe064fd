//! Everything but hooks and uploads.

use std::fs;

use housekeeping::Ended;
use ledger::{Chore, Limits, Token};

use crate::desk::Desk;

fn logout(token_expires_ms: Option<u64>) -> Chore {
    Chore::Logout {
        token_expires_ms,
        token: Token::new("the-token"),
    }
}

#[tokio::test]
async fn a_logout_goes_through_the_office_until_it_succeeds() {
    let mut desk = Desk::new();
    desk.office.refuses = true;
    let job = desk.owe(&[logout(None), Chore::Forget]);
    desk.work_off().await;
    assert_eq!(
        desk.listed().last_error.as_deref(),
        Some("logout: the gateway is not there")
    );
    desk.office.refuses = false;
    desk.retry(job);
    assert_eq!(desk.work_off().await.done, [job]);
    let asked = desk.office.asked.lock().expect("no panic").clone();
    let logout = format!("logout {job} the-token");
    assert_eq!(
        asked,
        [logout.clone(), format!("forget {job}"), logout],
        "what is done is not repeated"
    );
}

#[tokio::test]
async fn a_token_whose_time_is_over_is_not_sent() {
    let mut desk = Desk::new();
    let job = desk.owe(&[logout(Some(1_700_000_000_000))]);
    assert_eq!(desk.work_off().await.done, [job]);
    assert!(desk.office.asked.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn a_chore_that_fails_keeps_no_later_one_from_being_done() {
    let mut desk = Desk::new();
    desk.office.refuses = true;
    desk.hook("hook", "echo ran >> {}/log");
    desk.owe(&[
        logout(None),
        Chore::Account,
        Chore::Hooks,
        Chore::ReleaseLease,
        Chore::Prune,
    ]);
    desk.work_off().await;
    assert_eq!(desk.read("log"), "ran\n");
    assert_eq!(desk.ledger.history(10).expect("readable").entries.len(), 1);
    assert_eq!(desk.listed().owed, ["logout"]);
}

#[tokio::test]
async fn pruning_keeps_as_much_of_the_past_as_it_is_told_to() {
    let mut desk = Desk::with(Limits {
        keep_done: 2,
        keep_history: 3,
        ..Limits::default()
    });
    for _ in 0..6 {
        desk.owe(&[Chore::Account, Chore::Prune]);
        desk.work_off().await;
    }
    let summary = desk.summary();
    assert!(summary.done <= 3 && summary.history <= 3, "{summary:?}");
    assert!(summary.done >= 2 && summary.history == 3, "{summary:?}");
}

#[tokio::test]
async fn a_ledger_that_cannot_be_used_is_told_and_costs_no_job() {
    let mut desk = Desk::new();
    desk.hook("hook", "echo ran >> {}/log");
    let job = desk.owe(&[Chore::Hooks]);
    let due = desk.path("ledger/due");
    fs::rename(&due, desk.path("aside")).expect("moved");
    fs::write(&due, "").expect("written");
    let outcome = desk.work_off().await;
    assert!(matches!(outcome.ended, Ended::Disk(_)), "{outcome:?}");
    fs::remove_file(&due).expect("removed");
    fs::rename(desk.path("aside"), &due).expect("moved");
    assert_eq!(desk.work_off().await.done, [job]);
}

#[tokio::test]
async fn a_file_that_is_no_job_is_put_aside_and_named() {
    let mut desk = Desk::new();
    let job = desk.owe(&[Chore::Account]);
    fs::write(desk.path("ledger/due/1700000000-00000000000000ff.job"), "MMLG torn").expect("written");
    fs::write(desk.path("ledger/due/notes.txt"), "not mine").expect("written");
    let outcome = desk.work_off().await;
    assert_eq!(outcome.done, [job]);
    assert_eq!(desk.summary().failed, 2);
    assert_eq!(desk.summary().due, 0);
    assert_eq!(desk.read("ledger/failed/notes.txt.damaged"), "not mine");
}

#[tokio::test]
async fn what_keeps_due_from_being_empty_is_an_error_once_all_jobs_are_done() {
    let mut desk = Desk::new();
    let stranger = desk.path("ledger/due/two\nlines");
    fs::write(&stranger, "").expect("written");
    let job = desk.owe(&[Chore::Account]);
    let outcome = desk.work_off().await;
    assert_eq!(outcome.done, [job]);
    let Ended::Disk(error) = outcome.ended else {
        panic!("a path unit would spin: {outcome:?}");
    };
    assert!(error.to_string().contains("remove it"), "{error}");
    fs::remove_file(stranger).expect("removed");
    assert_eq!(desk.work_off().await.ended, Ended::NothingDue);
}

#[tokio::test]
async fn a_folder_with_the_name_of_a_temporary_file_is_in_nobodys_way() {
    let mut desk = Desk::new();
    let job = desk.owe(&[Chore::Account]);
    for folder in ["due", "running", "done"] {
        fs::create_dir(desk.path(&format!("ledger/{folder}/.x.tmp"))).expect("made");
    }
    let outcome = desk.work_off().await;
    assert_eq!((outcome.done, outcome.ended), (vec![job], Ended::NothingDue));
}
