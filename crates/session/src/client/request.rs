//! From the cookie to the grant: the CONNECT request.

use std::net::IpAddr;

use now::Now;
use thiserror::Error;
use wire::GrantError;
use wire::http::ResponseHead;
use wire::offer::{ConnectRefused, MarmotDatagram, Offer, Refusal, parse_connect_reply};
use wire::text::escape;

use super::{Authenticated, Established, Identity};
use crate::resume::BINDING_BYTES;

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
    /// And that datagrams carry the marks of congestion of their packets.
    pub ecn: bool,
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

impl Authenticated {
    /// Asks for the tunnel: the bytes of the CONNECT request, for one connection and one time. `binding` is what that
    /// connection exports for proofs; a session with a key is not granted without. The cookie stays here, for the next time.
    pub fn request(
        &self,
        identity: &Identity,
        wants: &Wants,
        binding: Option<&[u8; BINDING_BYTES]>,
    ) -> (Requesting, Vec<u8>) {
        let offer = Offer {
            host: identity.host.clone(),
            user_agent: identity.user_agent.clone(),
            cookie: self.shown(),
            hostname: identity.hostname.clone(),
            base_mtu: wants.base_mtu,
            mtu: None,
            want_v4: wants.v4,
            want_v6: wants.v6,
            previous: wants.previous.clone(),
            dtls: wants.datagrams,
            session: true,
            marmot_datagram: wants.datagrams.then_some(MarmotDatagram { ecn: wants.ecn }),
            marmot_bundle: true,
            park: self.public_key(),
            resume: binding.and_then(|binding| self.proof(binding)),
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
