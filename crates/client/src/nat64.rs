//! A gateway that has IPv4 alone, on a host that has IPv6 alone: through the translator of its network (NAT64), if it has one.
//!
//! The host's resolver is asked for a well-known name (RFC 7050), whose answer holds the translator's prefix. Nobody vouches for that answer:
//! like any answer about the gateway it says only where to call, and who answers has to be the gateway.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use plan::nat64::{Nat64Prefix, WELL_KNOWN_NAME};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::route::route_source;

/// A resolver that knows the name has it at hand: every network with a translator answers by itself.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// Somebody's address (RFC 3849): what leads there leads anywhere.
const ANYWHERE: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// The same addresses, and before them those by which a translator reaches them, if this host has no way to any of them itself but one to
/// IPv6.
pub(crate) async fn through_translator(
    addresses: Vec<SocketAddr>,
    (mark, deadline): (Option<u32>, Instant),
) -> Vec<SocketAddr> {
    let way = |address: &SocketAddr| route_source(*address, mark).is_ok();
    if addresses.iter().any(way) || !way(&SocketAddr::new(ANYWHERE, 443)) {
        return addresses;
    }
    let deadline = deadline.min(Instant::now() + ANSWERS_WITHIN);
    let answers = match timeout_at(deadline, tokio::net::lookup_host((WELL_KNOWN_NAME, 0))).await {
        Ok(Ok(answers)) => answers,
        Ok(Err(_)) | Err(_) => return addresses,
    };
    let prefixes = Nat64Prefix::found(answers.filter_map(|answer| match answer.ip() {
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(_) => None,
    }));
    debug!(
        prefixes = crate::report::list(&prefixes),
        "this host has ipv6 alone, and asks for a translator"
    );
    translated(&prefixes, addresses)
}

fn translated(prefixes: &[Nat64Prefix], addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let by = |prefix: &Nat64Prefix| {
        let prefix = *prefix;
        addresses
            .iter()
            .filter_map(move |address| match address.ip().to_canonical() {
                IpAddr::V4(v4) => Some(SocketAddr::new(prefix.synthesize(v4).into(), address.port())),
                IpAddr::V6(_) => None,
            })
    };
    let mut all: Vec<SocketAddr> = prefixes.iter().flat_map(by).collect();
    all.extend(&addresses);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_translator_comes_before_what_this_host_cannot_reach() {
        let prefixes = Nat64Prefix::found(["64:ff9b::c000:aa".parse().expect("address")]);
        let addresses: Vec<SocketAddr> = ["198.51.100.1:443", "[2001:db8:2::1]:443"]
            .map(|text| text.parse().expect("address"))
            .to_vec();
        let all: Vec<String> = translated(&prefixes, addresses.clone())
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            all,
            ["[64:ff9b::c633:6401]:443", "198.51.100.1:443", "[2001:db8:2::1]:443"]
        );
        assert_eq!(translated(&[], addresses.clone()), addresses);
    }

    #[tokio::test]
    async fn who_has_a_way_asks_nobody() {
        let addresses = vec![SocketAddr::from(([127, 0, 0, 1], 443))];
        let marked = (None, Instant::now());
        assert_eq!(through_translator(addresses.clone(), marked).await, addresses);
    }
}
