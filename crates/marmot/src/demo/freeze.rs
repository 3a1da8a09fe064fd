//! Act 3: the client process is frozen for longer than dead-peer detection, beside a naive one.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::event::Event;
use super::kernel::{Connection, Timer};
use super::naive::{self, MISSES};
use super::patience::{pause, wait_for};
use super::setup::{DPD, GIVE_UP_AFTER_S};
use super::signs;
use super::stage::Stage;
use super::world;

/// How long both clients are frozen: four times dead-peer detection, so longer than any usual multiple of it.
const FREEZE: Duration = Duration::from_secs(8);

/// How often the gateway's kernel is asked meanwhile.
const SAMPLE: Duration = Duration::from_millis(100);

/// How long the thawed client is watched: a verdict about the silence would fall within dead-peer detection.
const WATCH: Duration = Duration::from_secs(3);

/// How long the first ping may be tried again, and how long one answer may take.
const FIRST_PING: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_millis(500);

/// How long starting and logging in may take.
const SOON: Duration = Duration::from_secs(10);

/// The kernel re-arms the keepalive timer after an answered probe; in hundredths of a second, anything that is no jitter.
const REARMED: u64 = 20;

/// Plays it.
pub(crate) fn act(stage: &mut Stage) -> Result<()> {
    let (freeze, dpd) = (FREEZE.as_secs(), DPD.as_secs());
    stage
        .story
        .act(&format!("Frozen for {freeze} s; dead-peer detection is {dpd} s"));
    stage.story.say(&format!(
        "The naive client logs in to a naive gateway. Both beat every {dpd} s and give up after {MISSES} missed beats. Then \
         both clients get SIGSTOP: they do not run, as if their host slept, but their kernel does. Ours gets kernel \
         keepalive from its gateway, which would drop the connection after {GIVE_UP_AFTER_S} s without an answer."
    ));
    let listener = stage.naive_listener()?;
    let naive_address = listener
        .local_addr()
        .context("cannot ask for the naive gateway's address")?;
    let verdicts = naive::gateway(listener, DPD)?;
    stage.start_naive(naive_address, DPD)?;
    let first = wait_for_naive(stage, None)?;

    let mut through = stage.connect()?;
    if let Some(through) = &mut through {
        through.get("/", SOON, |_| {})?;
    }
    let before = Standing::of(stage)?;

    let seen = freeze_both(stage, &verdicts)?;
    let thawed = Instant::now();
    stage.client()?.thaw()?;
    let ping = first_ping(stage, thawed)?;
    stage.naive.as_ref().context("the naive client does not run")?.thaw()?;
    stage.story.say(&format!(
        "Thawed. The first ping was answered after {:.1} ms. Watching for {} s more, in case of a late verdict.",
        ping.as_secs_f64() * 1e3,
        WATCH.as_secs()
    ));
    let second = wait_for_naive(stage, Some(thawed))?;
    keep_using(stage)?;
    let still_open = through.as_mut().map(|through| through.get("/", SOON, |_| {}).is_ok());
    let after = Standing::of(stage)?;

    compare(stage, &before, &after, first, second);
    claims(stage, &seen, (&before, &after), ping, still_open, first != second);
    Ok(())
}

/// What our session and its connection are.
struct Standing {
    session: signs::Session,
    connections: Option<Vec<Connection>>,
}

impl Standing {
    fn of(stage: &mut Stage) -> Result<Self> {
        let connections = stage.accepted()?;
        let session = signs::session(stage.gateway()?.events()).context("the gateway has no session")?;
        Ok(Self { session, connections })
    }

