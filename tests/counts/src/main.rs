//! Does one piece of work a number of times: what valgrind counts the instructions of.

use std::process::ExitCode;

use anyhow::{Context, Result};

fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn work() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, name, times] = arguments.as_slice() else {
        anyhow::bail!("usage: counts NAME TIMES");
    };
    let make = counts::ALL.iter().find(|(known, _)| known == name);
    let (_, make) = make.with_context(|| format!("no work is called {name:?}"))?;
    let times: u32 = times.parse().context("TIMES is a number")?;
    let mut work = make();
    for _ in 0..times {
        work();
    }
    Ok(())
}
