//! What every test program here starts with: leave the host, look for what is missing, run the tests one by one.
//!
//! A test also fails if a password or cookie is in the output of any program.
//!
//! Where the kernel or the machine lacks something a test needs, it says `SKIPPED name: reason` and passes. With
//! `MARMOT_LAB=required` it fails instead. With `MARMOT_LONG=1` only the tests given to [`run_long`] run, without it only the
//! others; those given to [`run_scaled`] and [`run_scaled_together`] run either way. `MARMOT_LAB=keep` keeps the folders with configurations and outputs.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::{Lab, host, systemd};

/// One test: a fact, and what shows it.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    name: &'static str,
    show: fn(&Lab) -> Result<()>,
}

impl Test {
    /// A test of this name; use [`tests!`](crate::tests).
    pub const fn new(name: &'static str, show: fn(&Lab) -> Result<()>) -> Self {
        Self { name, show }
    }
}

/// Tests named after the functions given.
#[macro_export]
macro_rules! tests {
    ($($name:ident),+ $(,)?) => { [$($crate::Test::new(stringify!($name), $name)),+] };
}

/// Figures and remarks of the tests, printed after them so that each test's line stays whole.
static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub(crate) fn note(test: &str, text: &str) {
    let mut notes = NOTES.lock().unwrap_or_else(PoisonError::into_inner);
    notes.push(format!("  {test}: {text}"));
}

pub(crate) fn skip(test: &str, reason: &str) -> Result<()> {
    println!("SKIPPED {test}: {reason}");
    ensure!(!required(), "MARMOT_LAB=required forbids skipping, but {reason}");
    Ok(())
}

/// Runs tests that need these programs of others. To be called first thing in `main`.
pub fn run(needs: &[&str], tests: impl IntoIterator<Item = Test>) -> ExitCode {
    run_some(needs, tests, false)
}

/// Runs tests that take minutes, if asked to.
pub fn run_long(needs: &[&str], tests: impl IntoIterator<Item = Test>) -> ExitCode {
    run_some(needs, tests, true)
}

/// Runs tests that repeat something: a few times, or with `MARMOT_LONG=1` often; see [`is_long`].
pub fn run_scaled(needs: &[&str], tests: impl IntoIterator<Item = Test>) -> ExitCode {
    run_some(needs, tests, is_long())
}

/// Whether tests may take minutes.
pub fn is_long() -> bool {
    env::var_os("MARMOT_LONG").is_some_and(|value| value == "1")
}

/// [`run_scaled`] for tests that mostly wait: all of them at once, each in a lab of its own.
pub fn run_scaled_together(needs: &[&str], tests: impl IntoIterator<Item = Test>) -> ExitCode {
    let tests: Vec<Test> = tests.into_iter().collect();
    let threads = tests.len();
    run_on(threads, needs, tests, is_long())
}

fn run_some(needs: &[&str], tests: impl IntoIterator<Item = Test>, long: bool) -> ExitCode {
    // Two cores.
    run_on(1, needs, tests, long)
}

fn run_on(threads: usize, needs: &[&str], tests: impl IntoIterator<Item = Test>, long: bool) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(threads));
    let tests: Vec<Test> = if is_long() == long {
        tests.into_iter().collect()
    } else {
        Vec::new()
    };
    let obstacle = if arguments.list || tests.is_empty() {
        None
    } else {
        obstacle(needs)
    };

    let mut trials: Vec<Trial> = Vec::new();
    for test in tests {
        let obstacle = obstacle.clone();
        if let Some(reason) = &obstacle {
            println!("SKIPPED {}: {reason}", test.name);
        }
        trials.push(Trial::test(test.name, move || match obstacle {
            None => show(test),
            Some(reason) if required() => Err(format!("MARMOT_LAB=required forbids skipping, but {reason}").into()),
            Some(_) => Ok(()),
        }));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    for note in NOTES.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("{note}");
    }
    conclusion.exit_code()
}

/// What the cables of every lab are made with.
const CABLES: &[&str] = &["ip", "ethtool"];

/// Why the tests cannot run here, if so.
pub(crate) fn obstacle(needs: &[&str]) -> Option<String> {
    for program in CABLES.iter().chain(needs) {
        if host::find(program).is_none() {
            return Some(format!("{program} is not installed"));
        }
    }
    if let Err(reason) = host::leave() {
        return Some(reason);
    }
    if needs.contains(&"ocserv") && host::groups_are_fixed() {
        return Some("ocserv changes its groups, which this user namespace forbids; run as root".to_owned());
    }
    if needs.contains(&"systemctl") {
        return systemd::obstacle();
    }
    None
}

fn required() -> bool {
    env::var_os("MARMOT_LAB").is_some_and(|value| value == "required")
}

fn show(test: Test) -> Result<(), Failed> {
    let began = Instant::now();
    let lab = Lab::build(test.name).map_err(|e| format!("cannot build the lab: {e:#}"))?;
    let outcome = catch_unwind(AssertUnwindSafe(|| (test.show)(&lab)));
    let problem = match outcome {
        Ok(Ok(())) if !lab.told_secrets().is_empty() => {
            format!("a password or cookie is in the output of {:?}", lab.told_secrets())
        }
        Ok(Ok(())) => {
            lab.note(&format!("took {:.1} s", began.elapsed().as_secs_f64()));
            return Ok(());
        }
        Ok(Err(e)) => format!("{e:#}"),
        // The panic itself is on standard error already.
        Err(_) => "an assertion did not hold, see above".to_owned(),
    };
    Err(format!("{problem}\n\n{}", lab.report()).into())
}
