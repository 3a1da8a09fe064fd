//! `marmot housekeep`: works off what is owed, here and now; or asks the daemon about it.

use api::Client;

use crate::cli::HousekeepArgs;
use crate::control::trouble::Trouble;
use crate::control::{block_on, status, target, words};
use crate::exit::answer;

pub(super) fn run(args: &HousekeepArgs) -> Result<(), Trouble> {
    let client = Client::new(target::configured(&args.config)?);
    let owed = match &args.retry {
        Some(job) => block_on(async { Ok(client.retry(job).await?) })?,
        None => block_on(async { Ok(client.housekeeping().await?) })?,
    };
    answer(&if args.json {
        api::line(&owed)
    } else {
        status::housekeeping(&owed, words::now_unix_ms())
    });
    Ok(())
}
