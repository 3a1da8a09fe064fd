//! `marmot demo`: the whole story on one machine.

use std::process::ExitCode;

/// Arguments of `marmot demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Keep the folder with configurations, keys and logs
    #[arg(long)]
    keep: bool,
}

/// Runs the demo. Called before any thread exists in this process: it moves into namespaces of its own.
pub(crate) fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the demo is not there yet (keep: {})", args.keep)
}
