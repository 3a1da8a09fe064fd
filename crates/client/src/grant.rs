//! From what the gateway granted to what is put on the host, through the checks of `plan`.

use std::net::IpAddr;

use config::client::ClientConfig;
use ipnet::IpNet;
use plan::{Granted, LocalNetworks, NetworkPlan, Overlap, Policy, Refused, vet};
use wire::offer::Grant;

use crate::gate;

/// What is worth a word to the user about a grant that was accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) plan: NetworkPlan,
    pub(crate) overlaps: Vec<Overlap>,
    /// An IPv6 address was granted, and the MTU is too small for IPv6.
    pub(crate) ipv6_off: bool,
}

/// Checks a grant of the gateway at `peer`. `local` are the networks this host reaches directly.
pub(crate) fn accept(
    grant: &Grant,
    peer: IpAddr,
    config: &ClientConfig,
    local: &[(String, IpNet)],
) -> Result<Accepted, Refused> {
    accept_granted(&granted(grant), peer, config, local)
}

/// The same of what was granted before.
pub(crate) fn accept_granted(
    granted: &Granted,
    peer: IpAddr,
    config: &ClientConfig,
    local: &[(String, IpNet)],
) -> Result<Accepted, Refused> {
    let policy = Policy {
        routes: config.session.accept_routes,
        default_route: config.session.accept_default_route,
        dns: config.session.accept_dns,
        max_mtu: config.tunnel.mtu,
        local: match config.session.local_networks {
            config::LocalNetworks::Private => LocalNetworks::Private,
            config::LocalNetworks::All => LocalNetworks::All,
            config::LocalNetworks::Never => LocalNetworks::Never,
        },
    };
    let vetted = vet(granted, peer, policy)?;
    let (mut plan, overlaps) = NetworkPlan::new(&vetted, local);
    plan.lockdown = gate::policy(config);
    Ok(Accepted {
        plan,
        overlaps,
        ipv6_off: vetted.ipv6_off(),
    })
}

/// What of a grant concerns this host.
pub(crate) fn granted(grant: &Grant) -> Granted {
    let v4 = grant.v4.map(|net| IpAddr::V4(net.addr()));
    let v6 = grant.v6.map(|net| IpAddr::V6(net.addr()));
    Granted {
        addresses: v4.into_iter().chain(v6).collect(),
        include: grant.include.clone(),
        exclude: grant.exclude.clone(),
        dns: grant.dns.clone(),
        domains: grant.default_domains.clone(),
        split_domains: grant.split_dns.clone(),
        mtu: grant.mtu,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pki, client_config};

    fn grant() -> Grant {
        Grant {
            v4: Some("10.78.0.2/24".parse().expect("net")),
            v6: Some("fd00:78::2/128".parse().expect("net")),
            include: vec![
                "10.77.0.0/24".parse().expect("net"),
                "fd00:77::/64".parse().expect("net"),
            ],
            mtu: 1400,
            ..Grant::default()
        }
    }

    #[test]
    fn a_grant_becomes_host_addresses_and_routes() {
        let pki = Pki::new("vpn.test");
        let config = client_config(&pki, "[tunnel]\nmtu = 1300\n");
        let accepted = accept(&grant(), [192, 0, 2, 1].into(), &config, &[]).expect("harmless");
        let addresses: Vec<_> = accepted.plan.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.78.0.2/32", "fd00:78::2/128"]);
        assert_eq!((accepted.plan.mtu, accepted.plan.routes.len()), (1300, 2));
        assert!(!accepted.ipv6_off);
    }

    #[test]
    fn a_hostile_grant_is_refused_with_the_reason() {
        let pki = Pki::new("vpn.test");
        let config = client_config(&pki, "");
        let peer: IpAddr = [192, 0, 2, 1].into();
        let hostile = Grant {
            include: vec![IpNet::from(peer)],
            ..grant()
        };
        let refused = accept(&hostile, peer, &config, &[]).expect_err("refused");
        assert_eq!(refused, Refused::RouteToGateway(IpNet::from(peer)));
        assert_eq!(
            accept(&Grant { mtu: 0, ..grant() }, peer, &config, &[]).expect_err("refused"),
            Refused::Mtu(0)
        );
    }
}
