//! The checks of a gateway's grant. What the peer says is checked before use: a hostile or broken gateway is refused with
//! the reason, never half applied.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Dns, LocalNetworks};

/// Most routes (included and excluded together) a grant may carry. A real site pushes some dozens; ten thousand would
/// keep the kernel busy for seconds at every start.
pub const MAX_ROUTES: usize = 1000;

/// Most name servers kept; the protocol's clients use three per family.
pub const MAX_DNS_SERVERS: usize = 6;

/// Most search and split domains kept together.
pub const MAX_DOMAINS: usize = 64;

/// Smallest tunnel MTU: what every IPv4 host must be able to receive (RFC 791 section 3.1).
pub const MIN_MTU: u16 = 576;

/// Smallest MTU of a link that carries IPv6 (RFC 8200 section 5). Below it IPv6 is switched off.
pub const MIN_MTU_V6: u16 = 1280;

/// Largest tunnel MTU: jumbo frames.
pub const MAX_MTU: u16 = 9000;

/// Most addresses of one family.
const MAX_ADDRESSES: usize = 4;

/// Longest domain name in text form (RFC 1035 section 2.3.4).
const MAX_DOMAIN_LENGTH: usize = 253;

/// What the gateway granted, parsed but not yet believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// Addresses of this end.
    pub addresses: Vec<IpAddr>,
    /// Networks to reach through the tunnel. None of a family means everything of that family, as the standard script of
    /// stock clients reads it.
    pub include: Vec<IpNet>,
    /// Networks not to reach through the tunnel.
    pub exclude: Vec<IpNet>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub domains: Vec<String>,
    /// Domains that only the granted name servers know.
    pub split_domains: Vec<String>,
    /// Tunnel MTU in bytes, of the inner IP packet.
    pub mtu: u16,
}

/// What the user allows the gateway to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Take the granted routes. Off: only the addresses are set up.
    pub routes: bool,
    /// Take a default route. Off: it is dropped, other routes stay.
    pub default_route: bool,
    /// Take name servers and domains.
    pub dns: bool,
    /// Upper limit for the MTU; `None` for the protocol's own.
    pub max_mtu: Option<u16>,
    /// Which of the host's own networks stay reachable, whatever the gateway pushes.
    pub local: LocalNetworks,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            routes: true,
            default_route: true,
            dns: true,
            max_mtu: None,
            local: LocalNetworks::Private,
        }
    }
}

/// Why a grant was refused. Every case is the gateway's fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// Too small or too large to be a tunnel.
    #[error("the gateway granted an mtu of {0}; {MIN_MTU} to {MAX_MTU} bytes are possible")]
    Mtu(u16),
    /// Nothing to put on the device.
    #[error("the gateway granted no address that can be used")]
    NoAddress,
    /// Unspecified, loopback, multicast, link-local or broadcast.
    #[error("the gateway granted the address {0}, which no host can have on a tunnel")]
    Address(IpAddr),
    /// More than `MAX_ADDRESSES`.
    #[error("the gateway granted {0} addresses; at most {MAX_ADDRESSES} are taken")]
    TooManyAddresses(usize),
    /// More than [`MAX_ROUTES`].
    #[error("the gateway pushed {0} routes; at most {MAX_ROUTES} are taken")]
    TooManyRoutes(usize),
    /// A host route that would swallow the tunnel's own traffic.
    #[error("the gateway pushed the route {0}, which is its own address")]
    RouteToGateway(IpNet),
    /// Loopback, multicast, link-local.
    #[error("the gateway pushed the route {0} into {1} addresses")]
    RouteInto(IpNet, &'static str),
}

/// A grant that passed [`vet`]: canonical networks, no duplicates, IPv6 switched off where the MTU is too small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vetted {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) include: Vec<IpNet>,
    pub(crate) exclude: Vec<IpNet>,
    pub(crate) dns: Dns,
    pub(crate) mtu: u16,
    pub(crate) ipv6_off: bool,
    pub(crate) local: LocalNetworks,
}

impl Vetted {
    /// Addresses of this end.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Tunnel MTU in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Name servers and domains.
    pub fn dns(&self) -> &Dns {
        &self.dns
    }

    /// An IPv6 address was granted, but the MTU is below [`MIN_MTU_V6`], so it is not used.
    pub fn ipv6_off(&self) -> bool {
        self.ipv6_off
    }
}

