//! Round trips: in quiet, under load, and the first one after a start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use lab::{PATIENCE, Ping, Times};

use crate::rig::Rig;

/// Between two requests.
const PACE: Duration = Duration::from_millis(10);

/// Between two requests while nothing has been answered yet: as exact as the start is measured.
const KNOCK: Duration = Duration::from_millis(1);

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(1);

/// Requests in quiet.
const QUIET: usize = 100;

/// The median of round trips without other traffic.
pub(crate) fn quiet(rig: &Rig<'_>) -> Result<Duration> {
    let mut series = Ping::new(rig.lab.client(), rig.target()).series()?;
    let mut times = Times::default();
    for _ in 0..QUIET {
        if let Some(time) = series.once(ANSWER)? {
            times.push(time);
            thread::park_timeout(PACE.saturating_sub(time));
        }
    }
    Ok(times.median())
}

/// Round trips beside whatever else happens, until they are asked for.
pub(crate) struct Beside {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Result<Times>>,
}

impl Beside {
    pub(crate) fn start(rig: &Rig<'_>) -> Result<Self> {
        let (host, target) = (rig.lab.client().try_clone()?, rig.target());
        let over = Arc::new(AtomicBool::new(false));
        let bell = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut series = Ping::new(&host, target).series()?;
            let mut times = Times::default();
            while !bell.load(Ordering::Relaxed) {
                let time = series.once(ANSWER)?.unwrap_or(ANSWER);
                times.push(time);
                thread::park_timeout(PACE.saturating_sub(time));
            }
            Ok(times)
        });
        Ok(Self { over, thread })
    }

    pub(crate) fn median(self) -> Result<Duration> {
        self.over.store(true, Ordering::Relaxed);
        let times = self
            .thread
            .join()
            .map_err(|_| anyhow!("the thread that sends requests died"))?;
        Ok(times?.median())
    }
}

/// Asks again and again from before a start.
pub(crate) struct First {
    thread: JoinHandle<Result<Instant>>,
}

impl First {
    pub(crate) fn awaited(rig: &Rig<'_>) -> Result<Self> {
        let (host, target) = (rig.lab.client().try_clone()?, rig.target());
        let thread = thread::spawn(move || {
            let mut series = Ping::new(&host, target).series()?;
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline {
                series.send();
                if series.answer(KNOCK)?.is_some() {
                    return Ok(Instant::now());
                }
            }
            Err(anyhow!("nothing was answered within {PATIENCE:?}"))
        });
        Ok(Self { thread })
    }

    /// How long it took from `began` to the first answer.
    pub(crate) fn since(self, began: Instant) -> Result<Duration> {
        let at = self
            .thread
            .join()
            .map_err(|_| anyhow!("the thread that sends requests died"))?;
        at.map(|at| at.saturating_duration_since(began))
            .context("after the start")
    }
}
