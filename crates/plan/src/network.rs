//! The network plan: one value that says all a tunnel puts on the host.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Dns, Flows, LocalNetworks, Lockdown, Vetted};

/// Where packets for a route of the tunnel's own table go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteKind {
    /// Into the tunnel.
    Tunnel,
    /// Back to the host's other tables, as if this table did not exist.
    Throw,
}

/// One route of the tunnel's own routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination, with its host bits cleared.
    pub net: IpNet,
    /// Where to.
    pub kind: RouteKind,
}

/// A granted route that the host reaches directly already, and therefore keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The route the gateway pushed.
    pub pushed: IpNet,
    /// The host's own network that holds it.
    pub local: IpNet,
    /// The interface of that network.
    pub interface: String,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pushed,
            local,
            interface,
        } = self;
        write!(
            f,
            "the gateway pushed the route {pushed}, but {local} is the network of {interface}; kept local"
        )
    }
}

/// All that a tunnel puts on the host. Everything lies in the table, rules and device of the tunnel's slot, so that it can
/// be removed by exact identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPlan {
    /// Addresses of the device: /32 and /128, so that no connected route appears.
    pub addresses: Vec<IpNet>,
    /// MTU of the device in bytes.
    pub mtu: u16,
    /// Routes of the tunnel's own table, default routes included.
    pub routes: Vec<Route>,
    /// Everything of IPv4 goes into the tunnel.
    pub default_v4: bool,
    /// Everything of IPv6 goes into the tunnel.
    pub default_v6: bool,
    /// Name servers and domains.
    pub dns: Dns,
    /// Which of the host's own networks stay reachable.
    #[serde(default)]
    pub local: LocalNetworks,
    /// Nothing leaves this host beside the tunnel.
    #[serde(default)]
    pub lockdown: Option<Lockdown>,
    /// Which flows enter the tunnel; without it all do that the routes carry.
    #[serde(default)]
    pub flows: Option<Flows>,
}

impl NetworkPlan {
    /// Makes the plan of a vetted grant. `local` are the networks the host reaches directly, with their interfaces: they
    /// stay reachable, as far as the [`LocalNetworks`] of the policy say so. One that is narrower than a granted network is thrown back to the host's own tables; a granted route
    /// equal to or inside one is left out and reported.
    pub fn new(vetted: &Vetted, local: &[(String, IpNet)]) -> (Self, Vec<Overlap>) {
        let kept = |(_, own): &&(String, IpNet)| vetted.local.keeps(&own.trunc());
        let local = || local.iter().filter(kept);
        let mut overlaps = Vec::new();
        let mut tunnel: Vec<IpNet> = Vec::new();
        for net in &vetted.include {
            match local().find(|(_, own)| own.contains(net)) {
                Some((interface, own)) => {
                    overlaps.push(Overlap {
                        pushed: *net,
                        local: *own,
                        interface: interface.clone(),
                    });
                }
                None => tunnel.push(*net),
            }
        }
        // The host's own networks need no exception from a default route: a rule asks the host's tables for them first, and
        // goes on being right when the host moves to another network.
        let narrower = |own: &IpNet| tunnel.iter().any(|route| route.prefix_len() > 0 && route.contains(own));
        let own = local().map(|(_, own)| own.trunc()).filter(narrower);
        let covered = |net: &IpNet| tunnel.iter().any(|route| route.contains(net));
        let excluded = vetted.exclude.iter().copied().filter(covered);
        let mut thrown: Vec<IpNet> = Vec::new();
        for net in excluded.chain(own) {
            if !tunnel.contains(&net) && !thrown.contains(&net) {
                thrown.push(net);
            }
        }
        let everything = |v4: bool| {
            tunnel
                .iter()
                .any(|net| net.prefix_len() == 0 && net.addr().is_ipv4() == v4)
        };
        let plan = Self {
            addresses: vetted.addresses.iter().copied().map(IpNet::from).collect(),
            mtu: vetted.mtu,
            default_v4: everything(true),
            default_v6: everything(false),
            routes: tunnel
                .iter()
                .map(|net| Route {
                    net: *net,
                    kind: RouteKind::Tunnel,
                })
                .chain(thrown.iter().map(|net| Route {
                    net: *net,
                    kind: RouteKind::Throw,
                }))
                .collect(),
            dns: vetted.dns.clone(),
            local: vetted.local,
            lockdown: None,
            flows: None,
        };
        (plan, overlaps)
    }

