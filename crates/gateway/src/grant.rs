//! What a client is granted: the configuration, the lease and the client's offer put together.

use std::net::IpAddr;

use config::DtlsSuite;
use config::gateway::GatewayConfig;
use dtls::{Psk, Suite};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustls::Connection;
use session::gateway::{Connected, DatagramTerms, Lease};
use wire::Secret;
use wire::offer::{DtlsGrant, Grant, MarmotDatagram, MarmotSession, Offer, PSK_NEGOTIATE, Rekey, RekeyMethod};

/// Bytes around a packet in the data channel: UDP, DTLS record header, connection id, explicit nonce, kind, inner type, tag.
const DATAGRAM_OVERHEAD: u16 = 8 + 13 + 8 + 8 + 1 + 1 + 16;

/// Bytes around a packet in the tunnel: TCP with timestamps, one TLS record at its worst (TLS 1.2 with AES-GCM: 5 header,
/// 8 nonce, 16 tag), one CSTP header. The IP header comes on top.
const OVERHEAD: u16 = 20 + 12 + 29 + 8;

/// The least MTU of an IPv4 link that every host must reassemble (RFC 791), and of an IPv6 link (RFC 8200 section 5).
const MIN_MTU: (u16, u16) = (576, 1280);

/// The link MTU of a client that says nothing about its own: Ethernet.
const DEFAULT_BASE_MTU: u16 = 1500;

/// What the gateway calls itself.
const SERVER_NAME: &str = "marmot";

/// What is granted to clients that asked for a session of ours, and to nobody else.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    /// Ends this epoch of the session.
    pub(crate) logout: Option<Secret>,
    /// What the client is to show next time.
    pub(crate) ticket: Option<Secret>,
}

/// The grant for a client that connected from `peer`.
pub(crate) fn grant(
    config: &GatewayConfig,
    connected: &Connected,
    offer: &Offer,
    secrets: Secrets,
    peer: IpAddr,
) -> Grant {
    let lease = &connected.lease;
    let network = &config.network;
    let pushed = config.pushed(connected.group.as_deref());
    let base_mtu = offer.base_mtu.unwrap_or(DEFAULT_BASE_MTU);
    Grant {
        v4: lease.v4.and_then(|address| {
            let prefix = config.pool.ipv4.map_or(32, |pool| pool.prefix_len());
            Ipv4Net::new(address, prefix).ok()
        }),
        v6: lease.v6.map(Ipv6Net::from),
        dns: of_families(lease, pushed.dns, |address| address.is_ipv4()),
        default_domains: pushed.domains.to_vec(),
        split_dns: pushed.split_dns.to_vec(),
        include: include(config, pushed.routes, lease),
        exclude: of_families(lease, pushed.exclude_routes, |net| net.addr().is_ipv4()),
        dpd: Some(config.session.dpd),
        keepalive: Some(config.session.keepalive),
        idle_timeout: config.session.idle_timeout,
        session_timeout: connected.remaining,
        disconnected_timeout: Some(connected.park.unwrap_or(config.session.cookie_lifetime)),
        base_mtu: Some(base_mtu),
        mtu: tunnel_mtu(network.mtu, base_mtu, peer, lease),
        tunnel_all_dns: network.tunnel_all_dns,
        keep: true,
        banner: config.auth.banner.clone(),
        hostname: offer.hostname.clone(),
        server_name: Some(SERVER_NAME.to_owned()),
        marmot_bundle: offer.marmot_bundle,
        session: offer.session.then(|| MarmotSession {
            id: connected.id.to_string(),
            epoch: connected.epoch,
        }),
        logout: secrets.logout.filter(|_| offer.session),
        park: connected.park.filter(|_| offer.session),
        ticket: secrets.ticket.filter(|_| offer.session && connected.park.is_some()),
        ..Grant::default()
    }
}

/// Adds a data channel to a grant, if the client wants one and there is a UDP port for it: its datagrams then begin with the App-ID returned.
pub(crate) fn datagrams(
    config: &GatewayConfig,
    (udp_port, app_id): (Option<u16>, impl FnOnce() -> Vec<u8>),
    offer: &Offer,
    grant: &mut Grant,
) -> Option<Vec<u8>> {
    let port = udp_port.filter(|_| config.dtls.enabled && offer.dtls)?;
    let app_id = app_id();
    grant.dtls = Some(DtlsGrant {
        port,
        app_id: app_id.clone(),
        cipher: PSK_NEGOTIATE.to_owned(),
        mtu: None,
        dpd: Some(config.dtls.dpd),
        keepalive: Some(config.dtls.keepalive),
        rekey: None,
    });
    grant.marmot_datagram = channel_of_ours(config, offer.marmot_datagram);
    grant.rekey = config.dtls.rekey.map(|time| Rekey {
        time,
        method: RekeyMethod::NewTunnel,
    });
    Some(app_id)
}

