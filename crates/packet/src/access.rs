//! What a client may talk to: rules by network, protocol and port, compiled so that a packet costs the same whatever their number.
//!
//! ```text
//!   rules, the first that fits decides --compile--> per family: sorted starts of ranges of addresses --> a table for each range
//!                                                   per table: TCP and UDP by sorted ranges of ports, ICMP, everything else
//! ```
//! There is no state. A packet of the client is judged by its destination and destination port; one for the client by its source and source
//! port, as the answer to what the client could have sent. What cannot be told is not allowed unless everything that it could be is: a
//! fragment without ports, headers that are cut off, a packet whose header does not say where it goes (source routes).
//!
//! An ICMP error belongs to the packet that it quotes: it passes where that packet could have come from, whoever reports it.

mod compile;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::upper::{EXTENSIONS_MAX, Part, Upper, upper, upper_v4_in, upper_v6};
use crate::{IpPacket, Version};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Bytes of an ICMP error before the packet that it quotes (RFC 792, RFC 4443).
const ICMP_HEADER: usize = 8;

/// What becomes of a packet that a rule fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
}

/// What a rule is for, beside networks and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// All there are; with ports those that have some: TCP and UDP.
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP over IPv4 and ICMPv6 over IPv6.
    Icmp,
}

/// One rule of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// Networks of the other end; empty means all.
    pub networks: Vec<IpNet>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Ports of the other end; empty means all.
    pub ports: Vec<RangeInclusive<u16>>,
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// From the client.
    Network,
    /// To the client.
    Client,
}

/// Compiled rules. Looking a packet up takes no memory and no lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessList {
    v4: Space,
    v6: Space,
}

/// The addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Space {
    /// First address of each range, the first one 0.
    starts: Box<[u128]>,
    /// The table of each range.
    of_range: Box<[u32]>,
    tables: Box<[Table]>,
}

/// What is allowed with one range of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Table {
    tcp: Ports,
    udp: Ports,
    icmp: bool,
    /// Any other protocol.
    other: bool,
}

/// What is allowed of a protocol with ports.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ports {
    /// First port of each range, the first one 0, and whether it is allowed.
    ranges: Box<[(u16, bool)]>,
    /// Every port is allowed.
    all: bool,
}

impl AccessList {
    /// Compiles `rules`, of which the first that fits decides; `default` is for what none fits.
    pub fn compile<'a>(rules: impl IntoIterator<Item = &'a Rule>, default: Action) -> Self {
        compile::list(rules.into_iter(), default)
    }

    /// Whether a packet may pass.
    pub fn permits(&self, packet: &IpPacket<'_>, towards: Towards) -> bool {
        if is_source_routed(packet) {
            return false;
        }
        let peer = match towards {
            Towards::Network => packet.destination(),
            Towards::Client => packet.source(),
        };
        let table = self.table(peer);
        let Some(upper) = upper(packet) else {
            return table.permits_all();
        };
        let bytes = packet.as_bytes();
        match (packet.version(), upper.protocol) {
            (_, TCP) => table.tcp.permits(port(bytes, upper, towards)),
            (_, UDP) => table.udp.permits(port(bytes, upper, towards)),
            (Version::V4, ICMP) | (Version::V6, ICMPV6) => {
                table.icmp || quoted(packet, upper).is_some_and(|quoted| self.permits_quoted(packet, &quoted, towards))
            }
            (Version::V4 | Version::V6, _) => table.other,
        }
    }

    /// Whether the packet that an ICMP error quotes could have gone the other way, from where the error now goes to.
    fn permits_quoted(&self, error: &IpPacket<'_>, quoted: &Quoted, towards: Towards) -> bool {
        if quoted.source != error.destination() {
            return false;
        }
        let (peer, port) = match towards {
            Towards::Client => (quoted.destination, quoted.ports.map(|(_, destination)| destination)),
            Towards::Network if quoted.destination == error.source() => {
                (quoted.source, quoted.ports.map(|(source, _)| source))
            }
            Towards::Network => return false,
        };
        let table = self.table(peer);
        match quoted.protocol {
            TCP => table.tcp.permits(port),
            UDP => table.udp.permits(port),
            ICMP if peer.is_ipv4() => table.icmp,
            ICMPV6 if peer.is_ipv6() => table.icmp,
            _ => table.other,
        }
    }

    fn table(&self, peer: IpAddr) -> &Table {
        let (space, address) = match peer {
            IpAddr::V4(address) => (&self.v4, address.to_bits().into()),
            IpAddr::V6(address) => (&self.v6, address.to_bits()),
        };
        let range = space.starts.partition_point(|start| *start <= address) - 1;
        &space.tables[space.of_range[range] as usize]
    }
}

