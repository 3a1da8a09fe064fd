//! Why a gateway does not start, or stops by itself.

use std::io;
use std::path::PathBuf;

use config::ConfigErrors;
use platform::PlatformError;
use thiserror::Error;

use crate::tls::TlsError;

/// Why the gateway does not run.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// The configuration or the users file has mistakes; each says where.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// A file that the configuration names, or the configuration itself, cannot be read.
    #[error("cannot read {what} {}: {source}", .path.display())]
    Unreadable {
        /// What the file is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Certificate, key or client authorities cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No address is configured, and the service manager passed no listening socket.
    #[error("nowhere to listen: `listen.addresses` is empty and the service manager passed no socket; name an address")]
    NoListener,
    /// Two gateways cannot keep their records in one folder.
    #[error("another gateway keeps its records in {}; set `storage.state_dir`", .0.display())]
    RecordsInUse(PathBuf),
    /// Summaries of sessions cannot be sent as configured.
    #[error(transparent)]
    Collector(#[from] housekeeping::TrustError),
    /// A reload would change what only a start can.
    #[error("cannot change {0} while running; restart the gateway to apply it")]
    NeedsRestart(&'static str),
    /// The operating system refused something.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// The asynchronous runtime or a socket could not be set up.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody removed the packet device under us.
    #[error("the packet device is gone: {0}; start the gateway again")]
    DeviceGone(io::Error),
    /// A thread that carries packets ended by itself.
    #[error(
        "a worker has died, and took its sessions with it; start the gateway again and report what was logged before this"
    )]
    WorkerDied,
}

impl GatewayError {
    /// The exit code of the process: 3 for anything a configuration or key file has to be changed for, 5 for a lack of
    /// privilege, of the TUN device or of nft, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Unreadable { .. }
            | Self::Tls(_)
            | Self::NoListener
            | Self::RecordsInUse(_)
            | Self::Collector(_)
            | Self::NeedsRestart(_) => 3,
            Self::Platform(
                PlatformError::NotPermitted { .. } | PlatformError::TunMissing | PlatformError::FirewallMissing,
            ) => 5,
            Self::Platform(PlatformError::Io { source, .. } | PlatformError::Network { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                5
            }
            Self::Platform(_) | Self::Io { .. } | Self::DeviceGone(_) | Self::WorkerDied => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_configuration_and_privilege_from_the_rest() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let listen = PlatformError::Io {
            what: "listen on 0.0.0.0:443".to_owned(),
            source: denied(),
        };
        assert_eq!(GatewayError::from(listen).exit_code(), 5);
        let key = TlsError::Unreadable {
            role: "private key",
            path: "k".into(),
            source: denied(),
        };
        assert_eq!(GatewayError::from(key).exit_code(), 3);
        let in_use = io::Error::from(io::ErrorKind::AddrInUse);
        let listen = PlatformError::Io {
            what: "listen on 0.0.0.0:443".to_owned(),
            source: in_use,
        };
        assert_eq!(GatewayError::from(listen).exit_code(), 1);
    }
}
