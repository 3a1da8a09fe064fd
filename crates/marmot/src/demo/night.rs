//! Act 4: a night of maintenance wakes, in which both clients run for moments only, beside the naive one.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::freeze::{FIRST_PING, SOON, Standing, first_ping, reconnects};
use super::frozen::freeze_both;
use super::naive::{Event, MISSES};
use super::patience::{pause, wait_for};
use super::setup::DPD;
use super::signs;
use super::stage::Stage;

/// Sleeps of the night; between two of them lies a maintenance wake.
const SLEEPS: usize = 4;

/// How long each is: longer than the naive gateway's patience, and than the two seconds that make a gap of the clocks.
const SLEEP: Duration = Duration::from_millis(DPD.as_millis() as u64 * MISSES as u64 + 500);

/// How long both clients run in between.
const WAKE: Duration = Duration::from_millis(500);

/// Plays it.
pub(crate) fn act(stage: &mut Stage) -> Result<()> {
    stage
        .story
        .act(&format!("A night: {SLEEPS} sleeps, and moments awake between them"));
    stage.story.say(&format!(
        "Laptops wake in the night for moments, with nobody there. Here both clients are stopped {SLEEPS} times for {:.1} s and run \
         for {:.1} s in between; then it is morning.",
        SLEEP.as_secs_f64(),
        WAKE.as_secs_f64()
    ));
    let before = Standing::of(stage)?;
    // What happened before the night does not count.
    let _ = stage.naive_verdicts.iter().flat_map(Receiver::try_iter).count();
    let mut logins = 0;
    for sleep in 1..=SLEEPS {
        if !freeze_both(stage)? {
            stage
                .story
                .skip("a night costs no reconnect", "this system cannot freeze a process");
            return Ok(());
        }
        pause(SLEEP)?;
        if sleep < SLEEPS {
            thaw(stage)?;
            logins += naive_logins(stage)?;
            pause(WAKE)?;
        }
    }
    let thawed = Instant::now();
    stage.client()?.thaw()?;
    let ping = first_ping(stage, thawed)?;
    stage.naive.as_ref().context("the naive client does not run")?.thaw()?;
    logins += naive_logins(stage)?;
    let after = Standing::of(stage)?;
    let ours = reconnects(&before, &after);
    let same = before.session == after.session;
    let gaps = stage.client()?.events().iter().filter_map(signs::clock_gap).count();
    stage
        .story
        .block(&format!("{:<18}{:<40}naive heartbeats", "", "marmot"));
    stage
        .story
        .block(&format!("{:<18}{ours:<40}{logins}", "logins, reconnects"));
    stage
        .story
        .block(&format!("{:<18}{:<40}{logins}", "sessions lost", usize::from(!same)));
    stage.story.fact(
        "noticed",
        format!("{gaps} times that it did not run, the freeze before included"),
    );
    stage.story.claim(
        format!(
            "a night with {} moments awake: 0 reconnects, the same session and epoch",
            SLEEPS - 1
        ),
        ours == 0 && same,
    );
    stage.story.claim(
        format!("in the morning the first ping took {:.1} ms", ping.as_secs_f64() * 1e3),
        ping < FIRST_PING,
    );
    stage.story.claim(
        format!("the naive client logged in {logins} times in the same night"),
        logins >= SLEEPS,
    );
    Ok(())
}

fn thaw(stage: &mut Stage) -> Result<()> {
    stage.client()?.thaw()?;
    stage.naive.as_ref().context("the naive client does not run")?.thaw()
}

/// Waits until the naive client has logged in again, and says how often it did meanwhile.
fn naive_logins(stage: &mut Stage) -> Result<usize> {
    let verdicts = stage
        .naive_verdicts
        .as_ref()
        .context("the naive gateway does not run")?;
    let mut logins = 0;
    wait_for("the naive client's login", SOON, || {
        let came = verdicts
            .try_iter()
            .filter(|event| matches!(event, Event::LoggedIn { .. }));
        logins += came.count();
        Ok((logins > 0).then_some(logins))
    })
}
