//! Two million random schedules, and every one that ever failed: no promise is broken.

use sim::run::{explore, replay, run};

/// Enough to have found every planted fault many times over, and little more than a minute on two processors.
const SCHEDULES: u64 = 2_000_000;

#[test]
fn no_promise_is_broken_in_two_million_schedules() {
    if let Ok(seed) = std::env::var("MARMOT_SIM_SEED") {
        let seed = seed.parse().expect("MARMOT_SIM_SEED is a number");
        let (broken, trace) = replay(seed);
        trace.iter().for_each(|line| println!("{line}"));
        assert_eq!(broken, None);
        return;
    }
    let count = std::env::var("MARMOT_SIM_SCHEDULES").map_or(SCHEDULES, |count| count.parse().expect("a number"));
    let exploration = explore(0, count);
    println!("{}", exploration.census);
    let schedules = exploration.census.schedules;
    let seconds = exploration.took.as_secs_f64();
    println!(
        "{schedules} schedules in {seconds:.1} s, {:.0} a second",
        schedules as f64 / seconds
    );
    if let Some(failure) = exploration.failure {
        panic!("add the seed to tests/sim/seeds.txt\n{failure}");
    }
}

#[test]
fn no_seed_that_ever_failed_fails_again() {
    for line in include_str!("../seeds.txt").lines() {
        let seed = line.split_whitespace().next().unwrap_or_default();
        if !seed.is_empty() && !seed.starts_with('#') {
            let seed = seed.parse().expect("a line begins with a seed");
            assert_eq!(run(seed, None).0, None, "seed {seed}");
        }
    }
}
