//! A client killed, and refused by its disk, at every durable call of a start and of a stop.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use crash::{Books, Census, Injection, Outcome};
use lab::{Lab, Mark, PATIENCE, Process, Signal, gateway_settings, marmot, run_scaled, start_gateway, tests, until};

/// The thread that keeps the books of a client.
const THREAD: &str = "ledger";

fn main() -> ExitCode {
    run_scaled(
        &["strace"],
        tests![
            a_start_that_dies_or_cannot_write_loses_nothing,
            a_stop_that_dies_or_cannot_write_loses_nothing,
        ],
    )
}

fn a_start_that_dies_or_cannot_write_loses_nothing(lab: &Lab) -> Result<()> {
    at_every_point(lab, Phase::Start)
}

fn a_stop_that_dies_or_cannot_write_loses_nothing(lab: &Lab) -> Result<()> {
    at_every_point(lab, Phase::Stop)
}

/// When the fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Start,
    Stop,
}

fn at_every_point(lab: &Lab, phase: Phase) -> Result<()> {
    let _gateway = start_gateway(lab, lab.site(), "gateway", &gateway_settings(lab, lab.site())?)?;
    let books = Books::new(lab, "crash")?;
    let mut census = Census::default();
    census.visit(lab, &crash::CALLS, |injection| {
        round(lab, &books, phase, injection).with_context(|| format!("{phase:?}: {}", injection.place()))
    })?;
    census.report(lab)
}

/// One life of a client with one fault, and the promises afterwards.
fn round(lab: &Lab, books: &Books<'_>, phase: Phase, injection: &Injection) -> Result<Outcome> {
    books.clear()?;
    let before = lab.client().snapshot()?;
    let mut command = marmot(lab, lab.client(), &["client", "-c"])?;
    command.arg(books.config());
    let client = lab.spawn("client", command)?;
    client.wait_for("to bring the tunnel up", PATIENCE)?;

    let early = match phase {
        Phase::Start => Some(injection.attach(lab, &client, THREAD)?),
        Phase::Stop => None,
    };
    client.signal(Signal::USR2)?;
    until("the end of the start, good or bad", PATIENCE, || {
        let said = client.output();
        let over = said.contains("session.start") || said.contains("trying again");
        Ok(over || !client.is_running())
    })?;
    let strace = match early {
        Some(strace) => strace,
        None => injection.attach(lab, &client, THREAD)?,
    };
    // It may have ended by itself, or been killed, meanwhile.
    let _ = client.signal(Signal::TERM);
    client.wait_exit(PATIENCE)?;
    strace.wait_exit(PATIENCE)?;
    let outcome = injection.outcome(books.spool.folder())?;
    if outcome == Outcome::Elsewhere {
        books.run("cleanup")?;
        return Ok(outcome);
    }

    let said = || format!("the client said:\n{}", client.output());
    books.settle(&sessions(&client)).with_context(said)?;
    let changes = before.changes(&lab.client().snapshot()?);
    ensure!(changes.is_empty(), "left on the host: {changes:#?}\n{}", said());
    Ok(outcome)
}

/// The sessions that a client said to have begun, as `id;epoch`.
fn sessions(client: &Process) -> Vec<String> {
    let output = client.output_since(Mark::default());
    let begun = output.lines().filter(|line| line.contains("session.start"));
    begun.filter_map(crash::session_of).collect()
}
