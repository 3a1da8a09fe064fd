//! Configuration files: text in, checked and typed configuration out.
//!
//! Three files are read here: `client.toml`, `gateway.toml` and the gateway's users file. Every key has a default where
//! one makes sense, a limit, and one sentence in `config/*.toml`. This crate is pure: it gets the text, a name for
//! messages and the folder that relative paths start from; the shells do the reading.
#![forbid(unsafe_code)]

mod access;
mod api;
pub mod client;
mod dns;
mod document;
mod dtls;
mod error;
mod flows;
pub mod gateway;
mod housekeeping;
mod kind;
mod lockdown;
mod log;
mod names;
mod on_demand;
mod pin;
mod routes;
mod section;
mod sleep;
mod suggest;
mod transport;
mod url;
pub mod users;

use std::path::Path;

pub use access::{AccessAction, AccessProtocol, AccessRule};
pub use api::Api;
pub use dns::{Dns, DnsMode};
pub use document::Key;
pub use dtls::DtlsSuite;
pub use error::{ConfigError, ConfigErrors, Excerpt};
pub use flows::{FlowAction, FlowProtocol, FlowRule, Flows, MAX_FLOW_RULES};
pub use housekeeping::{Housekeeping, Run};
pub use kind::Kind;
pub use lockdown::{LocalNetworks, Lockdown, LockdownMode};
pub use log::{Log, LogFormat, LogLevel};
pub use on_demand::{NetworkRule, OnDemand, Probe, RuleAction};
pub use pin::Pin;
pub use sleep::{MaintenanceTraffic, Park, PowerSource, Sleep};
pub use transport::{Keepalive, TlsVersion};
pub use url::{CollectorUrl, GatewayUrl, Host};

/// The folder that relative paths in the configuration file `path` start from: its own. Whoever reads a file again gets the
/// same paths only if it starts from the same folder.
pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_named_alone_is_in_the_current_folder() {
        assert_eq!(folder(Path::new("client.toml")), Path::new("."));
        assert_eq!(folder(Path::new("sub/client.toml")), Path::new("sub"));
    }
}
