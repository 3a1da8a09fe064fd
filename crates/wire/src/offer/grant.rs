//! What the CONNECT reply grants; [`super::read`] and [`super::write`] know its headers.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::MarmotDatagram;
use crate::limits::MAX_SESSION_ID;
use crate::secret::Secret;

/// What a gateway grants. Durations are whole seconds on the wire; `None` means never, none or not said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// `X-CSTP-Address` and `-Netmask`: the client's address and the network it is in.
    pub v4: Option<Ipv4Net>,
    /// `X-CSTP-Address-IP6`: the client's address and prefix length; stock `ocserv` sends /128.
    pub v6: Option<Ipv6Net>,
    /// `X-CSTP-DNS`, `X-CSTP-DNS-IP6`: name servers, of either family.
    pub dns: Vec<IpAddr>,
    /// `X-CSTP-NBNS`: WINS servers.
    pub nbns: Vec<IpAddr>,
    /// `X-CSTP-Default-Domain`: search list. Words as sent, not checked.
    pub default_domains: Vec<String>,
    /// `X-CSTP-Split-DNS`: domains the name servers are for. Words as sent, not checked.
    pub split_dns: Vec<String>,
    /// `X-CSTP-Split-Include[-IP6]`: networks behind the tunnel. None of a family means all of that family.
    pub include: Vec<IpNet>,
    /// `X-CSTP-Split-Exclude[-IP6]`: networks that are not.
    pub exclude: Vec<IpNet>,
    /// `X-CSTP-DPD`: probe after this long without a frame; advice to the client.
    pub dpd: Option<Duration>,
    /// `X-CSTP-Keepalive`: send a keepalive after this long without sending.
    pub keepalive: Option<Duration>,
    /// `X-CSTP-Idle-Timeout`: the gateway ends a session that was idle this long.
    pub idle_timeout: Option<Duration>,
    /// `X-CSTP-Session-Timeout-Remaining`, else `X-CSTP-Session-Timeout`: the gateway ends the session after this.
    pub session_timeout: Option<Duration>,
    /// `X-CSTP-Lease-Duration`: how long the address is kept.
    pub lease: Option<Duration>,
    /// `X-CSTP-Disconnected-Timeout`: how long a session waits for its client to come back.
    pub disconnected_timeout: Option<Duration>,
    /// `X-CSTP-Rekey-Time` and `-Method`.
    pub rekey: Option<Rekey>,
    /// `X-CSTP-Base-MTU`: link MTU the gateway reckons with, in bytes.
    pub base_mtu: Option<u16>,
    /// `X-CSTP-MTU`: MTU of the tunnel, in bytes; the larger of it and `X-DTLS-MTU`, as the stock client takes it.
    pub mtu: u16,
    /// `X-CSTP-Tunnel-All-DNS`: names are resolved through the tunnel only.
    pub tunnel_all_dns: bool,
    /// `X-CSTP-Client-Bypass-Protocol`: a family without an address stays outside the tunnel.
    pub client_bypass: bool,
    /// `X-CSTP-Keep`: the gateway would keep the session over a reconnect.
    pub keep: bool,
    /// `X-CSTP-DynDNS`: resolve the gateway's name again before a reconnect.
    pub dyndns: bool,
    /// `X-CSTP-Banner`: a greeting; peer text.
    pub banner: Option<String>,
    /// `X-CSTP-Hostname`: the client's host name as the gateway recorded it; peer text.
    pub hostname: Option<String>,
    /// `X-CSTP-Server-Name`: what the gateway calls itself; peer text.
    pub server_name: Option<String>,
    /// The DTLS channel, if one was granted.
    pub dtls: Option<DtlsGrant>,
    /// `X-Marmot-Datagram`: both ends of the DTLS channel are ours. Only if it was offered, and only what was.
    pub marmot_datagram: Option<MarmotDatagram>,
    /// `X-Marmot-Bundle: v=1`: frames of the kind [`crate::cstp::Kind::Bundle`] may be sent, by either end. Only if it was offered.
    pub marmot_bundle: bool,
    /// `X-Marmot-Park`: the gateway keeps session, addresses and keys this long without a word from the client, on the clock
    /// that counts sleep; at most [`crate::limits::MAX_PARK`]. With it the kinds of [`crate::cstp::Kind`] that are our own may
    /// be sent. Only if it was offered.
    pub park: Option<Duration>,
    /// `X-Marmot-Ticket`: what to show instead of the cookie at the next CONNECT. Never without a `session`.
    pub ticket: Option<Secret>,
    /// `X-Marmot-Session`, from our own gateway only.
    pub session: Option<MarmotSession>,
    /// `X-Marmot-Logout`: ends this connection's epoch of the session later, without a tunnel (see
    /// [`super::Logout`]). Never without a `session`.
    pub logout: Option<Secret>,
}

