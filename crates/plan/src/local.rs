//! Which of the host's own networks stay reachable beside a tunnel.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Networks that nobody on the internet has: RFC 1918, RFC 3927, RFC 4193, RFC 4291. Whoever runs the local network can claim
/// any network to be his (a lease, DHCP option 121, a router advertisement), and one of these is all that he may get. Not 100.64.0.0/10
/// (RFC 6598): that is the provider's, not the user's.
pub const PRIVATE: [&str; 6] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
];

/// [`PRIVATE`] as networks.
pub fn private_networks() -> impl Iterator<Item = IpNet> {
    PRIVATE.iter().filter_map(|net| net.parse().ok())
}

/// Which of the routes that the host has itself go on working beside the tunnel, as far as they are more specific than what the
/// tunnel takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalNetworks {
    /// Those into [`PRIVATE`] networks.
    Private,
    /// All of them. Also what a record means that does not say: there was no choice when it was written.
    #[default]
    All,
    /// None.
    Never,
}

impl LocalNetworks {
    /// Whether the host's own network `net` stays reachable.
    pub fn keeps(self, net: &IpNet) -> bool {
        match self {
            Self::All => true,
            Self::Never => false,
            Self::Private => private_networks().any(|private| private.contains(net)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_wholly_in_a_private_network_is_private() {
        assert_eq!(private_networks().count(), PRIVATE.len());
        for (net, private) in [
            ("192.168.1.0/24", true),
            ("10.0.0.0/8", true),
            ("fd00:1::/64", true),
            ("0.0.0.0/1", false),
            ("8.0.0.0/6", false),
            ("203.0.113.0/24", false),
            ("100.64.0.0/10", false),
            ("2001:db8::/64", false),
        ] {
            let net: IpNet = net.parse().expect("a network");
            assert_eq!(LocalNetworks::Private.keeps(&net), private, "{net}");
            assert!(LocalNetworks::All.keeps(&net) && !LocalNetworks::Never.keeps(&net));
        }
    }
}
