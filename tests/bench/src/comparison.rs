//! Measurements that compare: two ways of doing the same, taking turns in one run, so that what else the machine does
//! strikes both. The result is a ratio; absolute times are only printed.

use std::time::{Duration, Instant};

/// Turns of each. An odd number, so that there is a median.
const TURNS: usize = 41;

/// Calls in one turn: some milliseconds of work.
const CALLS: u32 = 5000;

/// The median time of one call of each.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Of what is measured.
    pub ours: Duration,
    /// Of what it is measured against.
    pub bare: Duration,
}

impl Comparison {
    /// Lets both take turns. The first turn of each only warms up.
    pub fn measure(mut ours: impl FnMut(), mut bare: impl FnMut()) -> Self {
        turn(&mut ours);
        turn(&mut bare);
        let mut times: Vec<_> = (0..TURNS).map(|_| (turn(&mut ours), turn(&mut bare))).collect();
        times.sort_by_key(|(ours, _)| *ours);
        let ours = times[TURNS / 2].0;
        times.sort_by_key(|(_, bare)| *bare);
        Self {
            ours: ours / CALLS,
            bare: times[TURNS / 2].1 / CALLS,
        }
    }

    /// How many times as long ours takes.
    pub fn ratio(&self) -> f64 {
        self.ours.as_secs_f64() / self.bare.as_secs_f64()
    }
}

fn turn(work: &mut impl FnMut()) -> Duration {
    let began = Instant::now();
    for _ in 0..CALLS {
        work();
    }
    began.elapsed()
}
