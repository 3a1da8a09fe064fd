//! Networks that are pushed to clients or kept out of the tunnel, checked one by one and against each other.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::section::Section;

/// A network without host bits, in which a tunnel may carry packets.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(address) => format!(
            "has no prefix length; one host is {address}/{}",
            if address.is_ipv4() { 32 } else { 128 }
        ),
        Err(_) => "is not a network such as 10.0.0.0/8 or 2001:db8::/32".to_string(),
    })?;
    if net != net.trunc() {
        return Err(format!("has host bits set; the network is {}", net.trunc()));
    }
    match forbidden(net) {
        Some(why) => Err(format!("{why}, which never goes through a tunnel")),
        None => Ok(net),
    }
}

/// Networks whose packets never leave a link or a host (the same that our client refuses to take).
fn forbidden(net: IpNet) -> Option<&'static str> {
    let first = net.network();
    let link_local = match first {
        IpAddr::V4(address) => address.is_link_local() && net.prefix_len() >= 16,
        IpAddr::V6(address) => address.is_unicast_link_local() && net.prefix_len() >= 10,
    };
    if net.prefix_len() == 0 {
        None
    } else if first.is_loopback() {
        Some("is loopback")
    } else if first.is_multicast() {
        Some("is multicast")
    } else if link_local {
        Some("is link-local")
    } else {
        None
    }
}

/// Whether two networks have an address in common.
pub(crate) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Reports networks of a list that are there twice, or within another one.
pub(crate) fn report_covered(section: &Section<'_, '_>, key: &str, nets: &[IpNet]) {
    if section.length(key).is_some_and(|length| length != nets.len()) {
        return; // Some entry is wrong by itself; the places would not fit.
    }
    for (index, net) in nets.iter().enumerate() {
        let twice = nets[..index].contains(net);
        let wider = nets.iter().find(|other| *other != net && other.contains(net));
        if twice {
            section.wrong_item(key, index, format!("{net} is there twice"), None);
        } else if let Some(wider) = wider {
            section.wrong_item(
                key,
                index,
                format!("{net} overlaps {wider}, which already has it"),
                None,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_exact_and_tunnelable() {
        assert!(network("0.0.0.0/0").is_ok());
        assert!(network("::/0").is_ok());
        assert!(network("2001:db8::/32").is_ok());
        for (text, reason) in [
            ("10.0.0.1/8", "the network is 10.0.0.0/8"),
            ("10.0.0.1", "10.0.0.1/32"),
            ("10.0.0.0/33", "not a network"),
            ("127.0.0.0/8", "loopback"),
            ("::1/128", "loopback"),
            ("224.0.0.0/4", "multicast"),
            ("ff02::/16", "multicast"),
            ("169.254.0.0/16", "link-local"),
            ("fe80::/10", "link-local"),
        ] {
            let fault = network(text).expect_err(text);
            assert!(fault.contains(reason), "{text}: {fault}");
        }
    }
}
