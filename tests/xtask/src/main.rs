//! `cargo xtask test`: one command that fetches what the tests need, runs them and says what happened.

mod policy;
mod run;
mod summary;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the source tree.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install what the tests need (as root on Debian), then run them all.
    Test {
        /// Run the tests that wait for minutes or count thousands, instead of the others.
        #[arg(long)]
        long: bool,
        /// Run only tests whose name contains this.
        filter: Option<String>,
    },
}

fn main() -> ExitCode {
    let Chore::Test { long, filter } = Arguments::parse().chore;
    let result = tools::provide().and_then(|()| run::tests(long, filter.as_deref()));
    result.unwrap_or_else(|e| {
        eprintln!("{e:#}");
        ExitCode::FAILURE
    })
}