    /// Whether the plan uses IPv4 (`true`) or IPv6 (`false`).
    pub fn uses(&self, v4: bool) -> bool {
        self.addresses.iter().any(|net| net.addr().is_ipv4() == v4)
    }

    /// Whether `address` is one of the tunnel's own.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.addr() == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Granted, Policy, vet};

    fn net(text: &str) -> IpNet {
        text.parse().expect("test network")
    }

    fn plan(include: &[&str], exclude: &[&str], local: &[&str]) -> (NetworkPlan, Vec<Overlap>) {
        plan_of(LocalNetworks::Private, include, exclude, local)
    }

    fn plan_of(kept: LocalNetworks, include: &[&str], exclude: &[&str], local: &[&str]) -> (NetworkPlan, Vec<Overlap>) {
        let granted = Granted {
            addresses: vec![[10, 78, 0, 2].into()],
            include: include.iter().map(|text| net(text)).collect(),
            exclude: exclude.iter().map(|text| net(text)).collect(),
            mtu: 1400,
            ..Granted::default()
        };
        let policy = Policy {
            local: kept,
            ..Policy::default()
        };
        let vetted = vet(&granted, [198, 51, 100, 1].into(), policy).expect("harmless");
        let local: Vec<_> = local.iter().map(|text| ("eth0".to_owned(), net(text))).collect();
        NetworkPlan::new(&vetted, &local)
    }

    fn routes(plan: &NetworkPlan, kind: RouteKind) -> Vec<String> {
        plan.routes
            .iter()
            .filter(|route| route.kind == kind)
            .map(|route| route.net.to_string())
            .collect()
    }

    #[test]
    fn excluded_networks_are_thrown_back() {
        let (plan, _) = plan(&["10.0.0.0/8"], &["10.5.0.0/16", "192.0.2.0/24"], &[]);
        assert_eq!(routes(&plan, RouteKind::Tunnel), ["10.0.0.0/8"]);
        assert_eq!(
            routes(&plan, RouteKind::Throw),
            ["10.5.0.0/16"],
            "what no route covers needs no exception"
        );
    }

    #[test]
    fn the_local_network_stays_local() {
        let (plan, overlaps) = plan(&["192.168.0.0/16"], &[], &["192.168.1.0/24"]);
        assert_eq!(routes(&plan, RouteKind::Throw), ["192.168.1.0/24"]);
        assert!(overlaps.is_empty());
    }

    #[test]
    fn a_route_inside_the_local_network_is_left_out_and_named() {
        let (plan, overlaps) = plan(&["192.168.1.0/24", "10.0.0.0/8"], &[], &["192.168.1.0/24"]);
        assert_eq!(routes(&plan, RouteKind::Tunnel), ["10.0.0.0/8"]);
        assert_eq!(
            overlaps[0].to_string(),
            "the gateway pushed the route 192.168.1.0/24, but 192.168.1.0/24 is the network of eth0; kept local"
        );
    }

    #[test]
    fn a_local_network_that_is_not_private_has_no_say() {
        let include = ["203.0.112.0/20", "198.18.0.0/24"];
        let claimed = ["203.0.113.0/24", "198.18.0.0/16"];
        let (plan, overlaps) = plan_of(LocalNetworks::Private, &include, &[], &claimed);
        assert_eq!(routes(&plan, RouteKind::Tunnel), include);
        assert!(routes(&plan, RouteKind::Throw).is_empty() && overlaps.is_empty());
        let (plan, overlaps) = plan_of(LocalNetworks::All, &include, &[], &claimed);
        assert_eq!(routes(&plan, RouteKind::Throw), ["203.0.113.0/24"]);
        assert_eq!(overlaps.len(), 1);
        let (plan, overlaps) = plan_of(LocalNetworks::Never, &["192.168.0.0/16"], &[], &["192.168.1.0/24"]);
        assert!(routes(&plan, RouteKind::Throw).is_empty() && overlaps.is_empty());
    }

    #[test]
    fn a_default_route_is_known_as_such() {
        let (plan, _) = plan(&[], &[], &["192.168.1.0/24"]);
        assert!(plan.default_v4 && !plan.default_v6);
        assert!(
            routes(&plan, RouteKind::Throw).is_empty(),
            "a rule serves the local network"
        );
        assert!(plan.uses(true) && !plan.uses(false));
    }
}