/// Checks a grant. `gateway` is the address the control channel is connected to.
///
/// # Errors
/// The first reason for which the grant as a whole is refused.
pub fn vet(granted: &Granted, gateway: IpAddr, policy: Policy) -> Result<Vetted, Refused> {
    if !(MIN_MTU..=MAX_MTU).contains(&granted.mtu) {
        return Err(Refused::Mtu(granted.mtu));
    }
    let mtu = granted.mtu.min(policy.max_mtu.unwrap_or(MAX_MTU)).max(MIN_MTU);
    let ipv6 = mtu >= MIN_MTU_V6;
    let addresses = vet_addresses(&granted.addresses, ipv6)?;
    let has = |v4: bool| addresses.iter().any(|address| address.is_ipv4() == v4);

    if granted.include.len() + granted.exclude.len() > MAX_ROUTES {
        return Err(Refused::TooManyRoutes(granted.include.len() + granted.exclude.len()));
    }
    let mut include = whole_families(vet_routes(&granted.include, gateway)?);
    let mut exclude = harmless_exceptions(&granted.exclude);
    for family_is_v4 in [true, false] {
        let any = include.iter().any(|net| net.addr().is_ipv4() == family_is_v4);
        if has(family_is_v4) && !any {
            include.push(everything(family_is_v4));
        }
    }
    let usable = |net: &IpNet| has(net.addr().is_ipv4()) && policy.routes;
    include.retain(|net| usable(net) && (policy.default_route || net.prefix_len() > 0));
    exclude.retain(usable);

    Ok(Vetted {
        ipv6_off: !ipv6 && granted.addresses.iter().any(IpAddr::is_ipv6),
        dns: if policy.dns {
            usable_dns(granted)
        } else {
            Dns::default()
        },
        addresses,
        include,
        exclude,
        mtu,
        local: policy.local,
    })
}

fn everything(v4: bool) -> IpNet {
    if v4 {
        Ipv4Net::default().into()
    } else {
        Ipv6Net::default().into()
    }
}

fn vet_addresses(granted: &[IpAddr], ipv6: bool) -> Result<Vec<IpAddr>, Refused> {
    if granted.len() > MAX_ADDRESSES {
        return Err(Refused::TooManyAddresses(granted.len()));
    }
    let mut addresses = Vec::new();
    for address in granted {
        if special(*address).is_some() || *address == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(Refused::Address(*address));
        }
        if (ipv6 || address.is_ipv4()) && !addresses.contains(address) {
            addresses.push(*address);
        }
    }
    if addresses.is_empty() {
        return Err(Refused::NoAddress);
    }
    Ok(addresses)
}

fn vet_routes(nets: &[IpNet], gateway: IpAddr) -> Result<Vec<IpNet>, Refused> {
    let mut routes: Vec<IpNet> = Vec::with_capacity(nets.len());
    for net in nets {
        let net = net.trunc();
        if net == IpNet::from(gateway) {
            return Err(Refused::RouteToGateway(net));
        }
        if let Some(kind) = special(net.addr()) {
            // 0.0.0.0/0 and ::/0 begin with the unspecified address; anything narrower there is not a network.
            if net.prefix_len() > 0 && !halves_of_everything(net) {
                return Err(Refused::RouteInto(net, kind));
            }
        }
        if !routes.contains(&net) {
            routes.push(net);
        }
    }
    Ok(routes)
}

/// Networks that lead back to the host's own tables. None can harm; those that no tunnel carries anyway are left out:
/// administrators exclude link-local and multicast networks, and some gateways say `0.0.0.0/32` for "the local network".
fn harmless_exceptions(nets: &[IpNet]) -> Vec<IpNet> {
    let mut exceptions: Vec<IpNet> = Vec::with_capacity(nets.len());
    for net in nets.iter().map(IpNet::trunc) {
        if special(net.addr()).is_none() && !exceptions.contains(&net) {
            exceptions.push(net);
        }
    }
    exceptions
}

/// Spells a family that is included in parts (`0.0.0.0/1` and `128.0.0.0/1`) as its default route, which is what it is:
/// the user may decline one, and the host's own networks keep their precedence over it. Real networks beside it stay.
fn whole_families(mut include: Vec<IpNet>) -> Vec<IpNet> {
    for everything in [everything(true), everything(false)] {
        if !include.contains(&everything) && IpNet::aggregate(&include).contains(&everything) {
            let is_part = |net: &IpNet| everything.contains(net) && net.prefix_len() < NETWORK_PREFIX;
            include.retain(|net| !is_part(net));
            include.push(everything);
        }
    }
    include
}

