//! A flow that does not wait: an echo request every 10 ms whatever becomes of those before, as `ping -i 0.01` sends them.
//!
//! ```text
//!   request  1 2 3 4 5 6 7 8 9     every 10 ms, or as often as wanted
//!   answer   1 2 - - - - 7 8 9     4 lost; silence: from the answer 2 to the answer 7
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use platform::netns::Namespace;

use crate::{PATIENCE, Ping, Tally, until};

/// Between two requests, unless told otherwise.
const INTERVAL: Duration = Duration::from_millis(10);

/// How long an answer may take when it ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A flow that runs until it is asked how it went.
#[derive(Debug)]
pub struct Pulse {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    heard: Arc<Mutex<Vec<Instant>>>,
    thread: Option<JoinHandle<Result<Tally>>>,
}

/// Answers whose times are kept: a hundred seconds of them. Those that come later are counted alone.
const KEPT: usize = 10_000;

impl Pulse {
    /// Starts it from a host to an address that answers.
    ///
    /// # Errors
    /// If the namespace cannot be held.
    pub fn start(from: &Namespace, to: impl Into<IpAddr>) -> Result<Self> {
        Self::every(INTERVAL, from, to)
    }

    /// The same with another time between two requests.
    ///
    /// # Errors
    /// As [`Pulse::start`].
    pub fn every(interval: Duration, from: &Namespace, to: impl Into<IpAddr>) -> Result<Self> {
        let (from, to) = (from.try_clone().context("cannot hold a namespace")?, to.into());
        let over = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (bell, count, times) = (Arc::clone(&over), Arc::clone(&answered), Arc::clone(&heard));
        let told = move || {
            count.fetch_add(1, Ordering::Relaxed);
            let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
            if times.len() < KEPT {
                times.push(Instant::now());
            }
        };
        let thread = thread::Builder::new()
            .name("pulse".into())
            .spawn(move || beat(interval, &from, to, &bell, &told));
        Ok(Self {
            over,
            answered,
            heard,
            thread: Some(thread.context("cannot start a thread")?),
        })
    }

    /// How many requests have been answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// The longest time without an answer since `since`: none counts from before.
    pub fn outage_since(&self, since: Instant) -> Duration {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let later = heard.iter().copied().filter(|at| *at > since).chain([Instant::now()]);
        let (_, longest) = later.fold((since, Duration::ZERO), |(before, longest), at| {
            (at, longest.max(at - before))
        });
        longest
    }

    /// Waits until this many more requests have been answered.
    ///
    /// # Errors
    /// If they are not.
    pub fn wait_answered(&self, more: u64) -> Result<()> {
        let enough = self.answered() + more;
        until("answers", PATIENCE, || Ok(self.answered() >= enough))
    }

    /// Ends it, and says how it went.
    ///
    /// # Errors
    /// If it could not go on.
    pub fn end(mut self) -> Result<Tally> {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it ends once")?;
        thread.join().map_err(|_| anyhow!("the pulse panicked"))?
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn beat(interval: Duration, from: &Namespace, to: IpAddr, over: &AtomicBool, told: &dyn Fn()) -> Result<Tally> {
    let mut series = Ping::new(from, to).series()?;
    let mut tally = Tally::default();
    let mut open: BTreeMap<u16, Instant> = BTreeMap::new();
    let mut next = Instant::now();
    let mut heard = None;
    loop {
        let now = Instant::now();
        let wait = if !over.load(Ordering::Relaxed) {
            if now >= next {
                open.insert(series.send(), now);
                tally.sent += 1;
                // One that comes late is not made up for by two at once.
                next = now + interval;
            }
            next - now
        } else {
            let youngest = open.values().max();
            match youngest.and_then(|sent| (*sent + LAST_ANSWERS).checked_duration_since(now)) {
                Some(wait) => wait,
                None => break,
            }
        };
        if let Some(sent) = series.answer(wait)?.and_then(|number| open.remove(&number)) {
            told();
            tally.longest = tally.longest.max(sent.elapsed());
            let now = Instant::now();
            if let Some(before) = heard.replace(now) {
                tally.silence = tally.silence.max(now - before);
            }
        }
    }
    tally.lost = open.len() as u64;
    Ok(tally)
}
