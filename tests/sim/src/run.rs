//! Running schedules: one, or millions on several threads; and the shortest form of one that fails.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::broken::Broken;
use crate::census::{Census, Counts};
use crate::chance::Chance;
use crate::planted::Planted;
use crate::world::World;

/// Seeds that a thread takes at a time.
const BATCH: u64 = 256;

/// A schedule that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// From which all of it follows.
    pub seed: u64,
    /// Steps with faults, after cutting off what was not needed.
    pub limit: u32,
    /// What was broken.
    pub broken: Broken,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {} ({} steps with faults): {}",
            self.seed, self.limit, self.broken
        )?;
        for line in trace(self.seed, self.limit, None).1 {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

/// How many steps with faults a seed's schedule has: some 35 on average, now and then up to 120. The calm end takes about
/// as many again.
fn steps_of(seed: u64) -> u32 {
    let chance = Chance::new(!seed);
    let most = chance.pick(&[30, 40, 60, 120]);
    u32::try_from(chance.between(8, most)).unwrap_or(40)
}

/// One schedule.
pub fn run(seed: u64, planted: Option<Planted>) -> (Option<Broken>, Counts) {
    let world = World::new(seed, steps_of(seed), planted, false);
    world.run();
    let (broken, counts, _) = world.dissolve();
    (broken, counts)
}

/// One schedule, told.
pub fn trace(seed: u64, limit: u32, planted: Option<Planted>) -> (Option<Broken>, Vec<String>) {
    let world = World::new(seed, limit, planted, true);
    world.run();
    let (broken, _, trace) = world.dissolve();
    (broken, trace)
}

/// The trace of a seed as it is.
pub fn replay(seed: u64) -> (Option<Broken>, Vec<String>) {
    trace(seed, steps_of(seed), None)
}

/// The failure of a seed with as few steps as break the same promise.
pub fn shortest(seed: u64, planted: Option<Planted>) -> Option<Failure> {
    let all = steps_of(seed);
    let whole = trace(seed, all, planted).0?;
    let shorter = (0..all).find_map(|limit| {
        let broken = trace(seed, limit, planted).0?;
        (broken.promise == whole.promise).then_some((limit, broken))
    });
    let (limit, broken) = shorter.unwrap_or((all, whole));
    Some(Failure { seed, limit, broken })
}

/// What a run of many schedules found.
#[derive(Debug)]
pub struct Exploration {
    /// What happened in them.
    pub census: Census,
    /// The first failure, shortened.
    pub failure: Option<Failure>,
    /// How long it took.
    pub took: Duration,
}

/// Runs the schedules of `count` seeds from `first` on all processors, until one fails.
pub fn explore(first: u64, count: u64) -> Exploration {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let work = || {
        let mut census = Census::default();
        let mut failing = None;
        while failing.is_none() && !failed.load(Ordering::Relaxed) {
            let from = next.fetch_add(BATCH, Ordering::Relaxed);
            if from >= count {
                break;
            }
            for seed in from..(from + BATCH).min(count) {
                let (broken, counts) = run(first + seed, None);
                census.add(&counts);
                if broken.is_some() {
                    failed.store(true, Ordering::Relaxed);
                    failing = Some(first + seed);
                    break;
                }
            }
        }
        (census, failing)
    };
    let results: Vec<(Census, Option<u64>)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    });
    let mut census = Census::default();
    results.iter().for_each(|(other, _)| census.merge(other));
    let failing = results.iter().filter_map(|(_, failing)| *failing).min();
    Exploration {
        census,
        failure: failing.and_then(|seed| shortest(seed, None)),
        took: began.elapsed(),
    }
}

/// The first of `most` schedules that finds a planted fault: how many were needed, and what was broken.
pub fn find(planted: Planted, most: u64) -> Option<(u64, Broken)> {
    (0..most).find_map(|seed| run(seed, Some(planted)).0.map(|broken| (seed + 1, broken)))
}
