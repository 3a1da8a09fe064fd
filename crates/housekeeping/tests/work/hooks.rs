//! The administrator's executables.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use housekeeping::Ended;
use ledger::{Chore, Folder, Limits};

use crate::desk::Desk;

const OPERATIONS: &str = include_str!("../../../../docs/OPERATIONS.md");

#[tokio::test]
async fn hooks_run_one_after_the_other_in_the_order_of_their_names() {
    let mut desk = Desk::new();
    for name in ["20-second", "10-first", "30-third"] {
        desk.hook(name, &format!("echo {name} >> {{}}/order"));
    }
    let job = desk.owe(&[Chore::Hooks]);
    let outcome = desk.work_off().await;
    assert_eq!((outcome.ended, outcome.done), (Ended::NothingDue, vec![job]));
    assert_eq!(desk.read("order"), "10-first\n20-second\n30-third\n");
    assert_eq!((desk.summary().done, desk.summary().jobs.len()), (1, 0));
}

#[tokio::test]
async fn the_environment_of_a_hook_is_exactly_as_documented() {
    let mut desk = Desk::new();
    // What the process was started with, whatever its shell adds.
    desk.hook("env", "tr '\\0' '\\n' < /proc/$$/environ > {}/env");
    let job = desk.owe(&[Chore::Hooks]);
    desk.work_off().await;
    let text = desk.read("env");
    let found: BTreeSet<&str> = text.lines().collect();
    let job = format!("MARMOT_JOB={job}");
    let expected = [
        job.as_str(),
        "MARMOT_EVENT=session-end",
        "MARMOT_TUNNEL=work",
        "MARMOT_ROLE=client",
        "MARMOT_SESSION=0a0b",
        "MARMOT_EPOCH=2",
        "MARMOT_USER=alice?root",
        "MARMOT_GATEWAY=vpn.example.com",
        "MARMOT_PEER=192.0.2.1",
        "MARMOT_ADDRESSES=10.78.0.2 fd00::2",
        "MARMOT_STARTED=2023-11-14T22:13:20Z",
        "MARMOT_SECONDS=90",
        "MARMOT_END_REASON=user_stop",
        "MARMOT_PACKETS_IN=1",
        "MARMOT_PACKETS_OUT=2",
        "MARMOT_BYTES_IN=30",
        "MARMOT_BYTES_OUT=40",
        "MARMOT_ATTEMPT=1",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    ];
    let ended = found.iter().find(|line| line.starts_with("MARMOT_ENDED=20")).copied();
    let expected: BTreeSet<&str> = expected.into_iter().chain(ended).collect();
    assert_eq!(found, expected);

    let documented: BTreeSet<&str> = OPERATIONS
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("MARMOT_") || *name == "PATH")
        .collect();
    let names: BTreeSet<&str> = found.iter().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    assert_eq!(names, documented);
}

#[tokio::test]
async fn a_hook_that_hangs_is_killed_at_its_limit_and_its_job_waits_with_the_error() {
    let mut desk = Desk::new();
    desk.settings.hook_timeout = Duration::from_millis(200);
    desk.hook("10-hang", "echo $$ > {}/pid; exec sleep 1000");
    desk.hook("20-good", "echo good >> {}/good");
    let job = desk.owe(&[Chore::Hooks]);
    let begun = Instant::now();
    let outcome = desk.work_off().await;
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!((outcome.done.len(), outcome.failed.len()), (0, 1));
    let listed = desk.listed();
    assert_eq!((listed.id, listed.folder, listed.attempts), (job, Folder::Waiting, 1));
    assert_eq!(
        listed.last_error.as_deref(),
        Some("hook 10-hang: timed out after 0.2 s")
    );
    assert!(!is_alive(&desk.read("pid")));
    assert_eq!(
        desk.read("good"),
        "good\n",
        "a failure keeps no other hook from running"
    );
}

#[tokio::test]
async fn a_hook_that_floods_its_output_costs_no_more_than_the_limit() {
    let mut desk = Desk::new();
    desk.hook(
        "flood",
        "head -c 20000000 /dev/zero | tr '\\0' x; echo; echo 'at the end' >&2; exit 3",
    );
    desk.owe(&[Chore::Hooks]);
    desk.work_off().await;
    let error = desk.listed().last_error.expect("it failed");
    assert_eq!(error, "hook flood: exit code 3: at the end");
}

#[tokio::test]
async fn what_a_hook_leaves_running_is_killed() {
    let mut desk = Desk::new();
    desk.hook(
        "fork",
        "sleep 1000 & echo $! > {}/child; setsid sleep 1000 & echo $! > {}/other",
    );
    desk.owe(&[Chore::Hooks]);
    let outcome = desk.work_off().await;
    assert_eq!(outcome.done.len(), 1);
    assert!(!is_alive(&desk.read("child")));
    assert!(!is_alive(&desk.read("other")));
}

