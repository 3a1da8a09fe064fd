//! Which packets of the host somebody could be waiting for: in a wake of which nobody knows the kind they ask for the tunnel.
//!
//! A host that wakes by itself talks to its network: it looks for neighbours, groups, printers and names. None of that says that
//! anybody is there. A packet to one host behind the gateway may.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use packet::{IpPacket, Version};

use super::Established;

const ICMP: u8 = 1;
const IGMP: u8 = 2;
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;

/// Ports of what hosts tell each other about themselves, also when the answer goes to one host: SSDP, mDNS (RFC 6762) and LLMNR
/// (RFC 4795).
const CHATTER: [u16; 3] = [1900, 5353, 5355];

impl Established {
    /// Whether somebody could be waiting for the answer to this packet of the host: it goes to one host behind the gateway, and
    /// is no part of how hosts keep house among themselves.
    pub fn somebody_waits_for(&self, packet: &[u8]) -> bool {
        let Ok(packet) = IpPacket::parse(packet) else {
            return false;
        };
        asks_for_tunnel(&packet, |address| self.addresses().any(|own| own == address))
            && self.is_granted(packet.destination())
    }

    /// Whether the gateway granted the way to this address: the longest of the networks that are to be and not to be reached
    /// decides.
    fn is_granted(&self, to: IpAddr) -> bool {
        let grant = &self.grant;
        let longest = |networks: &[IpNet]| {
            let around = networks.iter().filter(|network| network.contains(&to));
            around.map(|network| i16::from(network.prefix_len())).max()
        };
        let same_family = |network: &&IpNet| network.addr().is_ipv4() == to.is_ipv4();
        let all = !grant.include.iter().any(|network| same_family(&network));
        let included = longest(&grant.include).or(all.then_some(-1));
        let everybody = |network: &IpNet| {
            let hosts = network.max_prefix_len() - network.prefix_len();
            to.is_ipv4() && hosts > 1 && network.broadcast() == to
        };
        let lease = grant.v4.map(IpNet::V4);
        included.is_some_and(|included| longest(&grant.exclude).is_none_or(|excluded| excluded < included))
            && !grant.include.iter().chain(&lease).any(everybody)
    }
}

/// The same of a packet that the host's routes led into a tunnel without a session: what the gateway grants is not known, and
/// `ours` says which addresses this end had last.
pub fn asks_for_tunnel(packet: &IpPacket<'_>, ours: impl Fn(IpAddr) -> bool) -> bool {
    let (from, to) = (packet.source(), packet.destination());
    ours(from) && !ours(to) && is_one_host(to) && !keeps_house(packet)
}

fn is_one_host(to: IpAddr) -> bool {
    let special = to.is_multicast() || to.is_loopback() || to.is_unspecified();
    match to {
        IpAddr::V4(to) => !special && !to.is_link_local() && to != Ipv4Addr::BROADCAST,
        IpAddr::V6(to) => !special && !to.is_unicast_link_local(),
    }
}