/// What of a channel of our kind is granted, of what a client offers.
fn channel_of_ours(config: &GatewayConfig, offered: Option<MarmotDatagram>) -> Option<MarmotDatagram> {
    let MarmotDatagram { ecn } = offered?;
    Some(MarmotDatagram {
        ecn: ecn && config.dtls.ecn,
    })
}

/// What tunnel and client have agreed on for the data channel. Nothing if `tls` has no key to lend, which then costs the client
/// only the attempt.
pub(crate) fn data_channel(
    config: &GatewayConfig,
    connected: &Connected,
    tls: &Connection,
    (ours, parks): (Option<MarmotDatagram>, bool),
    mtu: u16,
) -> Option<DatagramTerms> {
    let key = channel::data_channel_key(tls).ok()?;
    let least = if connected.lease.v6.is_some() {
        MIN_MTU.1
    } else {
        MIN_MTU.0
    };
    Some(DatagramTerms {
        psk: Psk::new(key.as_slice())?,
        suites: config.dtls.suites.iter().copied().map(suite).collect(),
        ours: ours.is_some(),
        ecn: ours.is_some_and(|datagram| datagram.ecn),
        mtu,
        floor: least.min(mtu),
        path_mtu_discovery: config.dtls.path_mtu_discovery,
        parks,
    })
}

fn suite(suite: DtlsSuite) -> Suite {
    match suite {
        DtlsSuite::Aes128Gcm => Suite::Aes128GcmSha256,
        DtlsSuite::ChaCha20Poly1305 => Suite::Chacha20Poly1305Sha256,
        DtlsSuite::Aes256Gcm => Suite::Aes256GcmSha384,
    }
}

/// The networks behind the tunnel. On the wire "none of a family" means all of it. So where routes are configured, but
/// none of a family that the client has an address of, the pool stands for that family: the rest of it was not asked for.
fn include(config: &GatewayConfig, routes: &[IpNet], lease: &Lease) -> Vec<IpNet> {
    let mut include = of_families(lease, routes, |net| net.addr().is_ipv4());
    if routes.is_empty() {
        return include;
    }
    let v4 = config
        .pool
        .ipv4
        .filter(|_| lease.v4.is_some())
        .map(|pool| IpNet::V4(pool.trunc()));
    let v6 = config
        .pool
        .ipv6
        .filter(|_| lease.v6.is_some())
        .map(|pool| IpNet::V6(pool.trunc()));
    for pool in v4.into_iter().chain(v6) {
        if !include.iter().any(|net| net.addr().is_ipv4() == pool.addr().is_ipv4()) {
            include.push(pool);
        }
    }
    include
}

/// What is of a family that the client has an address of.
fn of_families<T: Copy>(lease: &Lease, all: &[T], is_v4: impl Fn(&T) -> bool) -> Vec<T> {
    all.iter()
        .copied()
        .filter(|one| {
            if is_v4(one) {
                lease.v4.is_some()
            } else {
                lease.v6.is_some()
            }
        })
        .collect()
}

/// The largest packet that fits one segment of the client's link, within what is configured. A grant is advice here: TLS
/// over TCP carries any packet, it only costs a second segment.
fn tunnel_mtu(configured: u16, base_mtu: u16, peer: IpAddr, lease: &Lease) -> u16 {
    let ip_header = if peer.to_canonical().is_ipv4() { 20 } else { 40 };
    let least = if lease.v6.is_some() { MIN_MTU.1 } else { MIN_MTU.0 };
    base_mtu
        .saturating_sub(ip_header + OVERHEAD.max(DATAGRAM_OVERHEAD))
        .min(configured)
        .max(least.min(configured))
}

#[cfg(test)]
mod tests {
    use super::*;
    use session::gateway::{Reservation, SessionId};
    use std::path::Path;
    use std::time::Duration;

    fn config(more: &str) -> GatewayConfig {
        let text = format!(
            "[tls]\ncertificate_file = \"c\"\nkey_file = \"k\"\n[auth]\nusers_file = \"u\"\ngroups = [\"staff\"]\nbanner = \"hello\"\n\
             [pool]\nipv4 = \"10.78.0.0/24\"\nipv6 = \"fd00:78::/64\"\n{more}"
        );
        GatewayConfig::parse(&text, "gateway.toml", Path::new("/")).expect("config")
    }

    fn connected(v4: bool, v6: bool) -> Connected {
        Connected {
            id: SessionId([7; 16]),
            epoch: 3,
            user: "alice".to_owned(),
            group: None,
            lease: Lease {
                v4: v4.then(|| "10.78.0.2".parse().expect("address")),
                v6: v6.then(|| "fd00:78::2".parse().expect("address")),
            },
            missed: Reservation::default(),
            replaced: None,
            remaining: Some(Duration::from_secs(60)),
            park: Some(Duration::from_secs(40)),
            ticket: None,
            parked: None,
            entrance: session::gateway::Entrance::Login,
            ended: Vec::new(),
        }
    }

