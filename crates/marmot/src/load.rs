//! Reads configuration files from disk.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use config::client::ClientConfig;
use config::gateway::GatewayConfig;
use config::{ConfigErrors, folder};

use crate::exit::Failure;

/// The largest file that is read, in bytes; `config` has the same limit.
pub(crate) const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Reads a client's configuration.
pub(crate) fn client(path: &Path) -> Result<ClientConfig, Failure> {
    let text = text(path)?;
    Ok(ClientConfig::parse(&text, &path.display().to_string(), folder(path))?)
}

/// Reads a gateway's configuration.
pub(crate) fn gateway(path: &Path) -> Result<GatewayConfig, Failure> {
    let text = text(path)?;
    Ok(GatewayConfig::parse(&text, &path.display().to_string(), folder(path))?)
}

/// Reads a text file; what cannot be read is a mistake in the configuration.
pub(crate) fn text(path: &Path) -> Result<String, ConfigErrors> {
    let fault = |reason: String| ConfigErrors::unreadable(&path.display().to_string(), reason);
    let bytes = bytes(path).map_err(|error| fault(format!("cannot be read: {error}")))?;
    String::from_utf8(bytes)
        .map_err(|error| fault(format!("is not UTF-8 behind byte {}", error.utf8_error().valid_up_to())))
}

/// Reads a file of at most [`MAX_BYTES`].
pub(crate) fn bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
