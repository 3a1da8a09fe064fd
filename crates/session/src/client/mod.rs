//! The client's side of a session.
//!
//! ```text
//!   Authenticating --reply--> Asking --answer--> Authenticating ...
//!         |
//!         +--reply--> Authenticated --request--> Requesting --reply--> Established
//! ```
//! Every `start`, `answer` and `request` returns the bytes of one whole HTTP request. The gateway may close the TLS
//! connection between any two of them; the next request then goes over a new one.

mod authenticate;
mod datagrams;
mod established;
mod possession;
mod request;

pub use authenticate::{Asking, AuthError, Authenticating, Step};
pub use datagrams::{Ask, DataOutput, Datagrams, PathId, Renewal, RenewalBy, Terms, Token};
pub use established::{Established, Word, asks_for_tunnel};
pub use possession::Authenticated;
pub use request::{ConnectError, Requesting, Wants};

/// Who the client says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The gateway as the user calls it, for the `Host` header: `host` or `host:port`.
    pub host: String,
    /// The path of the login, `/` or `/group`.
    pub path: String,
    /// `User-Agent`.
    pub user_agent: String,
    /// The device word of the dialogue, `linux-64` for instance.
    pub device: String,
    /// Our version.
    pub version: String,
    /// Name of this host for the gateway's administrator, if the user wants it told.
    pub hostname: Option<String>,
    /// The group to log in to.
    pub group: Option<String>,
}
