//! From the cookie to the grant: the CONNECT request.

use std::net::IpAddr;

use now::Now;
use thiserror::Error;
use wire::http::ResponseHead;
use wire::offer::{ConnectRefused, Offer, Refusal, parse_connect_reply};
use wire::text::escape;
use wire::{GrantError, Secret};

use super::{Established, Identity};

/// What the client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// An IPv4 address.
    pub v4: bool,
    /// An IPv6 address.
    pub v6: bool,
    /// Path MTU towards the gateway in bytes of IP packet, if known.
    pub base_mtu: Option<u16>,
    /// The addresses of the session before, to keep them.
    pub previous: Vec<IpAddr>,
    /// A data channel over UDP beside the control channel.
    pub datagrams: bool,
}

/// Why there is no tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// The cookie is dead: log in anew.
    #[error("the gateway does not know this session any more")]
    CookieRefused,
    /// Not now; the session may live.
    #[error("the gateway cannot open the tunnel now: {0}")]
    Unavailable(String),
    /// Sent elsewhere, which is not followed.
    #[error("the gateway redirects the tunnel to {0}, which is not followed")]
    Redirect(String),
    /// A newer connection of the session exists, of this epoch: to be asked for again with a higher one.
    #[error("the gateway knows a newer connection of this session (epoch {0})")]
    Stale(u64),
    /// Any other status.
    #[error("the gateway refused the tunnel with status {0} {1}")]
    Refused(u16, String),
    /// Granted, but not usable.
    #[error("the gateway's grant cannot be used: {0}")]
    Grant(GrantError),
}

impl From<ConnectRefused> for ConnectError {
    fn from(refused: ConnectRefused) -> Self {
        match refused {
            ConnectRefused::Grant(error) => Self::Grant(error),
            ConnectRefused::Refused(Refusal::Cookie) => Self::CookieRefused,
            ConnectRefused::Refused(Refusal::Stale(session)) => Self::Stale(session.epoch),
            ConnectRefused::Refused(Refusal::Unavailable(reason)) => {
                Self::Unavailable(reason.as_deref().map_or_else(|| "no reason given".to_owned(), escape))
            }
            ConnectRefused::Refused(Refusal::Redirect(to)) => Self::Redirect(escape(&to)),
            ConnectRefused::Refused(Refusal::Other(status, words)) => Self::Refused(status, escape(&words)),
        }
    }
}

/// The holder of a cookie. Whoever has the cookie owns the session, so it is never printed.
#[derive(Clone, Debug)]
pub struct Authenticated {
    cookie: Secret,
}

impl Authenticated {
    /// Holds a cookie that came from a login.
    pub fn from_cookie(cookie: Secret) -> Self {
        Self { cookie }
    }

    /// The cookie, to be handed to another process of the same client and to nobody else.
    pub fn cookie(&self) -> &Secret {
        &self.cookie
    }

    /// Asks for the tunnel: the bytes of the CONNECT request. The cookie stays here, for the next time.
    pub fn request(&self, identity: &Identity, wants: &Wants) -> (Requesting, Vec<u8>) {
        let offer = Offer {
            host: identity.host.clone(),
            user_agent: identity.user_agent.clone(),
            cookie: self.cookie.clone(),
            hostname: identity.hostname.clone(),
            base_mtu: wants.base_mtu,
            mtu: None,
            want_v4: wants.v4,
            want_v6: wants.v6,
            previous: wants.previous.clone(),
            dtls: wants.datagrams,
            session: true,
            marmot_datagram: wants.datagrams,
            park: None,
            resume: None,
        };
        (Requesting(()), offer.encode())
    }
}

/// CONNECT is on its way.
#[derive(Debug)]
pub struct Requesting(());

impl Requesting {
    /// Takes the reply's head. What follows it on the connection are frames.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn reply(self, head: &ResponseHead, now: Now) -> Result<Established, ConnectError> {
        Ok(Established::new(parse_connect_reply(head)?, now))
    }
}
