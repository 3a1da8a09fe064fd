//! `marmot dns-helper`: what only root may do to the names of this host, done for daemons that are not.

use std::time::Duration;

use config::{Log, LogFormat, LogLevel};
use platform::dns::{Places, serve};

use crate::cli::DnsHelperArgs;
use crate::exit::Failure;
use crate::logging;

/// Nobody asks for so long: the socket starts another one when it is needed. A tunnel that goes down soon after it came up finds this one.
const IDLE: Duration = Duration::from_secs(30);

/// Serves until nobody asks any more.
pub(crate) fn run(args: &DnsHelperArgs) -> Result<(), Failure> {
    logging::start(Log {
        level: LogLevel::Info,
        format: LogFormat::Text,
    })?;
    serve(args.socket.as_deref(), &Places::default(), IDLE)?;
    Ok(())
}
