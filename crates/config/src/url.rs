//! The gateway's address as an `https` URL: scheme, host, port and path, nothing else.

use std::net::IpAddr;

/// Where the gateway is. Only `https`; no user name, query or fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayUrl {
    /// Name or address; also what the certificate is checked against.
    pub host: Host,
    /// TCP port, 443 if the URL names none.
    pub port: u16,
    /// Path with its leading slash, `/` if the URL has none. Anything but `/` selects a group on gateways that have
    /// group URLs.
    pub path: String,
}

/// A host name or an address literal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name, in lower case, ASCII, at most 253 bytes (RFC 1035 section 2.3.4).
    Name(String),
    /// An IPv4 address, or an IPv6 address (in brackets within the URL).
    Address(IpAddr),
}
