//! What can go wrong between us and the operating system, in words that say what to do.

use std::io;
use std::path::PathBuf;

/// An operation on the host that did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlatformError {
    /// This build knows no way to do it on this system.
    #[error("{0} is not supported on this system")]
    Unsupported(&'static str),

    /// There is no TUN driver, or its device file did not make it into the container.
    #[error("/dev/net/tun is missing: load the tun module (`modprobe tun`) or pass the device into the container")]
    TunMissing,

    /// The kernel said no for lack of a privilege.
    #[error("cannot {what}: not permitted: {hint}")]
    NotPermitted {
        /// What was tried, as a verb phrase ("create the TUN device marmot0").
        what: String,
        /// What is missing and how to get it.
        hint: String,
    },

    /// There is an interface of that name already.
    #[error("cannot create the TUN device {name}: an interface of this name exists; choose another `interface`")]
    InterfaceInUse {
        /// The wanted name.
        name: String,
    },

    /// The kernel could never accept this interface name.
    #[error("cannot create the TUN device {name:?}: {reason}")]
    InterfaceName {
        /// The wanted name.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },

    /// Another process holds the lock of this tunnel name.
    #[error("tunnel `{tunnel}` is already run by {}", pid_in_words(*.pid))]
    TunnelRunning {
        /// The tunnel's name.
        tunnel: String,
        /// The process that holds it, if it wrote its number down.
        pid: Option<u32>,
    },

    /// The resolver of this host was not told of a tunnel's name servers; why, and what to do about it.
    #[error("cannot set name servers: {0}")]
    NameService(String),

    /// There is no `nft`.
    #[error("there is no nft on this host: install the package nftables")]
    FirewallMissing,

    /// All slots of this host are locked by running tunnels.
    #[error(
        "all {} tunnel slots of this host are in use; stop another tunnel first",
        crate::slot::SLOTS
    )]
    SlotsExhausted,

    /// A step of configuring the network failed.
    #[error("cannot {step}: {source}")]
    Network {
        /// The step, as a verb phrase ("add route 10.0.0.0/8 to table 27904").
        step: String,
        /// What the kernel said.
        source: io::Error,
    },

    /// Namespaces cannot be used here.
    #[error("cannot {step}: {missing}")]
    Namespace {
        /// What was tried, as a verb phrase.
        step: String,
        /// What is missing, exactly.
        missing: String,
    },

    /// A file with a secret could be read or changed by others.
    #[error("refusing to use {}: {reason}; run `{fix}`", path.display())]
    NotPrivate {
        /// The file.
        path: PathBuf,
        /// Who else could get at it.
        reason: String,
        /// The command that mends it.
        fix: String,
    },

    /// Any other failed system call or file operation.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried, as a verb phrase.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl PlatformError {
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            what: what.into(),
            source,
        }
    }
}

fn pid_in_words(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_was_tried_and_what_to_do() {
        let running = PlatformError::TunnelRunning {
            tunnel: "home".into(),
            pid: Some(42),
        };
        assert_eq!(running.to_string(), "tunnel `home` is already run by process 42");
        let step = PlatformError::Network {
            step: "add route 10.0.0.0/8 to table 27904".into(),
            source: io::Error::from(io::ErrorKind::AlreadyExists),
        };
        assert!(
            step.to_string()
                .starts_with("cannot add route 10.0.0.0/8 to table 27904: ")
        );
    }
}
