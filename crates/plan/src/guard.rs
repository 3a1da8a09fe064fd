//! The guard: packets to the addresses of the tunnel come out of the tunnel, or they do not come in.
//!
//! Linux takes a packet to any of its addresses on any interface. So whoever shares the local network can ask at the physical
//! interface whether the tunnel has this or that address, and go on to its connections (CVE-2019-14899). Packets of this host to itself
//! come in on `lo`.

use std::net::IpAddr;

use crate::NetworkPlan;
use crate::lockdown::{joined, quoted};

/// The script for nft that puts the guard of `plan` in the place of the one that is there, in one transaction. `table` is in the
/// family `inet`.
pub fn guard(table: &str, interface: &str, plan: &NetworkPlan) -> String {
    let mut rules = String::new();
    let interfaces = quoted(["lo", interface].into_iter());
    for (v4, word) in [(true, "ip"), (false, "ip6")] {
        let addresses: Vec<IpAddr> = plan.addresses.iter().map(ipnet::IpNet::addr).collect();
        let addresses: Vec<_> = addresses.into_iter().filter(|ip| ip.is_ipv4() == v4).collect();
        if !addresses.is_empty() {
            let addresses = joined(addresses);
            rules += &format!(
                "\t\tiifname != {{ {interfaces} }} {word} daddr {{ {addresses} }} counter name strangers drop\n"
            );
        }
    }
    format!(
        "add table inet {table}
delete table inet {table}
table inet {table} {{
\tcounter strangers {{
\t}}
\tchain prerouting {{
\t\ttype filter hook prerouting priority raw; policy accept;
{rules}\t}}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_is_this() {
        let net = |text: &str| text.parse().expect("a network");
        let plan = NetworkPlan {
            addresses: vec![net("10.78.0.2/32"), net("fd00:78::2/128")],
            ..NetworkPlan::default()
        };
        let expected = "\
add table inet marmot_guard_3
delete table inet marmot_guard_3
table inet marmot_guard_3 {
\tcounter strangers {
\t}
\tchain prerouting {
\t\ttype filter hook prerouting priority raw; policy accept;
\t\tiifname != { \"lo\", \"mm-work\" } ip daddr { 10.78.0.2 } counter name strangers drop
\t\tiifname != { \"lo\", \"mm-work\" } ip6 daddr { fd00:78::2 } counter name strangers drop
\t}
}
";
        assert_eq!(guard("marmot_guard_3", "mm-work", &plan), expected);
    }
}
