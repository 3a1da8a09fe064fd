//! Why a session ended, in the words of logs, metrics and status.

use std::fmt;

/// Why a session ended. "Disconnected" means one of these other than [`EndReason::UserStop`], and nothing else: a freeze,
/// a sleep, a reset of the control channel or a reconnect ends no session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The user stopped the tunnel.
    UserStop,
    /// The other side's administrator, or its policy, ended it. The text is the peer's, escaped.
    Admin(String),
    /// The login's lifetime is over.
    AuthExpired,
    /// No traffic for the idle timeout.
    Idle,
    /// The client did not come back in time.
    ParkTtl,
    /// A newer session took its place.
    Replaced,
    /// Something broke that a reconnect cannot mend.
    Fatal(String),
}

impl EndReason {
    /// The word used in logs and metrics.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::UserStop => "user_stop",
            Self::Admin(_) => "admin",
            Self::AuthExpired => "auth_expired",
            Self::Idle => "idle",
            Self::ParkTtl => "park_ttl",
            Self::Replaced => "replaced",
            Self::Fatal(_) => "fatal",
        }
    }
}

impl EndReason {
    /// What a gateway tells a client whose session it ends.
    pub fn phrase(&self) -> &str {
        match self {
            Self::UserStop => "logged out",
            Self::Admin(text) if !text.is_empty() => text,
            Self::Admin(_) => "ended by the administrator",
            Self::AuthExpired => "the session's time is over",
            Self::Idle => "no traffic for too long",
            Self::ParkTtl => "away for too long",
            Self::Replaced => "replaced by a newer session",
            Self::Fatal(_) => "an error of the gateway",
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin(text) | Self::Fatal(text) if !text.is_empty() => write!(f, "{}: {text}", self.word()),
            _ => f.write_str(self.word()),
        }
    }
}
