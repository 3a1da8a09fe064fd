//! `cargo xtask test`: one command that fetches what the tests need, runs them and says what happened. `cargo xtask bench` does the same
//! for the measurements beside other tunnels.

mod bench;
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
    /// Install (as root on Debian) and build the tunnels of others, then measure ours beside them, in namespaces.
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().chore {
        Chore::Test { long, filter } => tools::provide().and_then(|()| run::tests(long, filter.as_deref())),
        Chore::Bench(arguments) => bench::beside_others(&arguments),
    };
    result.unwrap_or_else(|e| {
        eprintln!("{e:#}");
        ExitCode::FAILURE
    })
}
