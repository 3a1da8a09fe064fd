//! What is left to do when a session is over.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing to do, as data: who carries it out has everything it needs here and in the facts of the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "chore", rename_all = "snake_case")]
pub enum Chore {
    /// Write the session into the history.
    Account,
    /// Tell the gateway that the session is over, because the goodbye could not.
    Logout {
        /// The token's last moment, in wall-clock milliseconds; none if it ends with the session.
        token_expires_ms: Option<u64>,
        /// What may end this session, and nothing else.
        token: Token,
    },
    /// Run the administrator's executables.
    Hooks,
    /// Send the summary of the session to the collector.
    Upload,
    /// Give the session's addresses back.
    ReleaseLease,
    /// Forget tickets and cookies of the session.
    Forget,
    /// Drop what is too old or too much of the past.
    Prune,
}

impl Chore {
    /// The word under which it is noted as done, and shown.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Logout { .. } => "logout",
            Self::Hooks => "hooks",
            Self::Upload => "upload",
            Self::ReleaseLease => "release_lease",
            Self::Forget => "forget",
            Self::Prune => "prune",
        }
    }
}

/// A logout-only token of our gateway: it ends one epoch of one session and can do nothing else. Cookies, passwords and
/// keys never get into the ledger. Not shown by `Debug` all the same.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// The token as the gateway gave it.
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// The token, to be sent to the gateway and nowhere else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}