#[tokio::test]
async fn a_hook_that_fails_is_tried_again_and_those_that_are_done_are_not() {
    let mut desk = Desk::new();
    desk.hook("10-good", "echo good >> {}/log");
    desk.hook("20-bad", "echo bad $MARMOT_ATTEMPT >> {}/log; test -e {}/mended");
    desk.hook("30-good", "echo also good >> {}/log");
    let job = desk.owe(&[Chore::Hooks]);
    let before = platform::clock::now().wall;
    let outcome = desk.work_off().await;
    let again = outcome.failed[0].again.expect("it is tried again");
    let wait = again.since(before);
    assert!(wait >= Duration::from_millis(3750), "{wait:?}");
    assert_eq!(outcome.next, Some(again));
    assert_eq!(desk.work_off().await.done, [], "not before its time");

    desk.retry(job);
    let wait = desk.work_off().await.failed[0].again.expect("again").since(before);
    assert!(wait >= Duration::from_millis(7500), "it doubles: {wait:?}");
    fs::write(desk.path("mended"), "").expect("written");
    desk.retry(job);
    assert_eq!(desk.work_off().await.done, [job]);
    assert_eq!(desk.read("log"), "good\nbad 1\nalso good\nbad 2\nbad 3\n");
}

#[tokio::test]
async fn a_hook_that_others_could_have_written_is_refused_by_name() {
    let mut desk = Desk::new();
    let open = desk.hook("10-open", "echo open >> {}/log");
    fs::set_permissions(open, Permissions::from_mode(0o777)).expect("permissions");
    desk.hook("20 spaces", "echo spaces >> {}/log");
    desk.hook("30-good", "echo good >> {}/log");
    desk.owe(&[Chore::Hooks]);
    desk.work_off().await;
    let error = desk.listed().last_error.expect("it failed");
    assert!(
        error.contains("hook 10-open is not run: it can be changed by others"),
        "{error}"
    );
    assert!(error.contains("hook 20 spaces is not run: it has a name"), "{error}");
    assert_eq!(desk.read("log"), "good\n");
}

#[tokio::test]
async fn a_folder_that_others_can_write_to_has_no_hook_that_is_run() {
    let mut desk = Desk::new();
    desk.hook("10-hook", "echo ran >> {}/log");
    fs::set_permissions(&desk.settings.hooks_dir, Permissions::from_mode(0o777)).expect("permissions");
    desk.owe(&[Chore::Hooks]);
    desk.work_off().await;
    let error = desk.listed().last_error.expect("it failed");
    assert!(
        error.contains("10-hook is not run") && error.contains("housekeeping.d"),
        "{error}"
    );
    assert_eq!(desk.read("log"), "");
}

#[tokio::test]
async fn hidden_files_backups_documents_and_folders_are_no_hooks() {
    let mut desk = Desk::new();
    for name in [".hidden", "10-hook~"] {
        desk.hook(name, "echo ran >> {}/log");
    }
    let document = desk.hook("README", "echo ran >> {}/log");
    fs::set_permissions(document, Permissions::from_mode(0o644)).expect("permissions");
    fs::create_dir(desk.settings.hooks_dir.join("folder")).expect("folder");
    let job = desk.owe(&[Chore::Hooks]);
    assert_eq!(desk.work_off().await.done, [job]);
    assert_eq!(desk.read("log"), "");
}

#[tokio::test]
async fn without_a_folder_there_are_no_hooks() {
    let mut desk = Desk::new();
    desk.settings.hooks_dir = desk.path("nowhere");
    let job = desk.owe(&[Chore::Hooks]);
    assert_eq!(desk.work_off().await.done, [job]);
}

#[tokio::test]
async fn a_job_that_keeps_failing_is_given_up_and_named() {
    let mut desk = Desk::with(Limits {
        attempts: 2,
        ..Limits::default()
    });
    desk.hook("bad", "exit 1");
    let job = desk.owe(&[Chore::Hooks]);
    desk.work_off().await;
    desk.retry(job);
    let outcome = desk.work_off().await;
    assert_eq!((outcome.failed[0].job, outcome.failed[0].again), (job, None));
    let listed = desk.listed();
    assert_eq!((listed.folder, listed.attempts), (Folder::Failed, 2));
    assert_eq!(listed.last_error.as_deref(), Some("hook bad: exit code 1"));
}

/// Whether a process of this number, as a hook wrote it, is there.
fn is_alive(pid: &str) -> bool {
    let pid = pid.trim();
    assert!(!pid.is_empty(), "the hook wrote its number");
    Path::new("/proc").join(pid).exists()
}
