//! Act 6: the client stops at once and leaves its host as it was.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::process::Process;
use super::signs;
use super::stage::Stage;
use super::tunnel;

/// How long a stop may take, whatever the network does. The design allows 250 ms; a loaded machine may be slower.
const STOP: Duration = Duration::from_secs(1);

/// When a stop is given up.
const LIMIT: Duration = Duration::from_secs(10);

/// How long the gateway's last word about the session may take.
const SOON: Duration = Duration::from_secs(5);

/// Plays it.
pub(crate) fn act(stage: &mut Stage) -> Result<()> {
    stage.story.act("The client stops");
    stage.naive = None;
    let asked = Instant::now();
    stop(stage, |stage| &mut stage.client)?;
    compare_host(stage)?;

    let end = stage.gateway()?.wait_for(
        "the gateway's last word about the session",
        Some(asked),
        SOON,
        signs::session_end,
    )?;
    stage.story.fact("gateway counted", &end.counters);
    stage.story.claim(
        format!(
            "the gateway heard the goodbye: reason {}, {} connection in all",
            end.reason, end.connections
        ),
        end.reason == signs::USER_STOP && end.connections == 1,
    );
    tunnel::check_unreachable(stage, "after the stop the LAN is out of reach again")?;
    stop(stage, |stage| &mut stage.gateway)
}

fn stop(stage: &mut Stage, of: impl Fn(&mut Stage) -> &mut Option<Process>) -> Result<()> {
    let process = of(stage).as_mut().context("it does not run")?;
    let (name, (status, took)) = (process.name(), process.stop(LIMIT)?);
    stage.story.claim(
        format!(
            "SIGTERM to the {name}: gone after {:.0} ms, {status}",
            took.as_secs_f64() * 1e3
        ),
        status.success() && took < STOP,
    );
    Ok(())
}

/// Everything the client put on its host must be gone.
fn compare_host(stage: &mut Stage) -> Result<()> {
    let (Some(before), Some(after)) = (stage.before.take(), stage.snapshot()?) else {
        stage.story.skip(
            "links, addresses, routes and rules are as before",
            "the host was never touched",
        );
        return Ok(());
    };
    let changes = before.changes(&after);
    stage.story.block(&changes.join("\n"));
    stage.story.claim(
        format!(
            "links, addresses, routes and rules ({} lines) are as before",
            before.lines().count()
        ),
        changes.is_empty(),
    );
    Ok(())
}
