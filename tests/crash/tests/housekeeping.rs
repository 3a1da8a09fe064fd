//! `marmot housekeep` killed, and refused by its disk, at every durable call.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use crash::{Books, Census, Injection, Outcome};
use lab::{Lab, Mark, PATIENCE, Signal, gateway_settings, marmot, run_scaled, start_gateway, tests};

/// The folders that a worker writes to.
const FOLDERS: [&str; 5] = ["running", "waiting", "failed", "done", "history"];

/// Not `openat`: the threads of a worker open much else. That files cannot be made is tried where a client keeps its books.
const CALLS: [&str; 5] = ["mkdirat", "write", "fsync", "renameat", "unlinkat"];

fn main() -> ExitCode {
    run_scaled(
        &["strace"],
        tests![housekeeping_that_dies_or_cannot_write_loses_and_doubles_nothing],
    )
}

fn housekeeping_that_dies_or_cannot_write_loses_and_doubles_nothing(lab: &Lab) -> Result<()> {
    // It lives on: a job delivers the logout, too.
    let _gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let books = Books::new(lab, "crash")?;
    let (template, session) = one_job(lab, &books)?;
    let jobs = books.spool.jobs("due")?;
    ensure!(jobs.len() == 1, "one session leaves one job: {jobs:?}");
    let mut census = Census::default();
    census.visit(lab, &CALLS, |injection| {
        books.restore(&template)?;
        round(lab, &books, injection, &jobs[0], &session).with_context(|| injection.place())
    })?;
    census.report(lab)
}

/// A ledger with the job of one session, made by a real one. Returns its copy and the session.
fn one_job(lab: &Lab, books: &Books<'_>) -> Result<(PathBuf, String)> {
    let mut command = marmot(lab, lab.client(), &["client", "-c"])?;
    command.arg(books.config());
    let client = lab.spawn("client", command)?;
    client.wait_for("to bring the tunnel up", PATIENCE)?;
    client.signal(Signal::USR2)?;
    let start = client.wait_for_line(Mark::default(), &["session.start"], PATIENCE)?;
    client.stop(Signal::TERM, PATIENCE)?;
    let session = crash::session_of(&start).context("our gateway names the session")?;
    Ok((books.save()?, session))
}

fn round(lab: &Lab, books: &Books<'_>, injection: &Injection, job: &str, session: &str) -> Result<Outcome> {
    let root = books.spool.folder().to_owned();
    let mut command = marmot(lab, lab.client(), &["housekeep", "-c"])?;
    command.arg(books.config());
    let only = if injection.call() == "write" {
        temporaries(&root, job)
    } else {
        Vec::new()
    };
    let worker = lab.spawn("worker", injection.around(lab, &command, &only)?)?;
    // However it ends: a disk that is full is no reason to succeed.
    worker.wait_exit(PATIENCE)?;
    let outcome = injection.outcome(&root)?;
    let said = || format!("the worker said:\n{}", worker.output());
    books.settle(&[session.to_owned()]).with_context(said)?;
    let history = books.spool.jobs("history")?;
    ensure!(history == [job], "one session, one entry: {history:?}");
    let done = books.spool.jobs("done")?;
    ensure!(done == [job], "one job, done once: {done:?}");
    Ok(outcome)
}

/// What a worker writes to before it is renamed.
fn temporaries(root: &Path, job: &str) -> Vec<PathBuf> {
    let temporary = |folder: &&str| root.join(folder).join(format!(".{job}.job.tmp"));
    FOLDERS.iter().map(temporary).collect()
}
