//! How a gateway refuses a tunnel.

use std::fmt;

use thiserror::Error;

use super::{Grant, MarmotSession};
use crate::error::GrantError;
use crate::http::{Headers, ResponseHead};
use crate::text;

/// Why there is no tunnel, as the gateway said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// 401: the cookie is unknown, expired or revoked. Final: the stock client exits. Never sent for lost state.
    Cookie,
    /// 409: the proof was good, but the epoch was not higher than this newest one. Try again with a higher one.
    Stale(MarmotSession),
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
    #[error("gateway refused the tunnel: {0}")]
    Refused(Refusal),
    /// It said yes, but not in a way we can use.
    #[error(transparent)]
    Grant(#[from] GrantError),
}

impl Refusal {
    /// The reply as it goes out, with no body and the connection to be closed.
    pub fn encode(&self) -> Vec<u8> {
        let mut headers = Headers::new();
        let (status, reason) = match self {
            Self::Cookie => (401, "Cookie is not acceptable"),
            Self::Stale(MarmotSession { id, epoch }) => {
                headers.push("X-Marmot-Session", format!("{id};{epoch}"));
                (409, "Conflict")
            }
            Self::Unavailable(reason) => {
                if let Some(reason) = reason {
                    headers.push("X-Reason", reason.as_str());
                }
                (503, "Service Unavailable")
            }
            Self::Redirect(place) => {
                headers.push("Location", place.as_str());
                (302, "Found")
            }
            Self::Other(status, words) => (*status, words.as_str()),
        };
        headers.push("Connection", "close");
        ResponseHead {
            status,
            reason: reason.to_owned(),
            headers,
        }
        .encode(&[])
    }

    /// What a reply other than 200 says.
    fn parse(head: &ResponseHead) -> Self {
        let text = |name| {
            head.headers
                .get(name)
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
        };
        let newest = || MarmotSession::parse(head.headers.get("X-Marmot-Session")?);
        match (head.status, text("Location")) {
            (401, _) => Self::Cookie,
            (409, _) if let Some(session) = newest() => Self::Stale(session),
            (503, _) => Self::Unavailable(text("X-Reason")),
            (300..=399, Some(place)) => Self::Redirect(place),
            (status, _) => Self::Other(status, head.reason.clone()),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie => f.write_str("its cookie is no longer valid; log in again"),
            Self::Stale(_) => f.write_str("a newer connection of this session exists; try again"),
            Self::Unavailable(Some(reason)) => write!(f, "it is not available now: {}", text::escape(reason)),
            Self::Unavailable(None) => f.write_str("it is not available now"),
            Self::Redirect(place) => write!(f, "it points to {}", text::escape(place)),
            Self::Other(status, words) => write!(f, "status {status} {}", text::escape(words)),
        }
    }
}

/// Reads the reply to CONNECT, whatever its status.
///
/// # Errors
/// [`ConnectRefused`].
pub fn parse_connect_reply(head: &ResponseHead) -> Result<Grant, ConnectRefused> {
    match head.status {
        200 => Ok(Grant::parse(head)?),
        _ => Err(ConnectRefused::Refused(Refusal::parse(head))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::parse_response;
    use crate::limits::MAX_HEAD;

    fn reply(bytes: &[u8]) -> Result<Grant, ConnectRefused> {
        let (head, _) = parse_response(bytes, MAX_HEAD).expect("valid").expect("complete");
        parse_connect_reply(&head)
    }

    #[test]
    fn every_refusal_reads_back() {
        for refusal in [
            Refusal::Cookie,
            Refusal::Stale(MarmotSession {
                id: "a1".into(),
                epoch: 9,
            }),
            Refusal::Unavailable(None),
            Refusal::Unavailable(Some("server is full".into())),
            Refusal::Redirect("https://other.test/".into()),
            Refusal::Other(403, "Forbidden".into()),
        ] {
            assert_eq!(reply(&refusal.encode()), Err(ConnectRefused::Refused(refusal)));
        }
    }

    #[test]
    fn a_dead_cookie_is_told_in_the_words_of_ocserv() {
        let expected = b"HTTP/1.1 401 Cookie is not acceptable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(Refusal::Cookie.encode(), expected);
    }

    #[test]
    fn a_redirect_to_nowhere_is_just_a_status() {
        assert_eq!(
            reply(b"HTTP/1.1 302 Found\r\n\r\n"),
            Err(ConnectRefused::Refused(Refusal::Other(302, "Found".into())))
        );
    }

    #[test]
    fn a_page_is_no_grant() {
        assert_eq!(
            reply(b"HTTP/1.1 200 OK\r\n\r\n"),
            Err(ConnectRefused::Grant(GrantError::NoAddress))
        );
    }

    #[test]
    fn what_the_gateway_said_is_shown_escaped() {
        let refused = ConnectRefused::Refused(Refusal::Unavailable(Some("full\x1b[2J".into())));
        assert_eq!(
            refused.to_string(),
            "gateway refused the tunnel: it is not available now: full\\u{1b}[2J"
        );
    }
}