/// How and when keys are to be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rekey {
    /// After this long.
    pub time: Duration,
    /// By this means.
    pub method: RekeyMethod,
}

/// By what means keys are renewed; absence of a [`Rekey`] is the wire's `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RekeyMethod {
    /// A new handshake inside the connection, which TLS 1.3 no longer has.
    Ssl,
    /// A new CONNECT with the same cookie.
    NewTunnel,
}

/// The DTLS channel of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DtlsGrant {
    /// `X-DTLS-Port`: UDP port at the address of the TCP peer.
    pub port: u16,
    /// `X-DTLS-App-ID`: 1 to 32 bytes, new with every CONNECT.
    pub app_id: Vec<u8>,
    /// `X-DTLS-CipherSuite`, [`super::PSK_NEGOTIATE`] for us.
    pub cipher: String,
    /// `X-DTLS-MTU`, in bytes.
    pub mtu: Option<u16>,
    /// `X-DTLS-DPD`.
    pub dpd: Option<Duration>,
    /// `X-DTLS-Keepalive`.
    pub keepalive: Option<Duration>,
    /// `X-DTLS-Rekey-Time` and `-Method`.
    pub rekey: Option<Rekey>,
}

/// A session between our own ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarmotSession {
    /// 1 to 64 characters of 0-9, a-z, A-Z.
    pub id: String,
    /// One higher at every CONNECT of the same session.
    pub epoch: u64,
}

impl Grant {
    /// Whether all of IPv4 goes through the tunnel: an address was granted, and no IPv4 network included.
    pub fn all_v4(&self) -> bool {
        self.v4.is_some() && !self.include.iter().any(|net| matches!(net, IpNet::V4(_)))
    }

    /// As [`Grant::all_v4`], for IPv6.
    pub fn all_v6(&self) -> bool {
        self.v6.is_some() && !self.include.iter().any(|net| matches!(net, IpNet::V6(_)))
    }
}

impl MarmotSession {
    /// Reads `id;epoch`, as the header has it.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let (id, epoch) = value.split_once(';')?;
        let plain = Self::is_id(id) && epoch.bytes().all(|byte| byte.is_ascii_digit());
        let epoch = epoch.parse().ok().filter(|_| plain)?;
        Some(Self {
            id: id.to_owned(),
            epoch,
        })
    }

    /// Whether this can be the id of a session.
    pub fn is_id(id: &str) -> bool {
        (1..=MAX_SESSION_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_without_an_included_network_goes_through_the_tunnel_as_a_whole() {
        let mut grant = Grant {
            v4: "10.0.0.2/24".parse().ok(),
            v6: "fd00::2/128".parse().ok(),
            ..Grant::default()
        };
        assert_eq!((grant.all_v4(), grant.all_v6()), (true, true));
        grant.include = vec!["10.0.0.0/8".parse().expect("network")];
        assert_eq!((grant.all_v4(), grant.all_v6()), (false, true));
        grant.v6 = None;
        assert_eq!((grant.all_v4(), grant.all_v6()), (false, false));
    }

    #[test]
    fn a_session_id_is_short_and_plain() {
        assert!(MarmotSession::is_id("a1B2"));
        for bad in ["", "a-b", "a;b", "\u{e9}", &"a".repeat(MAX_SESSION_ID + 1)] {
            assert!(!MarmotSession::is_id(bad), "{bad}");
        }
    }
}
