//! The CONNECT request.

use std::net::IpAddr;

use crate::error::OfferError;
use crate::http::RequestHead;
use crate::secret::Secret;

/// The path every tunnel is asked for on.
pub const TUNNEL_PATH: &str = "/CSCOSSLC/tunnel";

/// What a client offers when it asks for a tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// The gateway as the client calls it, for the `Host` header.
    pub host: String,
    /// Who the client says it is; peer text.
    pub user_agent: String,
    /// The `webvpn` cookie.
    pub cookie: Secret,
    /// Name of the client's host, shown to the administrator; peer text.
    pub hostname: Option<String>,
    /// Path MTU towards the gateway, in bytes of IP packet. More than 65,535 reads as 65,535 (a loopback has 65,536).
    pub base_mtu: Option<u16>,
    /// Wanted MTU of the tunnel, in bytes.
    pub mtu: Option<u16>,
    /// The client can use an IPv4 address.
    pub want_v4: bool,
    /// The client can use an IPv6 address.
    pub want_v6: bool,
    /// Addresses it had before.
    pub previous: Vec<IpAddr>,
    /// It can use a DTLS channel with a key from the TLS exporter (`PSK-NEGOTIATE`).
    pub dtls: bool,
    /// It understands [`super::MarmotSession`].
    pub session: bool,
}

impl Offer {
    /// The request as it goes out.
    pub fn encode(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Reads a request.
    ///
    /// # Errors
    /// Any [`OfferError`].
    pub fn parse(_head: &RequestHead) -> Result<Self, OfferError> {
        Err(OfferError::NotATunnel)
    }
}