    /// The connection that the session has, as `client -> gateway`.
    fn connection(&self) -> String {
        match self.connections.as_deref() {
            Some([one]) => format!("port {} -> {}", one.peer.port(), one.local.port()),
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

/// What was seen during the freeze.
#[derive(Default)]
struct Seen {
    samples: u32,
    /// Samples in which the connection was open.
    open: u32,
    answered: u32,
    /// The most probes that were unanswered at once; 1 while one is on its way.
    unanswered: u32,
    last: Option<Connection>,
    /// The naive gateway dropped its client.
    naive_lost: Option<String>,
}

impl Seen {
    fn sample(&mut self, connections: Option<Vec<Connection>>) {
        let Some(connections) = connections else { return };
        self.samples += 1;
        let Some(now) = connections.into_iter().next() else {
            return;
        };
        self.open += 1;
        self.unanswered = self.unanswered.max(now.unanswered_probes);
        let timer = |connection: &Connection| match connection.timer {
            Some((Timer::Keepalive, when)) => Some(when),
            Some((Timer::Other, _)) | None => None,
        };
        let earlier = self.last.as_ref().and_then(timer);
        if let (Some(earlier), Some(later)) = (earlier, timer(&now))
            && later > earlier + REARMED
        {
            self.answered += 1;
        }
        self.last = Some(now);
    }

    fn line(&self, second: u64) -> String {
        let ours = match &self.last {
            None => "the kernel does not tell here".to_owned(),
            Some(_) if self.open < self.samples => "connection LOST".to_owned(),
            Some(last) => {
                let plural = if self.answered == 1 { "" } else { "s" };
                format!(
                    "open, its kernel answered {} probe{plural} ({} open)",
                    self.answered, last.unanswered_probes
                )
            }
        };
        let naive = self.naive_lost.as_deref().unwrap_or("waiting for a beat");
        format!("{second:2} s  marmot: {ours:<49} naive: {naive}")
    }
}

/// Freezes both clients and watches from outside until the time is over.
fn freeze_both(stage: &mut Stage, verdicts: &Receiver<naive::Event>) -> Result<Seen> {
    let naive = stage.naive.as_ref().context("the naive client does not run")?;
    naive.freeze()?;
    let naive_pid = naive.pid();
    let client = stage.client()?;
    client.freeze()?;
    let client_pid = client.pid();
    let frozen_at = Instant::now();
    stage.story.say(&format!(
        "Frozen: processes {client_pid} (marmot) and {naive_pid} (naive)."
    ));

    let mut seen = Seen::default();
    let mut second = 0;
    while frozen_at.elapsed() < FREEZE {
        pause(SAMPLE)?;
        seen.sample(stage.accepted()?);
        for event in verdicts.try_iter() {
            if let naive::Event::Lost { end, .. } = event {
                seen.naive_lost = Some(format!("DROPPED ({end})"));
            }
        }
        if frozen_at.elapsed().as_secs() > second {
            second = frozen_at.elapsed().as_secs();
            stage.story.block(&seen.line(second));
        }
    }
    let frozen = stage.client()?.is_frozen();
    if let Some(frozen) = frozen {
        stage.story.claim(
            format!("the client process was stopped all that time, {} s", FREEZE.as_secs()),
            frozen,
        );
    }
    Ok(seen)
}

/// Pings until an answer comes; the time is that since the thaw.
fn first_ping(stage: &mut Stage, thawed: Instant) -> Result<Duration> {
    wait_for("the first ping after the thaw", FIRST_PING, || {
        Ok(stage.ping(world::HOST.into(), ANSWER).ok().map(|_| thawed.elapsed()))
    })
}

/// Uses the tunnel for a while.
fn keep_using(stage: &mut Stage) -> Result<()> {
    let until = Instant::now() + WATCH;
    while Instant::now() < until {
        stage.ping(world::HOST.into(), FIRST_PING)?;
        pause(SAMPLE * 2)?;
    }
    Ok(())
}

/// Waits for the naive client to have a session, and says which.
fn wait_for_naive(stage: &mut Stage, since: Option<Instant>) -> Result<u64> {
    let naive = stage.naive.as_mut().context("the naive client does not run")?;
    let session = |event: &Event| event.number("naive_session");
    naive.wait_for("the naive client's login", since, SOON, session)
}

fn compare(stage: &mut Stage, before: &Standing, after: &Standing, first: u64, second: u64) {
    let row = |name: &str, ours: String, naive: String| format!("{name:<18}{ours:<48}{naive}");
    let (ours, now) = (&before.session, &after.session);
    let reconnects = now.connections.saturating_sub(ours.connections);
    let arrow = |then: String, now: String| {
        if then == now {
            format!("{now} (the same)")
        } else {
            format!("{then} -> {now}")
        }
    };
    let rows = [
        row("", "marmot".to_owned(), "naive heartbeats".to_owned()),
        row(
            "session",
            arrow(ours.short_id(), now.short_id()),
            arrow(first.to_string(), second.to_string()),
        ),
        row(
            "epoch",
            arrow(ours.epoch.to_string(), now.epoch.to_string()),
            "-".to_owned(),
        ),
        row(
            "tcp connection",
            arrow(before.connection(), after.connection()),
            "a new one".to_owned(),
        ),
        row(
            "reconnects",
            reconnects.to_string(),
            second.saturating_sub(first).to_string(),
        ),
    ];
    stage.story.block(&rows.join("\n"));
}

fn claims(
    stage: &mut Stage,
    seen: &Seen,
    (before, after): (&Standing, &Standing),
    ping: Duration,
    still_open: Option<bool>,
    naive_is_new: bool,
) {
    let story = &mut stage.story;
    if seen.samples > 0 {
        story.claim(
            format!(
                "its kernel answered {} keepalive probes meanwhile; the connection stayed open",
                seen.answered
            ),
            seen.open == seen.samples && seen.unanswered <= 1 && seen.answered >= 3,
        );
    } else {
        story.skip(
            "the kernel of the frozen client answered keepalive",
            "this system does not tell",
        );
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
    story.claim(
        format!("first ping {:.1} ms after the thaw", ping.as_secs_f64() * 1e3),
        ping < FIRST_PING,
    );
    if let Some(still_open) = still_open {
        story.claim(
            "a connection through the tunnel, opened before the freeze, still serves",
            still_open,
        );
    }
    let reconnects = after.session.connections.saturating_sub(before.session.connections);
    story.claim(
        format!("{reconnects} reconnects, also {} s later", WATCH.as_secs()),
        reconnects == 0,
    );
    story.claim(
        "the naive client lost its session and had to log in again",
        naive_is_new && seen.naive_lost.is_some(),
    );
}
