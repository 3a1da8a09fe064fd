//! Ending a session without a tunnel: what a client does later that could not say goodbye when it left.
//!
//! ```text
//! client                                              gateway
//!   CONNECT, X-Marmot-Session: 1            -->
//!         <--  X-Marmot-Session: ID;EPOCH, X-Marmot-Logout: TOKEN     -- any number of days later, from anywhere:
//!   POST /marmot/logout, body ID;EPOCH;TOKEN -->
//!         <--  204: the session is over, or a later CONNECT took it further
//! ```
//! The token opens nothing and ends one epoch of one session, so that it may lie in a file where a cookie may not.

use super::MarmotSession;
use crate::http::{Headers, Method, RequestHead};
use crate::limits::MAX_LOGOUT;
use crate::secret::Secret;

/// The path that a logout is posted to.
pub const LOGOUT_PATH: &str = "/marmot/logout";

/// Characters of a token: 128 bits that nobody guesses.
const TOKEN_CHARS: usize = 32;

/// A client's wish to end a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logout {
    /// The session and the connection that the token was granted for.
    pub session: MarmotSession,
    /// The token of that grant.
    pub token: Secret,
}

impl Logout {
    /// Whether this can be a token: 32 hexadecimal digits in lower case.
    pub fn is_token(token: &str) -> bool {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        token.len() == TOKEN_CHARS && token.bytes().all(digit)
    }

    /// The request as it goes out. `host` is the gateway as the client calls it.
    pub fn encode(&self, host: &str, user_agent: &str) -> Vec<u8> {
        let MarmotSession { id, epoch } = &self.session;
        let body = Secret::new(format!("{id};{epoch};{}", self.token.expose()));
        let mut headers = Headers::new();
        headers.push("Host", host);
        headers.push("User-Agent", user_agent);
        headers.push("Content-Type", "text/plain");
        headers.push("Connection", "close");
        RequestHead {
            method: Method::Post,
            target: LOGOUT_PATH.to_owned(),
            headers,
        }
        .encode(body.expose().as_bytes())
    }

    /// Reads the body of a request to [`LOGOUT_PATH`]; `None` if it is no logout.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok().filter(|text| text.len() <= MAX_LOGOUT)?;
        let (session, token) = text.rsplit_once(';')?;
        let session = MarmotSession::parse(session)?;
        Self::is_token(token).then(|| Self {
            session,
            token: Secret::from(token),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::parse_request;

    const TOKEN: &str = "00112233445566778899aabbccddeeff";

    fn logout() -> Logout {
        Logout {
            session: MarmotSession {
                id: "a1B2".to_owned(),
                epoch: 7,
            },
            token: Secret::from(TOKEN),
        }
    }

    #[test]
    fn a_logout_reads_back() {
        let request = logout().encode("vpn.example.com", "marmot");
        let (head, length) = parse_request(&request, 4096).expect("valid").expect("complete");
        assert_eq!((head.method, head.target.as_str()), (Method::Post, LOGOUT_PATH));
        assert_eq!(&request[length..], format!("a1B2;7;{TOKEN}").as_bytes());
        assert_eq!(Logout::parse(&request[length..]), Some(logout()));
    }

    #[test]
    fn anything_else_is_no_logout() {
        let long_id = format!("{};7;{TOKEN}", "a".repeat(65));
        let long_body = format!("a1;{}7;{TOKEN}", "0".repeat(200));
        for bad in [
            "",
            "a1;7",
            "a1;7;",
            "a1;;00112233445566778899aabbccddeeff",
            ";7;00112233445566778899aabbccddeeff",
            "a1;-7;00112233445566778899aabbccddeeff",
            "a1;7;00112233445566778899AABBCCDDEEFF",
            "a1;7;00112233445566778899aabbccddee",
            "a1;7;00112233445566778899aabbccddeeff\n",
            "a1;99999999999999999999;00112233445566778899aabbccddeeff",
            &long_id,
            &long_body,
        ] {
            assert_eq!(Logout::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Logout::parse(b"a1;7;\xff"), None);
    }
}
