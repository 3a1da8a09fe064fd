//! What can go wrong in the client, in words that say what to do, and what follows from it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use channel::ExchangeError;
use config::ConfigErrors;
use lifecycle::FailClass;
use platform::PlatformError;
use session::client::{AuthError, ConnectError};
use thiserror::Error;

use crate::books::Trouble;
use crate::dial::DialError;

/// Why the client stopped, or why an attempt to connect failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The configuration file has mistakes.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// A file named in the configuration cannot be read.
    #[error("cannot read {what} {}: {source}", path.display())]
    Unreadable {
        /// What the file is ("the key of the client certificate").
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file named in the configuration can be read, but not used.
    #[error("cannot use {what} {}: {problem}", path.display())]
    Unusable {
        /// What the file is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do. Nothing of the file's content.
        problem: String,
    },
    /// Another local precondition fails.
    #[error("{0}")]
    Local(String),
    /// Something in the configuration does not fit this host.
    #[error("{0}")]
    Mistaken(String),
    /// The operating system refused something.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// No address for the gateway's name.
    #[error(
        "cannot find the address of {host}: {problem}; check gateway.url and the name servers, or set gateway.addresses"
    )]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        problem: String,
        /// This host has no way to any name server.
        offline: bool,
    },
    /// No address of the gateway could be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The TLS handshake failed.
    #[error("cannot agree on tls with {host}: {problem}")]
    Tls {
        /// The gateway.
        host: String,
        /// What is wrong.
        problem: String,
        /// What follows.
        class: FailClass,
    },
    /// The gateway is not the one we are configured to trust.
    #[error("refusing the gateway {host}: {problem}")]
    Untrusted {
        /// The gateway.
        host: String,
        /// Why, and what to do.
        problem: String,
    },
    /// The gateway did not accept who we say we are.
    #[error("{0}")]
    LoginRefused(String),
    /// The login dialogue failed.
    #[error(transparent)]
    Login(#[from] AuthError),
    /// The HTTP conversation failed.
    #[error("the conversation with the gateway failed: {0}")]
    Exchange(#[from] ExchangeError),
    /// The gateway took too long.
    #[error("the gateway did not finish {what} within {} s", limit.as_secs_f32())]
    TooSlow {
        /// Which step.
        what: &'static str,
        /// The limit, set by `gateway.handshake_timeout_s`.
        limit: Duration,
    },
    /// The gateway opened no tunnel.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The gateway opened a tunnel that we must not use.
    #[error(transparent)]
    Grant(#[from] plan::Refused),
    /// The gateway ended the session.
    #[error("the session is over: {0}")]
    Ended(session::EndReason),
    /// Nothing may be put on the host that cannot be written down first.
    #[error("start refused: the undo record cannot be written: {0}")]
    Unrecorded(Trouble),
    /// Nothing may be started that packets could leave beside.
    #[error("start refused: the lockdown cannot be put in place: {0}")]
    Unprotected(PlatformError),
    /// Somebody in this process took the tunnel down, and said why.
    #[error("the tunnel was cancelled: {0}")]
    Cancelled(String),
    /// The TUN device went away.
    #[error("the device of the tunnel is gone: {0}; was it removed by somebody?")]
    DeviceGone(io::Error),
}

impl ClientError {
    /// The exit code of `marmot client`: 1 error, 3 configuration, 4 login refused, 5 not permitted, 6 session ended by the
    /// gateway. 0 is success.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Unreadable { .. } | Self::Unusable { .. } | Self::Mistaken(_) => 3,
            Self::Platform(PlatformError::NotPrivate { .. }) => 3,
            Self::Platform(
                PlatformError::NotPermitted { .. } | PlatformError::TunMissing | PlatformError::FirewallMissing,
            )
            | Self::Unprotected(_) => 5,
            Self::Platform(PlatformError::Io { source, .. } | PlatformError::Network { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                5
            }
            Self::Login(AuthError::NoSuchGroup) => 3,
            Self::LoginRefused(_) => 4,
            Self::Login(error) if class_of_login(error) == FailClass::AuthRefused => 4,
            Self::Tls {
                class: FailClass::AuthRefused,
                ..
            } => 4,
            Self::Ended(_) => 6,
            Self::Local(_)
            | Self::Platform(_)
            | Self::Resolve { .. }
            | Self::Dial(_)
            | Self::Tls { .. }
            | Self::Untrusted { .. }
            | Self::Login(_)
            | Self::Exchange(_)
            | Self::TooSlow { .. }
            | Self::Connect(_)
            | Self::Grant(_)
            | Self::Unrecorded(_)
            | Self::Cancelled(_)
            | Self::DeviceGone(_) => 1,
        }
    }

    /// What is to be done when an attempt fails for this.
    pub(crate) fn class(&self) -> FailClass {
        match self {
            Self::Config(_)
            | Self::Unreadable { .. }
            | Self::Unusable { .. }
            | Self::Mistaken(_)
            | Self::Local(_)
            | Self::Platform(_)
            | Self::Unprotected(_)
            | Self::Untrusted { .. }
            | Self::Grant(_)
            | Self::Ended(_)
            | Self::Cancelled(_)
            | Self::DeviceGone(_) => FailClass::Fatal,
            Self::Tls { class, .. } => *class,
            // What a trusted gateway sends on purpose it sends again: asking once more would never end.
            Self::Exchange(ExchangeError::Http(error)) if !matches!(error, wire::HttpError::Truncated) => {
                FailClass::Fatal
            }
            Self::Resolve { offline: true, .. } => FailClass::Offline,
            Self::Dial(error) if error.is_offline() => FailClass::Offline,
            Self::Resolve { .. } | Self::Dial(_) | Self::Exchange(_) | Self::TooSlow { .. } => FailClass::Network,
            // A disk that is full now may have room later. A process that ends for it is started again, and logs in each time.
            Self::Unrecorded(_) => FailClass::Network,
            Self::LoginRefused(_) => FailClass::AuthRefused,
            Self::Login(error) => class_of_login(error),
            Self::Connect(error) => match error {
                ConnectError::CookieRefused => FailClass::CookieRefused,
                // The cookie is good, and the next try comes with a higher epoch.
                ConnectError::Stale(_) => FailClass::Network,
                ConnectError::Unavailable(_) => FailClass::Unavailable,
                ConnectError::Refused(status, _) if *status >= 500 => FailClass::Unavailable,
                ConnectError::Redirect(_) | ConnectError::Refused(..) | ConnectError::Grant(_) => FailClass::Fatal,
            },
        }
    }
}

fn class_of_login(error: &AuthError) -> FailClass {
    match error {
        AuthError::Rejected { .. } | AuthError::CertificateWanted | AuthError::Unanswered { .. } => {
            FailClass::AuthRefused
        }
        AuthError::Unavailable { .. } => FailClass::Unavailable,
        AuthError::NotUnderstood { status } if *status >= 500 => FailClass::Unavailable,
        AuthError::Redirect { .. }
        | AuthError::NotUnderstood { .. }
        | AuthError::Protocol(_)
        | AuthError::NoSuchGroup
        | AuthError::TooManyRounds => FailClass::Fatal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_configuration_login_permission_and_the_gateways_end_apart() {
        let config = ClientError::Config(ConfigErrors::unreadable("client.toml", "no such file"));
        assert_eq!(config.exit_code(), 3);
        let rejected = AuthError::Rejected { message: "no".into() };
        assert_eq!(ClientError::from(rejected).exit_code(), 4);
        let forbidden = PlatformError::NotPermitted {
            what: "create".into(),
            hint: "run as root".into(),
        };
        assert_eq!(ClientError::from(forbidden).exit_code(), 5);
        assert_eq!(ClientError::from(AuthError::NoSuchGroup).exit_code(), 3);
        assert_eq!(ClientError::Ended(session::EndReason::Idle).exit_code(), 6);
        assert_eq!(ClientError::from(ConnectError::CookieRefused).exit_code(), 1);
    }

    #[test]
    fn http_that_cannot_be_taken_is_final_and_a_broken_connection_is_not() {
        let endless = ExchangeError::Http(wire::HttpError::TooManyHeaders { limit: 1 });
        assert_eq!(ClientError::from(endless).class(), FailClass::Fatal);
        assert_eq!(ClientError::from(ExchangeError::Truncated).class(), FailClass::Network);
        let cut = ExchangeError::Http(wire::HttpError::Truncated);
        assert_eq!(ClientError::from(cut).class(), FailClass::Network);
    }

    #[test]
    fn a_wrong_password_is_never_tried_again_and_a_busy_gateway_is() {
        let rejected = AuthError::Rejected { message: "no".into() };
        assert_eq!(ClientError::from(rejected).class(), FailClass::AuthRefused);
        let busy = AuthError::Unavailable { reason: "busy".into() };
        assert_eq!(ClientError::from(busy).class(), FailClass::Unavailable);
        assert_eq!(
            ClientError::from(AuthError::NotUnderstood { status: 502 }).class(),
            FailClass::Unavailable
        );
        assert_eq!(
            ClientError::from(ConnectError::CookieRefused).class(),
            FailClass::CookieRefused
        );
    }
}