/// Shorter prefixes are parts of "everything", not networks of somebody (the largest allocations are /8).
const NETWORK_PREFIX: u8 = 8;

/// `0.0.0.0/1` and the like, by which some gateways spell a default route.
fn halves_of_everything(net: IpNet) -> bool {
    net.addr().is_unspecified() && net.prefix_len() < NETWORK_PREFIX
}

/// What kind of address that never belongs on a tunnel this is, if it is one.
fn special(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let mapped = matches!(address, IpAddr::V6(v6) if Ipv6Addr::to_ipv4_mapped(&v6).is_some());
    match address {
        _ if address.is_loopback() => Some("loopback"),
        _ if address.is_multicast() => Some("multicast"),
        _ if address.is_unspecified() => Some("unspecified"),
        _ if link_local => Some("link-local"),
        _ if mapped => Some("ipv4-mapped"),
        _ => None,
    }
}

/// Whether a name server can have this address: not one that is special on every host.
pub fn is_name_server(address: IpAddr) -> bool {
    special(address).is_none()
}

/// Name servers and domains that can be such, as many as are kept. The others are left out: none of them is worth the
/// tunnel.
fn usable_dns(granted: &Granted) -> Dns {
    let domains = |list: &[String], room: usize| -> Vec<String> {
        list.iter().filter_map(|name| domain(name)).take(room).collect()
    };
    let servers = granted.dns.iter().filter(|server| is_name_server(**server));
    let search = domains(&granted.domains, MAX_DOMAINS);
    Dns {
        servers: servers.copied().take(MAX_DNS_SERVERS).collect(),
        split: domains(&granted.split_domains, MAX_DOMAINS - search.len()),
        search,
    }
}

