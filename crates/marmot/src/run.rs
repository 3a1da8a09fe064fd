//! `marmot client` and `marmot gateway`: configuration and logging, then the shell takes over.
//!
//! The shells block and build their own runtime.

use std::path::Path;

use crate::exit::Failure;
use crate::{load, logging};

/// Runs a tunnel until it is told to stop.
pub(crate) fn client(path: &Path) -> Result<(), Failure> {
    let config = load::client(path)?;
    logging::start(config.log)?;
    client::run(config, path.to_path_buf()).map_err(|error| Failure::with_code(error.exit_code(), error))
}

/// Runs a gateway until it is told to stop.
pub(crate) fn gateway(path: &Path) -> Result<(), Failure> {
    let config = load::gateway(path)?;
    logging::start(config.log)?;
    gateway::run(config, path.to_path_buf()).map_err(|error| Failure::with_code(error.exit_code(), error))
}
