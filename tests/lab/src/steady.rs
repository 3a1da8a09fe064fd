//! A flow in which every lost packet counts: echo requests one after the other, each with time for its answer, none sent twice.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use platform::netns::Namespace;

use crate::{Ping, ms};

/// How long an answer may take before its request or it is lost.
const ANSWER: Duration = Duration::from_secs(1);

/// Between two requests. A thousand a second see a gap of a few milliseconds and leave the processors to the programs.
const PACE: Duration = Duration::from_millis(1);

/// A flow that runs until it is asked how it went.
#[derive(Debug)]
pub struct Steady {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Tally>>>,
}

/// How it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests.
    pub sent: u64,
    /// Those that were never answered.
    pub lost: u64,
    /// The longest round trip.
    pub longest: Duration,
    /// The longest time between two answers; of a [`Pulse`](crate::Pulse) only.
    pub silence: Duration,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            sent,
            lost,
            longest,
            silence,
        } = self;
        let (longest, silence) = (ms(*longest), ms(*silence));
        write!(
            f,
            "{lost} of {sent} lost, longest round trip {longest} ms, longest silence {silence} ms"
        )
    }
}

impl Steady {
    /// Starts it from a host to an address that answers.
    ///
    /// # Errors
    /// If the namespace cannot be held.
    pub fn start(from: &Namespace, to: impl Into<IpAddr>) -> Result<Self> {
        let (from, to) = (from.try_clone().context("cannot hold a namespace")?, to.into());
        let over = Arc::new(AtomicBool::new(false));
        let bell = Arc::clone(&over);
        let run = move || {
            let mut tally = Tally::default();
            let mut series = Ping::new(&from, to).series()?;
            while !bell.load(Ordering::Relaxed) {
                tally.sent += 1;
                match series.once(ANSWER)? {
                    Some(time) => tally.longest = tally.longest.max(time),
                    None => tally.lost += 1,
                }
                thread::park_timeout(PACE);
            }
            Ok(tally)
        };
        let thread = thread::Builder::new().name("steady".into()).spawn(run);
        Ok(Self {
            over,
            thread: Some(thread.context("cannot start a thread")?),
        })
    }

    /// Ends it, and says how it went.
    ///
    /// # Errors
    /// If it could not go on.
    pub fn end(mut self) -> Result<Tally> {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it ends once")?;
        thread.join().map_err(|_| anyhow!("the steady flow panicked"))?
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
