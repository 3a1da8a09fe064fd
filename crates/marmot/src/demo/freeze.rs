//! Act 3: the client process is frozen for longer than dead-peer detection, beside a naive one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::event::Event;
use super::frozen::{Seen, freeze_both, watch_frozen};
use super::kernel::Connection;
use super::naive::{self, MISSES};
use super::patience::{pause, wait_for};
use super::setup::{DPD, GIVE_UP_AFTER_S};
use super::signs;
use super::stage::Stage;
use super::world;

/// How long both clients are frozen: eight times dead-peer detection, so longer than any usual multiple of it.
const FREEZE: Duration = Duration::from_secs(8);

/// Probes that must have been sent and answered: one a second, but for the first and the last one.
const LEAST_PROBES: u64 = FREEZE.as_secs() - 2;

/// How long the thawed client is watched: a verdict about the silence would fall within dead-peer detection.
const WATCH: Duration = Duration::from_secs(3);

/// Time between two pings meanwhile.
const PING_EVERY: Duration = Duration::from_millis(200);

/// How long the first ping is tried, and how long the first try waits, the second one twice as long, and so on: a packet that
/// arrives while the client still throws away what is old may be lost.
pub(super) const FIRST_PING: Duration = Duration::from_secs(5);
const FIRST_TRY: Duration = Duration::from_millis(50);

/// How long starting and logging in may take.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// Plays it.
pub(crate) fn act(stage: &mut Stage) -> Result<()> {
    let (freeze, dpd) = (FREEZE.as_secs(), DPD.as_secs());
    stage
        .story
        .act(&format!("Frozen for {freeze} s; dead-peer detection is {dpd} s"));
    stage.story.say(&format!(
        "The naive client logs in to a naive gateway. Both beat every {dpd} s and give up after {MISSES} missed beats. Then \
         both clients get SIGSTOP: they do not run, as if their host slept, but its kernel does. Our gateway's kernel sends \
         keepalive probes, and would drop the connection after {GIVE_UP_AFTER_S} s without an answer."
    ));
    let listener = stage.naive_listener()?;
    let naive_address = listener
        .local_addr()
        .context("cannot ask for the naive gateway's address")?;
    stage.naive_verdicts = Some(naive::gateway(listener, DPD)?);
    stage.start_naive(naive_address, DPD)?;
    let first = wait_for_naive(stage, None)?;

    let mut through = stage.connect()?;
    if let Some(through) = &mut through {
        through.get("/", SOON, |_| {})?;
    }
    let before = Standing::of(stage)?;
    if !freeze_both(stage)? {
        stage
            .story
            .skip("the session survives a freeze", "this system cannot freeze a process");
        return Ok(());
    }
    let seen = watch_frozen(stage, FREEZE)?;

    let thawed = Instant::now();
    stage.client()?.thaw()?;
    let ping = first_ping(stage, thawed)?;
    stage.naive.as_ref().context("the naive client does not run")?.thaw()?;
    stage.story.say(&format!(
        "Thawed. The first ping was answered {:.1} ms later. Watching for {} s more, in case of a late verdict.",
        ping.as_secs_f64() * 1e3,
        WATCH.as_secs()
    ));
    let second = wait_for_naive(stage, Some(thawed))?;
    keep_using(stage)?;
    let after = Standing::of(stage)?;
    let ending = Ending {
        ping,
        still_serves: through.as_mut().map(|through| through.get("/", SOON, |_| {}).is_ok()),
        path_changed: stage.client()?.events().iter().any(signs::path_change),
        naive: (first, second),
    };
    compare(stage, &before, &after, &ending)?;
    claim(stage, &seen, (&before, &after), &ending);
    Ok(())
}

/// What our session and its connection are.
pub(super) struct Standing {
    pub(super) session: signs::Session,
    connections: Option<Vec<Connection>>,
}

impl Standing {
    pub(super) fn of(stage: &mut Stage) -> Result<Self> {
        let connections = stage.accepted()?;
        let session = signs::session(stage.gateway()?.events()).context("the gateway has no session")?;
        Ok(Self { session, connections })
    }

    /// The connection that the session has, as `client to gateway`.
    fn connection(&self) -> String {
        match self.connections.as_deref() {
            Some([one]) => format!("port {} to {}", one.peer.port(), one.local.port()),
            Some(several) => format!("{} of them", several.len()),
            None => "unknown here".to_owned(),
        }
    }

    /// Whether there is one connection, and the same kernel socket as `earlier`. `None` where the kernel does not tell.
    fn same_connection(&self, earlier: &Self) -> Option<bool> {
        let (Some(now), Some(then)) = (self.connections.as_deref(), earlier.connections.as_deref()) else {
            return None;
        };
        Some(match (now, then) {
            ([now], [then]) => now.inode == then.inode && now.peer == then.peer,
            _ => false,
        })
    }
}

