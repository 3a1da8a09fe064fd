//! Header values as types: seconds, MTUs, networks, hexadecimal. Each reads what the other end may write and is
//! strict about the rest; the caller names the header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A value that does not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Whole seconds; `none` and 0 are [`None`].
pub(super) fn seconds(value: &str) -> Result<Option<Duration>, Malformed> {
    if value.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let seconds: u32 = digits(value)?.parse().unwrap_or(u32::MAX);
    Ok((seconds > 0).then(|| Duration::from_secs(u64::from(seconds))))
}

/// Seconds as they are written: whole, and never 0, which would mean never.
pub(super) fn write_seconds(time: Duration) -> String {
    time.as_secs().clamp(1, u64::from(u32::MAX)).to_string()
}

/// Bytes of a packet; 0 is [`None`], more than 65,535 is 65,535 (a loopback has 65,536).
pub(super) fn mtu(value: &str) -> Result<Option<u16>, Malformed> {
    let bytes: u16 = digits(value)?.parse().unwrap_or(u16::MAX);
    Ok((bytes > 0).then_some(bytes))
}

/// What stands first in a header of ours that may get attributes later.
pub(super) const VERSION_1: &str = "v=1";

/// Whether a header of ours is of version 1, whatever follows behind a semicolon.
pub(super) fn is_version_1(value: &str) -> bool {
    value.split(';').next() == Some(VERSION_1)
}

/// A UDP port other than 0.
pub(super) fn port(value: &str) -> Result<u16, Malformed> {
    digits(value)?.parse().ok().filter(|port| *port > 0).ok_or(Malformed)
}

/// Digits only: `parse` alone would take a sign.
fn digits(value: &str) -> Result<&str, Malformed> {
    let valid = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    valid.then_some(value).ok_or(Malformed)
}

/// An address of either family.
pub(super) fn address(value: &str) -> Result<IpAddr, Malformed> {
    value.parse().map_err(|_| Malformed)
}

/// A network of either family, with a dotted mask or a prefix length, without host bits.
pub(super) fn network(value: &str) -> Result<IpNet, Malformed> {
    let (address, mask) = value.split_once('/').ok_or(Malformed)?;
    match address.parse().map_err(|_| Malformed)? {
        IpAddr::V4(address) => Ok(IpNet::V4(v4_net(address, mask)?.trunc())),
        IpAddr::V6(address) => Ok(IpNet::V6(v6_net(address, mask)?.trunc())),
    }
}

/// An IPv4 address in the network of a dotted mask or a prefix length.
pub(super) fn v4_net(address: Ipv4Addr, mask: &str) -> Result<Ipv4Net, Malformed> {
    match mask.parse::<Ipv4Addr>() {
        Ok(mask) => Ipv4Net::with_netmask(address, mask).map_err(|_| Malformed),
        Err(_) => Ipv4Net::new(address, prefix_length(mask)?).map_err(|_| Malformed),
    }
}

/// An IPv6 address in the network of a prefix length.
pub(super) fn v6_net(address: Ipv6Addr, length: &str) -> Result<Ipv6Net, Malformed> {
    Ipv6Net::new(address, prefix_length(length)?).map_err(|_| Malformed)
}

/// An IPv6 address with its prefix length, /128 if there is none.
pub(super) fn v6_address(value: &str) -> Result<Ipv6Net, Malformed> {
    let (address, length) = value.split_once('/').unwrap_or((value, "128"));
    v6_net(address.parse().map_err(|_| Malformed)?, length)
}

fn prefix_length(value: &str) -> Result<u8, Malformed> {
    digits(value)?.parse().map_err(|_| Malformed)
}

/// A network as stock clients want it: dotted mask for IPv4, prefix length for IPv6.
pub(super) fn write_network(net: &IpNet) -> String {
    match net {
        IpNet::V4(net) => format!("{}/{}", net.network(), net.netmask()),
        IpNet::V6(net) => format!("{}/{}", net.network(), net.prefix_len()),
    }
}

/// Hexadecimal digits as 1 to `most` bytes.
pub(super) fn hex(value: &str, most: usize) -> Result<Vec<u8>, Malformed> {
    let (pairs, rest) = value.as_bytes().as_chunks::<2>();
    if !rest.is_empty() || pairs.is_empty() || pairs.len() > most {
        return Err(Malformed);
    }
    pairs
        .iter()
        .map(|[high, low]| Ok(nibble(*high)? << 4 | nibble(*low)?))
        .collect()
}

fn nibble(digit: u8) -> Result<u8, Malformed> {
    let value = char::from(digit).to_digit(16).ok_or(Malformed)?;
    u8::try_from(value).map_err(|_| Malformed)
}

/// Bytes as lower-case hexadecimal digits, as `ocserv` writes them (captures).
pub(super) fn write_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_two_words_for_never() {
        assert_eq!(seconds("90"), Ok(Some(Duration::from_secs(90))));
        assert_eq!(seconds("0"), Ok(None));
        assert_eq!(seconds("none"), Ok(None));
        assert_eq!(
            seconds("99999999999999999999"),
            Ok(Some(Duration::from_secs(u64::from(u32::MAX))))
        );
        for bad in ["", "-1", "+1", "1.5", "1s", "never"] {
            assert_eq!(seconds(bad), Err(Malformed), "{bad:?}");
        }
        assert_eq!(write_seconds(Duration::from_millis(1)), "1");
    }

    #[test]
    fn an_mtu_is_at_most_the_largest_packet() {
        assert_eq!(mtu("1406"), Ok(Some(1406)));
        assert_eq!(mtu("65536"), Ok(Some(65_535)));
        assert_eq!(mtu("0"), Ok(None));
        assert_eq!(mtu("1406 "), Err(Malformed));
        assert_eq!(
            (port("443"), port("0"), port("65536")),
            (Ok(443), Err(Malformed), Err(Malformed))
        );
    }

    #[test]
    fn a_network_has_a_mask_or_a_length_and_no_host_bits() {
        let net = |value: &str| network(value).map(|net| net.to_string());
        assert_eq!(net("10.0.0.0/255.0.0.0"), Ok("10.0.0.0/8".into()));
        assert_eq!(net("10.1.2.3/8"), Ok("10.0.0.0/8".into()));
        assert_eq!(net("0.0.0.0/0.0.0.0"), Ok("0.0.0.0/0".into()));
        assert_eq!(net("0.0.0.0/255.255.255.255"), Ok("0.0.0.0/32".into()));
        assert_eq!(net("fd00:1::1/64"), Ok("fd00:1::/64".into()));
        for bad in [
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/255.0.255.0",
            "fd00::/129",
            "fd00::/255.0.0.0",
        ] {
            assert_eq!(net(bad), Err(Malformed), "{bad}");
        }
    }

    #[test]
    fn networks_are_written_as_stock_clients_want_them() {
        let written = |value: &str| write_network(&value.parse().expect("a network"));
        assert_eq!(written("10.0.0.0/8"), "10.0.0.0/255.0.0.0");
        assert_eq!(written("fd00::/64"), "fd00::/64");
    }

    #[test]
    fn hexadecimal_is_whole_bytes_within_a_limit() {
        assert_eq!(hex("00fFA1", 3), Ok(vec![0, 255, 161]));
        for bad in ["", "0", "000", "0g", "00000000", "é"] {
            assert_eq!(hex(bad, 3), Err(Malformed), "{bad}");
        }
        assert_eq!(write_hex(&[0, 255, 161]), "00ffa1");
    }
}