/// A domain name in lower case without its final dot: labels of letters, digits, hyphens and underscores. `None` if it is none.
pub fn domain(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (name.len() <= MAX_DOMAIN_LENGTH && name.split('.').all(label)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

    fn net(text: &str) -> IpNet {
        text.parse().expect("test network")
    }

    fn grant() -> Granted {
        Granted {
            addresses: vec![
                "10.78.0.2".parse().expect("address"),
                "fd00:78::2".parse().expect("address"),
            ],
            include: vec![net("10.77.0.0/24"), net("fd00:77::/64")],
            mtu: 1400,
            ..Granted::default()
        }
    }

    fn refusal(change: impl FnOnce(&mut Granted)) -> Refused {
        let mut granted = grant();
        change(&mut granted);
        vet(&granted, GATEWAY, Policy::default()).expect_err("must be refused")
    }

    #[test]
    fn an_ordinary_grant_is_taken_as_it_is() {
        let vetted = vet(&grant(), GATEWAY, Policy::default()).expect("harmless");
        assert_eq!(vetted.include, grant().include);
        assert_eq!(vetted.addresses(), grant().addresses);
        assert!(!vetted.ipv6_off());
    }

    #[test]
    fn an_impossible_mtu_is_refused() {
        for mtu in [0, 575, 9001, u16::MAX] {
            assert_eq!(refusal(|granted| granted.mtu = mtu), Refused::Mtu(mtu));
        }
    }

    #[test]
    fn a_small_mtu_switches_ipv6_off() {
        let vetted = vet(&Granted { mtu: 1279, ..grant() }, GATEWAY, Policy::default()).expect("harmless");
        assert!(vetted.ipv6_off());
        assert!(vetted.addresses().iter().all(IpAddr::is_ipv4));
        assert!(vetted.include.iter().all(|net| net.addr().is_ipv4()));
    }

    #[test]
    fn a_route_to_the_gateway_itself_is_refused() {
        let own = net("198.51.100.1/32");
        assert_eq!(
            refusal(|granted| granted.include.push(own)),
            Refused::RouteToGateway(own)
        );
    }

    #[test]
    fn routes_into_loopback_multicast_and_link_local_are_refused() {
        for text in [
            "127.0.0.0/8",
            "224.0.0.0/4",
            "ff00::/8",
            "169.254.0.0/16",
            "fe80::/10",
            "::1/128",
            "0.0.0.0/32",
        ] {
            let refused = refusal(|granted| granted.include.push(net(text)));
            assert!(matches!(refused, Refused::RouteInto(..)), "{text}: {refused}");
        }
    }

    #[test]
    fn ten_thousand_routes_are_refused() {
        let many = (0..10_000u32)
            .map(|i| IpNet::from(IpAddr::from((0x0a00_0000 + i).to_be_bytes())))
            .collect();
        assert_eq!(
            refusal(|granted| granted.include = many),
            Refused::TooManyRoutes(10_000)
        );
    }

    #[test]
    fn addresses_no_host_can_have_are_refused() {
        for text in [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            let address: IpAddr = text.parse().expect("address");
            assert_eq!(
                refusal(|granted| granted.addresses = vec![address]),
                Refused::Address(address)
            );
        }
        assert_eq!(refusal(|granted| granted.addresses.clear()), Refused::NoAddress);
    }

    #[test]
    fn names_that_cannot_be_such_are_left_out() {
        let granted = Granted {
            domains: vec!["a\u{1b}[31m.test".into(), "Corp.Test.".into()],
            split_domains: vec!["*.corp.test".into()],
            dns: vec![[224, 0, 0, 1].into(), [10, 77, 0, 1].into()],
            ..grant()
        };
        let vetted = vet(&granted, GATEWAY, Policy::default()).expect("harmless");
        assert_eq!(vetted.dns().search, ["corp.test"]);
        assert!(vetted.dns().split.is_empty());
        assert_eq!(vetted.dns().servers, [IpAddr::from([10, 77, 0, 1])]);
    }

    #[test]
    fn exceptions_cannot_harm() {
        let exclude: Vec<IpNet> = ["198.51.100.1/32", "169.254.0.0/16", "224.0.0.0/4", "0.0.0.0/32"]
            .map(net)
            .into();
        let vetted = vet(&Granted { exclude, ..grant() }, GATEWAY, Policy::default()).expect("harmless");
        assert_eq!(vetted.exclude, [net("198.51.100.1/32")]);
    }

    #[test]
    fn a_default_route_in_two_halves_is_one() {
        let halves = ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1", "10.77.0.0/24"]
            .map(net)
            .to_vec();
        let granted = Granted {
            include: halves,
            ..grant()
        };
        let vetted = vet(&granted, GATEWAY, Policy::default()).expect("harmless");
        assert_eq!(vetted.include, [net("10.77.0.0/24"), net("0.0.0.0/0"), net("::/0")]);
        let declined = Policy {
            default_route: false,
            ..Policy::default()
        };
        assert_eq!(
            vet(&granted, GATEWAY, declined).expect("harmless").include,
            [net("10.77.0.0/24")]
        );
    }

    #[test]
    fn no_include_means_everything() {
        let vetted = vet(
            &Granted {
                include: vec![],
                ..grant()
            },
            GATEWAY,
            Policy::default(),
        )
        .expect("harmless");
        assert_eq!(vetted.include, vec![net("0.0.0.0/0"), net("::/0")]);
    }

    #[test]
    fn a_family_without_routes_goes_into_the_tunnel_whole() {
        let granted = Granted {
            include: vec![net("10.77.0.0/24")],
            ..grant()
        };
        let vetted = vet(&granted, GATEWAY, Policy::default()).expect("harmless");
        assert_eq!(vetted.include, [net("10.77.0.0/24"), net("::/0")]);
    }

    #[test]
    fn the_user_may_decline_routes_and_the_default_route() {
        let all = Granted {
            include: vec![],
            ..grant()
        };
        let no_default = Policy {
            default_route: false,
            ..Policy::default()
        };
        assert!(vet(&all, GATEWAY, no_default).expect("harmless").include.is_empty());
        let no_routes = Policy {
            routes: false,
            ..Policy::default()
        };
        assert!(vet(&grant(), GATEWAY, no_routes).expect("harmless").include.is_empty());
    }

    proptest! {
        #[test]
        fn what_passes_is_bounded_and_harmless(
            mtu in any::<u16>(),
            routes in proptest::collection::vec((any::<[u8; 4]>(), 0u8..=32), 0..40),
        ) {
            let include = routes.iter().map(|(octets, length)| {
                IpNet::new((*octets).into(), *length).expect("length in range")
            }).collect();
            if let Ok(vetted) = vet(&Granted { include, mtu, ..grant() }, GATEWAY, Policy::default()) {
                prop_assert!((MIN_MTU..=MAX_MTU).contains(&vetted.mtu()));
                for net in &vetted.include {
                    prop_assert_eq!(*net, net.trunc());
                    prop_assert!(!net.addr().is_multicast() && !net.addr().is_loopback());
                    prop_assert_ne!(*net, IpNet::from(GATEWAY));
                }
            }
        }
    }
}