/// Neighbours and groups (RFC 4861, RFC 3810, RFC 3376), errors that the kernel answers with, and names and services of the
/// local network.
fn keeps_house(packet: &IpPacket<'_>) -> bool {
    let upper = packet.as_bytes().get(packet.header_length()..).unwrap_or_default();
    match (packet.version(), packet.protocol()) {
        (_, IGMP) => true,
        (Version::V4, ICMP) => matches!(upper.first(), Some(3..=5 | 9..=12)),
        (Version::V6, ICMP_V6) => matches!(upper.first(), Some(1..=4 | 130..=137 | 143)),
        // A later part of a datagram has no ports, and is part of a large one.
        (Version::V4, UDP) if packet.as_bytes()[6] & 0x1f != 0 || packet.as_bytes()[7] != 0 => false,
        (_, UDP) => upper
            .chunks_exact(2)
            .take(2)
            .any(|port| CHATTER.contains(&u16::from_be_bytes([port[0], port[1]]))),
        (Version::V4 | Version::V6, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use now::Now;
    use wire::offer::Grant;

    use super::*;

    fn established(include: &[&str], exclude: &[&str]) -> Established {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("net")).collect();
        let grant = Grant {
            v4: Some("10.78.0.2/24".parse().expect("net")),
            v6: Some("fd00:78::2/64".parse().expect("net")),
            mtu: 1400,
            include: nets(include),
            exclude: nets(exclude),
            ..Grant::default()
        };
        Established::new(grant, Now::default())
    }

    fn v4(to: &str, protocol: u8, upper: &[u8]) -> Vec<u8> {
        let length = u16::try_from(20 + upper.len()).expect("short");
        let mut bytes = vec![0x45, 0];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 64, protocol, 0, 0, 10, 78, 0, 2]);
        bytes.extend(to.parse::<Ipv4Addr>().expect("address").octets());
        bytes.extend(upper);
        bytes
    }

    fn v6(to: &str, next: u8, upper: &[u8]) -> Vec<u8> {
        let length = u16::try_from(upper.len()).expect("short");
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(length.to_be_bytes());
        bytes.extend([next, 64]);
        bytes.extend("fd00:78::2".parse::<Ipv6Addr>().expect("address").octets());
        bytes.extend(to.parse::<Ipv6Addr>().expect("address").octets());
        bytes.extend(upper);
        bytes
    }

    fn udp(from: u16, to: u16) -> [u8; 8] {
        let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
        [a, b, c, d, 0, 8, 0, 0]
    }

    #[test]
    fn a_packet_to_one_host_behind_the_gateway_may_be_waited_for() {
        let session = established(&["10.77.0.0/24", "fd00:77::/64"], &[]);
        let echo = [8, 0, 0, 0, 0, 0, 0, 0];
        for packet in [
            v4("10.77.0.1", 6, &[0; 20]),
            v4("10.77.0.1", ICMP, &echo),
            v4("10.77.0.1", UDP, &udp(40_000, 53)),
            v6("fd00:77::1", 6, &[0; 20]),
            v6("fd00:77::1", ICMP_V6, &[128, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            assert!(session.somebody_waits_for(&packet), "{packet:?}");
        }
    }

    #[test]
    fn what_hosts_say_among_themselves_wakes_nobody() {
        let session = established(&[], &[]);
        for packet in [
            v4("224.0.0.251", UDP, &udp(5353, 5353)),
            v4("239.255.255.250", UDP, &udp(50_000, 1900)),
            v4("224.0.0.22", IGMP, &[0x22, 0, 0, 0]),
            v4("10.77.0.1", IGMP, &[0x22, 0, 0, 0]),
            v4("10.77.0.1", UDP, &udp(5353, 40_000)),
            v4("10.77.0.1", UDP, &udp(40_000, 5355)),
            v4("10.77.0.1", UDP, &udp(1900, 40_000)),
            v4("10.77.0.1", ICMP, &[3, 3, 0, 0]),
            v4("255.255.255.255", UDP, &udp(68, 67)),
            v4("10.78.0.255", UDP, &udp(138, 138)),
            v4("169.254.7.7", 6, &[0; 20]),
            v4("10.78.0.2", 6, &[0; 20]),
            v6("ff02::fb", UDP, &udp(5353, 5353)),
            v6("ff02::16", 0, &[58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0]),
            v6("fe80::1", 6, &[0; 20]),
            v6("fd00:77::1", ICMP_V6, &[135, 0, 0, 0]),
            v6("fd00:77::1", ICMP_V6, &[136, 0, 0, 0]),
            b"garbage".to_vec(),
        ] {
            assert!(!session.somebody_waits_for(&packet), "{packet:?}");
        }
    }

    #[test]
    fn the_longest_network_says_whether_a_host_is_behind_the_gateway() {
        let session = established(&["10.0.0.0/8", "10.5.5.0/24"], &["10.5.0.0/16"]);
        let waits = |to: &str| session.somebody_waits_for(&v4(to, 6, &[0; 20]));
        assert!(waits("10.77.0.1") && waits("10.5.5.5"));
        assert!(!waits("10.5.6.1") && !waits("192.0.2.1") && !waits("10.5.5.255"));
        let everything = established(&[], &["192.168.0.0/16"]);
        let waits = |to: &str| everything.somebody_waits_for(&v4(to, 6, &[0; 20]));
        assert!(waits("192.0.2.1") && !waits("192.168.1.1"));
    }

    #[test]
    fn a_packet_of_somebody_else_is_no_wish_of_this_host() {
        let session = established(&[], &[]);
        let mut packet = v4("10.77.0.1", 6, &[0; 20]);
        packet[15] = 9;
        assert!(!session.somebody_waits_for(&packet));
    }
}