impl Table {
    fn permits_all(&self) -> bool {
        self.tcp.all && self.udp.all && self.icmp && self.other
    }
}

impl Ports {
    /// Of a port that nobody can tell, only if it does not matter.
    fn permits(&self, port: Option<u16>) -> bool {
        let Some(port) = port.filter(|_| !self.all) else {
            return self.all;
        };
        let range = self.ranges.partition_point(|(start, _)| *start <= port) - 1;
        self.ranges[range].1
    }
}

/// The port of the other end.
fn port(bytes: &[u8], upper: Upper, towards: Towards) -> Option<u16> {
    let (source, destination) = ports(bytes, upper)?;
    Some(match towards {
        Towards::Network => destination,
        Towards::Client => source,
    })
}

fn ports(bytes: &[u8], upper: Upper) -> Option<(u16, u16)> {
    match upper.part {
        Part::Whole | Part::First => {}
        Part::Later => return None,
    }
    let [a, b, c, d]: [u8; 4] = bytes.get(upper.at..upper.at + 4)?.try_into().ok()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// What an ICMP error says of the packet that it is about.
struct Quoted {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ports: Option<(u16, u16)>,
}

/// The packet in an ICMP error, of which there may be no more than the beginning. Nothing if it is no error, or cannot be read.
fn quoted(packet: &IpPacket<'_>, icmp: Upper) -> Option<Quoted> {
    match icmp.part {
        Part::Whole | Part::First => {}
        Part::Later => return None,
    }
    let message = packet.as_bytes().get(icmp.at..)?;
    let is_error = match (packet.version(), *message.first()?) {
        // Unreachable, source quench, time exceeded, parameter problem.
        (Version::V4, kind) => matches!(kind, 3 | 4 | 11 | 12),
        // Unreachable, too big, time exceeded, parameter problem.
        (Version::V6, kind) => matches!(kind, 1..=4),
    };
    let bytes = message.get(ICMP_HEADER..).filter(|_| is_error)?;
    let (source, destination, upper) = match (packet.version(), bytes.first()? >> 4) {
        (Version::V4, 4) => {
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
            (address(12)?.into(), address(16)?.into(), upper_v4_in(bytes)?)
        }
        (Version::V6, 6) => {
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?));
            (address(8)?.into(), address(24)?.into(), upper_v6(bytes)?)
        }
        _ => return None,
    };
    Some(Quoted {
        source,
        destination,
        protocol: upper.protocol,
        ports: ports(bytes, upper),
    })
}

/// Whether a packet goes elsewhere, or came from elsewhere, than its addresses say: the source routes of IPv4 (RFC 791 section 3.1), and a
/// routing header of IPv6 that has not come to its end (RFC 8200 section 4.4).
fn is_source_routed(packet: &IpPacket<'_>) -> bool {
    let bytes = packet.as_bytes();
    match packet.version() {
        Version::V4 => has_source_route(&bytes[20..packet.header_length()]),
        Version::V6 => has_routing_header(bytes),
    }
}

fn has_source_route(mut options: &[u8]) -> bool {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    while let Some(kind) = options.first() {
        let length = match *kind {
            END => return false,
            NO_OPERATION => 1,
            LOOSE | STRICT => return true,
            // One that leads nowhere: who knows what others read behind it.
            _ => match options.get(1) {
                Some(length) if *length >= 2 => usize::from(*length),
                Some(_) | None => return true,
            },
        };
        options = options.get(length..).unwrap_or_default();
    }
    false
}

fn has_routing_header(bytes: &[u8]) -> bool {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let (mut next, mut at) = (bytes[6], 40);
    for _ in 0..=EXTENSIONS_MAX {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
            return false;
        }
        let Some(header) = bytes.get(at..at + 8) else {
            // Cut off: judged as what cannot be told.
            return false;
        };
        let length = match next {
            ROUTING if header[3] > 0 => return true,
            FRAGMENT if u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 => return false,
            FRAGMENT => 8,
            _ => 8 + usize::from(header[1]) * 8,
        };
        next = header[0];
        at += length;
    }
    // More of them than anybody sends: there may be one behind.
    true
}
