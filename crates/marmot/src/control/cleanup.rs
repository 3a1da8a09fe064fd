//! `marmot cleanup`: takes off this host what a killed client left.

use crate::cli::CleanupArgs;
use crate::control::trouble::Trouble;
use crate::load;

pub(super) fn run(args: &CleanupArgs) -> Result<(), Trouble> {
    let config = load::client(&args.config)?;
    let (name, unit) = (config.tunnel.name, args.if_abandoned.as_deref().unwrap_or("it"));
    Err(Trouble::error(format!(
        "cannot clean up after {name} yet; start {unit} again"
    )))
}