    fn granted(config: &GatewayConfig, v4: bool, v6: bool, offer: &Offer) -> Grant {
        let secrets = Secrets {
            logout: Some(Secret::from("0123")),
            ticket: Some(Secret::from("4567")),
        };
        let peer = IpAddr::from([192, 0, 2, 1]);
        grant(config, &connected(v4, v6), offer, secrets, peer)
    }

    fn nets(nets: &[&str]) -> Vec<IpNet> {
        nets.iter().map(|net| net.parse().expect("network")).collect()
    }

    #[test]
    fn addresses_come_with_the_prefix_stock_clients_expect() {
        let grant = granted(&config(""), true, true, &Offer::default());
        assert_eq!(grant.v4.map(|net| net.to_string()).as_deref(), Some("10.78.0.2/24"));
        assert_eq!(grant.v6.map(|net| net.to_string()).as_deref(), Some("fd00:78::2/128"));
        assert_eq!(grant.session_timeout, Some(Duration::from_secs(60)));
        assert_eq!(grant.banner.as_deref(), Some("hello"));
        assert_eq!((grant.rekey, grant.dtls), (None, None));
    }

    #[test]
    fn no_configured_route_pushes_a_default_route() {
        let grant = granted(&config(""), true, true, &Offer::default());
        assert!(grant.all_v4() && grant.all_v6());
    }

    #[test]
    fn a_family_without_a_configured_route_is_not_swallowed_whole() {
        let config = config("[network]\nroutes = [\"10.0.0.0/8\"]\ndns = [\"10.0.0.53\", \"fd00::53\"]");
        let grant = granted(&config, true, true, &Offer::default());
        assert_eq!(grant.include, nets(&["10.0.0.0/8", "fd00:78::/64"]));
        let v4_only = granted(&config, true, false, &Offer::default());
        assert_eq!(v4_only.include, nets(&["10.0.0.0/8"]));
        assert_eq!(v4_only.dns, [IpAddr::from([10, 0, 0, 53])]);
    }

    #[test]
    fn a_group_is_pushed_what_it_says() {
        let text = "[network]\nroutes = [\"10.0.0.0/8\"]\ndns = [\"10.0.0.53\"]\n[[group]]\nname = \"staff\"\nroutes = [\"10.9.0.0/16\"]\n";
        let config = config(text);
        let of = |group: Option<&str>| {
            let mut connected = connected(true, false);
            connected.group = group.map(str::to_owned);
            let peer = IpAddr::from([192, 0, 2, 1]);
            grant(&config, &connected, &Offer::default(), Secrets::default(), peer)
        };
        assert_eq!(of(None).include, nets(&["10.0.0.0/8"]));
        assert_eq!(of(Some("staff")).include, nets(&["10.9.0.0/16"]));
        assert_eq!(of(Some("staff")).dns, [IpAddr::from([10, 0, 0, 53])]);
    }

    #[test]
    fn the_mtu_fits_the_link_and_the_families() {
        let config = config("[network]\nmtu = 1406");
        let mtu = |base_mtu, v6| {
            granted(
                &config,
                true,
                v6,
                &Offer {
                    base_mtu,
                    ..Offer::default()
                },
            )
            .mtu
        };
        assert_eq!(mtu(None, false), 1406);
        assert_eq!(mtu(Some(u16::MAX), true), 1406);
        assert_eq!(mtu(Some(1400), false), 1400 - 20 - 69);
        assert_eq!(mtu(Some(1280), true), 1280);
        assert_eq!(mtu(Some(0), false), 576);
    }

    #[test]
    fn marks_are_granted_to_whoever_offers_them_unless_they_are_off() {
        let granted = |more: &str, offered: Option<bool>| {
            let marmot_datagram = offered.map(|ecn| MarmotDatagram { ecn });
            channel_of_ours(&config(more), marmot_datagram).map(|datagram| datagram.ecn)
        };
        let off = "[dtls]\necn = false";
        assert_eq!(
            [None, Some(false), Some(true)].map(|offered| granted("", offered)),
            [None, Some(false), Some(true)]
        );
        assert_eq!(
            [None, Some(false), Some(true)].map(|offered| granted(off, offered)),
            [None, Some(false), Some(false)]
        );
    }

    #[test]
    fn only_our_own_client_hears_of_id_epoch_and_token() {
        let config = config("");
        let stock = granted(&config, true, false, &Offer::default());
        assert_eq!((stock.session, stock.logout), (None, None));
        assert_eq!((stock.park, stock.ticket), (None, None));
        assert!(!stock.marmot_bundle && stock.marmot_datagram.is_none());
        let ours = granted(
            &config,
            true,
            false,
            &Offer {
                session: true,
                ..Offer::default()
            },
        );
        assert_eq!(
            ours.session,
            Some(MarmotSession {
                id: "07".repeat(16),
                epoch: 3
            })
        );
        assert_eq!(ours.logout, Some(Secret::from("0123")));
        assert_eq!(ours.ticket, Some(Secret::from("4567")));
        assert_eq!(ours.park, Some(Duration::from_secs(40)));
    }
}
