//! `marmot cleanup`: takes off this host what a killed client left.

use crate::cli::CleanupArgs;
use crate::control::trouble::Trouble;
use crate::exit::answer;
use crate::load;
use crate::service::abandoned;

pub(super) fn run(args: &CleanupArgs) -> Result<(), Trouble> {
    if let Some(unit) = &args.if_abandoned {
        let wanted = abandoned::wanted(unit).map_err(|error| Trouble::error(format!("{error:#}")))?;
        if let Some(reason) = wanted {
            answer(&if args.json {
                api::line(&serde_json::json!({ "version": api::VERSION, "kept": reason }))
            } else {
                format!("nothing is cleaned up: {reason}\n")
            });
            return Ok(());
        }
    }
    let config = load::client(&args.config)?;
    let (name, unit) = (config.tunnel.name, args.if_abandoned.as_deref().unwrap_or("it"));
    Err(Trouble::error(format!(
        "cannot clean up after {name} yet; start {unit} again"
    )))
}
