//! Watching two frozen processes from outside: the gateway's kernel is asked, and the naive gateway gives its verdict.

use std::io;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::naive;
use super::patience::pause;
use super::stage::Stage;

/// How often we look.
const SAMPLE: Duration = Duration::from_millis(100);

/// What was seen during the freeze.
#[derive(Default)]
pub(crate) struct Seen {
    /// Looks.
    pub(crate) samples: u32,
    /// Samples in which the process was stopped; `None` where the kernel does not tell.
    pub(crate) stopped: Option<u32>,
    /// Samples in which the connection was open; `None` where the kernel does not tell.
    pub(crate) open: Option<u32>,
    /// Probes that the gateway's kernel had sent before, and sent since.
    pub(crate) probes: Option<(u64, u64)>,
    /// Probes without an answer, now and at most; 1 while one is on its way.
    pub(crate) unanswered: (u32, u32),
    /// The naive gateway dropped its client.
    pub(crate) naive_lost: Option<String>,
}

impl Seen {
    fn sample(&mut self, stage: &mut Stage) -> Result<()> {
        self.samples += 1;
        if let Some(stopped) = stage.client()?.is_frozen() {
            *self.stopped.get_or_insert(0) += u32::from(stopped);
        }
        if let Some(connections) = stage.accepted()? {
            let open = self.open.get_or_insert(0);
            if let Some(connection) = connections.first() {
                *open += 1;
                let now = connection.unanswered_probes;
                self.unanswered = (now, self.unanswered.1.max(now));
            }
        }
        if let Some(now) = stage.probes_sent()? {
            let (before, _) = *self.probes.get_or_insert((now, 0));
            self.probes = Some((before, now - before));
        }
        Ok(())
    }

    /// Whether a count is that of all looks.
    pub(crate) fn is(&self, count: Option<u32>) -> bool {
        count == Some(self.samples)
    }

    fn line(&self, second: u64) -> String {
        let ours = match (self.open, self.probes) {
            (None, _) => "the kernel does not tell here".to_owned(),
            (Some(_), _) if !self.is(self.open) => "connection LOST".to_owned(),
            (Some(_), Some((_, sent))) => format!("open, probes sent {sent}, unanswered {}", self.unanswered.0),
            (Some(_), None) => format!("open, probes unanswered {}", self.unanswered.0),
        };
        let naive = self.naive_lost.as_deref().unwrap_or("waiting for a beat");
        format!("{second:2} s   marmot: {ours:<36} naive: {naive}")
    }
}

/// Stops both clients. `false` if this system cannot.
pub(crate) fn freeze_both(stage: &mut Stage) -> Result<bool> {
    let naive = stage.naive.as_ref().context("the naive client does not run")?;
    let naive_pid = naive.pid();
    let unsupported = |error: &anyhow::Error| {
        let error = error.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::Unsupported)
    };
    match naive.freeze() {
        Err(error) if unsupported(&error) => return Ok(false),
        frozen => frozen?,
    }
    let client = stage.client()?;
    client.freeze()?;
    let pid = client.pid();
    stage
        .story
        .say(&format!("Frozen: processes {pid} (marmot) and {naive_pid} (naive)."));
    Ok(true)
}

/// Watches for `time`, and tells each second what there is to see.
pub(crate) fn watch_frozen(stage: &mut Stage, time: Duration) -> Result<Seen> {
    let frozen_at = Instant::now();
    let mut seen = Seen::default();
    let mut second = 0;
    while frozen_at.elapsed() < time {
        pause(SAMPLE)?;
        seen.sample(stage)?;
        for event in stage.naive_verdicts.iter().flat_map(Receiver::try_iter) {
            if let naive::Event::Lost { end, .. } = event {
                seen.naive_lost = Some(format!("DROPPED, {end}"));
            }
        }
        if frozen_at.elapsed().as_secs() > second {
            second = frozen_at.elapsed().as_secs();
            stage.story.block(&seen.line(second));
        }
    }
    Ok(seen)
}