/// Pings until an answer comes; the time is that since the thaw.
pub(super) fn first_ping(stage: &mut Stage, thawed: Instant) -> Result<Duration> {
    let mut tries = 0;
    wait_for("the first ping after the thaw", FIRST_PING, || {
        tries += 1;
        let answered = stage.ping(world::HOST.into(), FIRST_TRY * tries);
        Ok(answered.ok().map(|_| thawed.elapsed()))
    })
}

/// Uses the tunnel for a while.
fn keep_using(stage: &mut Stage) -> Result<()> {
    let until = Instant::now() + WATCH;
    while Instant::now() < until {
        stage.ping(world::HOST.into(), FIRST_PING)?;
        pause(PING_EVERY)?;
    }
    Ok(())
}

/// Waits for the naive client to have a session, and says which.
fn wait_for_naive(stage: &mut Stage, since: Option<Instant>) -> Result<u64> {
    let naive = stage.naive.as_mut().context("the naive client does not run")?;
    let session = |event: &Event| event.number("naive_session");
    naive.wait_for("the naive client's login", since, SOON, session)
}

/// What became of both.
struct Ending {
    ping: Duration,
    /// A connection through the tunnel that was opened before; `None` where there is none.
    still_serves: Option<bool>,
    /// Our client says that it lost or replaced its connection.
    path_changed: bool,
    /// Sessions of the naive client, before and after.
    naive: (u64, u64),
}

fn compare(stage: &mut Stage, before: &Standing, after: &Standing, ending: &Ending) -> Result<()> {
    let change = |then: String, now: String| {
        if then == now {
            format!("{now} (the same)")
        } else {
            format!("{then} -> {now}")
        }
    };
    let (then, now) = (&before.session, &after.session);
    let (first, second) = ending.naive;
    let noticed = stage.client()?.events().iter().filter_map(signs::clock_gap).next_back();
    let rows = [
        ("", "marmot".to_owned(), "naive heartbeats".to_owned()),
        (
            "session",
            change(then.short_id(), now.short_id()),
            change(first.to_string(), second.to_string()),
        ),
        (
            "epoch",
            change(then.epoch.to_string(), now.epoch.to_string()),
            String::new(),
        ),
        (
            "tcp connection",
            change(before.connection(), after.connection()),
            "a new one".to_owned(),
        ),
        (
            "reconnects",
            reconnects(before, after).to_string(),
            second.saturating_sub(first).to_string(),
        ),
        (
            "noticed",
            noticed.map_or_else(String::new, |gap| format!("did not run for {gap:.1} s")),
            String::new(),
        ),
    ];
    for (name, ours, naive) in rows {
        stage.story.block(format!("{name:<18}{ours:<40}{naive}").trim_end());
    }
    Ok(())
}

pub(super) fn reconnects(before: &Standing, after: &Standing) -> usize {
    after.session.connections.saturating_sub(before.session.connections)
}

fn claim(stage: &mut Stage, seen: &Seen, (before, after): (&Standing, &Standing), ending: &Ending) {
    let story = &mut stage.story;
    if seen.stopped.is_some() {
        let text = format!(
            "the client process was stopped in all {} looks within {} s",
            seen.samples,
            FREEZE.as_secs()
        );
        story.claim(text, seen.is(seen.stopped));
    }
    let quiet = seen.is(seen.open) && seen.unanswered.0 == 0 && seen.unanswered.1 <= 1;
    match (seen.open, seen.probes) {
        (None, _) => story.skip("its kernel answered keepalive probes", "this system does not tell"),
        (Some(_), Some((_, sent))) => story.claim(
            format!("its kernel answered all {sent} keepalive probes; the connection stayed open"),
            quiet && sent >= LEAST_PROBES,
        ),
        (Some(_), None) => story.claim(
            "its kernel left no keepalive probe unanswered; the connection stayed open",
            quiet,
        ),
    }
    let same = before.session.id == after.session.id && before.session.epoch == after.session.epoch;
    story.claim(
        format!(
            "same session {}, same epoch {}",
            after.session.short_id(),
            after.session.epoch
        ),
        same,
    );
    match after.same_connection(before) {
        Some(same) => story.claim("same TCP connection: ports and kernel socket", same),
        None => story.skip("same TCP connection", "this system does not list them"),
    }
    let ping = ending.ping.as_secs_f64() * 1e3;
    story.claim(
        format!("first ping {ping:.1} ms after the thaw"),
        ending.ping < FIRST_PING,
    );
    if let Some(still_serves) = ending.still_serves {
        story.claim(
            "a connection through the tunnel, opened before the freeze, still serves",
            still_serves,
        );
    }
    let reconnects = reconnects(before, after);
    let text = format!(
        "reconnects: {reconnects}, also {} s later; client and gateway agree",
        WATCH.as_secs()
    );
    story.claim(text, reconnects == 0 && !ending.path_changed);
    let (first, second) = ending.naive;
    let naive_lost = first != second && seen.naive_lost.is_some();
    story.claim("the naive client lost its session and had to log in again", naive_lost);
}
