//! Two million random schedules, and every one that ever failed: no promise is broken.
//!
//! `MARMOT_SIM_SEED=n` tells the schedule of one seed instead; `MARMOT_SIM_SCHEDULES=n` runs another number of them, and
//! `MARMOT_LONG=1` ten times as many, others than CI runs.

use std::env;

use sim::run::{explore, replay, run};

/// Enough to have found every planted fault many times over, in about a minute on two processors.
const SCHEDULES: u64 = 2_000_000;

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn no_promise_is_broken_in_two_million_schedules() {
    if let Some(seed) = number("MARMOT_SIM_SEED") {
        let (broken, trace) = replay(seed);
        trace.iter().for_each(|line| println!("{line}"));
        assert_eq!(broken, None);
        return;
    }
    let (first, count) = match (number("MARMOT_SIM_SCHEDULES"), env::var_os("MARMOT_LONG")) {
        (Some(count), _) => (0, count),
        (None, Some(_)) => (SCHEDULES, 10 * SCHEDULES),
        (None, None) => (0, SCHEDULES),
    };
    let exploration = explore(first, count);
    println!("{}", exploration.census);
    let schedules = exploration.census.schedules;
    let seconds = exploration.took.as_secs_f64();
    let rate = schedules as f64 / seconds;
    println!("{schedules} schedules in {seconds:.1} s, {rate:.0} a second");
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

#[test]
fn a_seed_tells_the_same_story_every_time() {
    for seed in 0..50 {
        let (told, again) = (replay(seed), replay(seed));
        assert!(told.1.len() > 20, "seed {seed} has little to tell");
        assert_eq!(told, again, "seed {seed}");
        assert_eq!(run(seed, None).0, told.0, "telling changes nothing");
    }
}
