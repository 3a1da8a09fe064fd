//! Act 5: the client's tunnel goes down with a long job owed, comes up again at once, and the job ends behind it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::patience::{pause, wait_for};
use super::setup;
use super::signs;
use super::stage::{Order, Stage};
use super::world;

/// How long a stop and a start may take. The design allows 250 ms for a stop; a loaded machine may be slower.
const STOP: Duration = Duration::from_secs(1);
const START: Duration = Duration::from_secs(15);

/// How long the new session is used while the job goes on, and the time between two pings.
const WORK: Duration = Duration::from_secs(2);
const PING_EVERY: Duration = Duration::from_millis(100);

/// How long the job may take to begin, and to end once it may.
const JOB: Duration = Duration::from_secs(10);

/// How long the first ping may take.
const PING: Duration = Duration::from_secs(5);

/// Plays it.
pub(crate) fn act(stage: &mut Stage) -> Result<()> {
    stage.story.act("Down with work owed, and up again at once");
    stage.story.say(
        "The administrator wants a program to run after each session, and here it takes as long as we want: it waits for \
         a file. The stop does not wait for it, nor does the next start.",
    );
    let down = Instant::now();
    stage.order(Order::Down)?;
    let stop = stage
        .client()?
        .wait_for("the stop to be acknowledged", Some(down), START, signs::stop)?;
    let stopped = stop.at.duration_since(down);
    let up = Instant::now();
    stage.order(Order::Up)?;
    stage
        .client()?
        .wait_for("the tunnel to be up again", Some(up), START, signs::up)?;
    let started = up.elapsed();
    let first_ping = wait_for("a packet through the new tunnel", PING, || {
        Ok(stage.ping(world::HOST.into(), PING).ok().map(|_| up.elapsed()))
    })?;
    let hook = setup::LongHook::of(stage.folder());
    wait_for("the job to begin", JOB, || Ok(hook.has_begun().then_some(())))?;
    let until = Instant::now() + WORK;
    let mut pings: u32 = 0;
    while Instant::now() < until {
        stage.ping(world::HOST.into(), PING)?;
        pings += 1;
        pause(PING_EVERY)?;
    }
    let waits = !hook.has_ended();
    let job = stop.job.clone().unwrap_or_default();
    stage.story.fact(
        "job",
        format!("{job}, written to disk before the stop was acknowledged"),
    );
    stage.story.claim(
        format!("the stop was acknowledged after {}, with the job recorded", ms(stopped)),
        stopped < STOP && stop.owed == "recorded" && !job.is_empty(),
    );
    stage.story.claim(
        format!(
            "up again after {}, a ping through it after {}; {pings} more while the job goes on",
            ms(started),
            ms(first_ping)
        ),
        waits,
    );

    let session = session(stage)?;
    let opened = Instant::now();
    hook.let_go()?;
    let tries = stage
        .client()?
        .wait_for("the end of the job", Some(opened), JOB, |event| {
            signs::job_done(event, &job)
        })?;
    stage.ping(world::HOST.into(), PING)?;
    let lost = stage
        .client()?
        .events()
        .iter()
        .any(|event| event.at >= up && signs::path_change(event));
    stage.story.claim(
        format!(
            "the job ended {} s after its session, at try {tries}",
            tenths(down.elapsed())
        ),
        hook.has_ended(),
    );
    let same = self::session(stage)? == session;
    stage
        .story
        .claim("the new session noticed nothing of it", same && !lost);
    Ok(())
}

fn session(stage: &mut Stage) -> Result<signs::Session> {
    signs::session(stage.gateway()?.events()).context("the gateway has no session")
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn tenths(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}
