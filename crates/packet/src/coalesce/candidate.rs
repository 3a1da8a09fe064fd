//! Whether a packet may be put together with others, and with which.
//!
//! ```text
//!   IPv4 without options, no fragment \            TCP: ACK, PSH and ECE only, some payload
//!                                      > behind it
//!   IPv6 without extension headers    /            UDP: a checksum, some payload
//! ```

use std::ops::Range;

use crate::checksum::{Sum, checksum};
use crate::virtio::GsoKind;
use crate::{Bundle, IpPacket, Version};

const TCP: u8 = 6;
const UDP: u8 = 17;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;

/// "Don't fragment", and what else stands beside the fragment offset.
const DONT_FRAGMENT: u8 = 0x40;

/// A packet that may be put together with others.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    version: Version,
    /// Where the upper layer begins.
    pub(super) upper: usize,
    /// Bytes of all headers.
    pub(super) headers: usize,
    pub(super) payload: Payload,
    /// Bytes of payload in each packet but the last.
    pub(super) size: usize,
    /// Packets in it: more than one in a bundle.
    pub(super) packets: u16,
    /// It wants to be pushed: nothing may come behind it.
    pub(super) push: bool,
}

/// Bytes of payload, at least one, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    Tcp(usize),
    Udp(usize),
}

impl Candidate {
    /// `None`: it is to be handed on as it is.
    pub(super) fn parse(bytes: &[u8], udp: bool) -> Option<Self> {
        let (candidate, packet) = Self::read(bytes, udp)?;
        let upper = &packet[candidate.upper..];
        let length = u16::try_from(upper.len()).ok()?;
        let sum = candidate.pseudo_sum(packet).plus_word(length);
        (sum.plus(upper).checksum() == 0).then_some(candidate)
    }

    /// The packet of a bundle, whose checksum is made when it is cut.
    pub(super) fn of_bundle(bytes: &[u8], bundle: &Bundle, udp: bool) -> Option<Self> {
        let (mut candidate, _) = Self::read(bytes, udp)?;
        candidate.size = bundle.size();
        candidate.packets = u16::try_from(bundle.packets()).ok()?;
        Some(candidate)
    }

    /// What may be put together by its headers, and the packet without padding.
    fn read(bytes: &[u8], udp: bool) -> Option<(Self, &[u8])> {
        let ip = IpPacket::parse(bytes).ok()?;
        let packet = ip.as_bytes();
        let upper = match ip.version() {
            Version::V4 => {
                let is_plain = packet[0] == 0x45 && packet[6] & !DONT_FRAGMENT == 0 && packet[7] == 0;
                (is_plain && checksum(&packet[..20]) == 0).then_some(20)?
            }
            Version::V6 => 40,
        };
        let length = packet.len();
        let (headers, payload, push) = match ip.protocol() {
            TCP => {
                let header = packet.get(upper..upper + 20)?;
                let headers = upper + usize::from(header[12] >> 4) * 4;
                let flags = header[13];
                let is_data = flags & ACK != 0 && flags & !(ACK | PSH | ECE) == 0 && header[12] & 0x0f == 0;
                let payload = length.checked_sub(headers).filter(|payload| *payload > 0)?;
                if !is_data || headers < upper + 20 {
                    return None;
                }
                (headers, Payload::Tcp(payload), flags & PSH != 0)
            }
            UDP if udp => {
                let header = packet.get(upper..upper + 8)?;
                let whole = usize::from(u16::from_be_bytes([header[4], header[5]])) == length - upper;
                let payload = length.checked_sub(upper + 8).filter(|payload| *payload > 0)?;
                if !whole || header[6..8] == [0, 0] {
                    return None;
                }
                (upper + 8, Payload::Udp(payload), false)
            }
            _ => return None,
        };
        let candidate = Self {
            version: ip.version(),
            upper,
            headers,
            payload,
            size: length - headers,
            packets: 1,
            push,
        };
        Some((candidate, packet))
    }

    /// Bytes of the packet, without padding.
    pub(super) fn length(&self) -> usize {
        self.headers + self.payload_length()
    }

    pub(super) fn payload_length(&self) -> usize {
        match self.payload {
            Payload::Tcp(length) | Payload::Udp(length) => length,
        }
    }

    /// Whether anything may come behind it: its last packet is as long as the others.
    pub(super) fn grows(&self) -> bool {
        !self.push && self.payload_length().is_multiple_of(self.size)
    }

    /// Whether its packets may come behind others that have `size` bytes of payload each.
    pub(super) fn is_of_size(&self, size: usize) -> bool {
        match self.packets {
            1 => self.size <= size,
            _ => self.size == size,
        }
    }

    pub(super) fn gso_kind(&self) -> GsoKind {
        match (self.payload, self.version) {
            (Payload::Tcp(_), Version::V4) => GsoKind::TcpV4,
            (Payload::Tcp(_), Version::V6) => GsoKind::TcpV6,
            (Payload::Udp(_), _) => GsoKind::Udp,
        }
    }

    /// Whether `packet`, which this is, has the addresses and ports of `first`, another candidate.
    pub(super) fn is_flow_of(&self, packet: &[u8], first: &[u8]) -> bool {
        let addresses = self.addresses();
        packet[0] >> 4 == first[0] >> 4
            && packet[self.protocol_at()] == first[self.protocol_at()]
            && packet[addresses.clone()] == first[addresses]
            && packet[self.upper..self.upper + 4] == first[self.upper..self.upper + 4]
    }

    /// Whether `packet`, which this is, comes right behind `before` packets with together `payload` bytes that begin with `first`, in
    /// the same flow, and differs in nothing else.
    pub(super) fn follows(
        &self,
        packet: &[u8],
        first: &Self,
        first_packet: &[u8],
        before: u16,
        payload: usize,
    ) -> bool {
        self.headers == first.headers
            && self.follows_in_ip(packet, first_packet, before)
            && match self.payload {
                Payload::Tcp(_) => follows_in_tcp(
                    &packet[self.upper..self.headers],
                    &first_packet[self.upper..self.headers],
                    payload,
                ),
                Payload::Udp(_) => true,
            }
    }

    /// Version and length of the header, type of service with the marks of ECN, time to live, flags.
    fn follows_in_ip(&self, packet: &[u8], first: &[u8], before: u16) -> bool {
        let id = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
        match self.version {
            Version::V4 => {
                let numbered = id(packet) == id(first).wrapping_add(before);
                // Of a packet that may not be fragmented nobody reads it (RFC 6864 section 4.1); some senders leave it alone.
                let alone = packet[6] & DONT_FRAGMENT != 0 && id(packet) == id(first);
                packet[1] == first[1] && packet[6] == first[6] && packet[8] == first[8] && (numbered || alone)
            }
            Version::V6 => packet[..4] == first[..4] && packet[7] == first[7],
        }
    }

    /// Makes the headers of the first packet those of all.
    pub(super) fn head_of_many(&self, headers: &mut [u8], payload: usize, push: bool) {
        let upper_length = u16::try_from(headers.len() - self.upper + payload).expect("at most 65,535 bytes in all");
        match self.version {
            Version::V4 => {
                headers[2..4].copy_from_slice(&(upper_length + 20).to_be_bytes());
                headers[10..12].fill(0);
                let sum = checksum(&headers[..20]);
                headers[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            Version::V6 => headers[4..6].copy_from_slice(&upper_length.to_be_bytes()),
        }
        let partial = self.pseudo_sum(headers).plus_word(upper_length).partial().to_be_bytes();
        let upper = &mut headers[self.upper..];
        match self.payload {
            Payload::Tcp(_) => {
                if push {
                    upper[13] |= PSH;
                }
                upper[16..18].copy_from_slice(&partial);
            }
            Payload::Udp(_) => {
                upper[4..6].copy_from_slice(&upper_length.to_be_bytes());
                upper[6..8].copy_from_slice(&partial);
            }
        }
    }

    /// The pseudo header without the length.
    fn pseudo_sum(&self, packet: &[u8]) -> Sum {
        let protocol = u16::from(packet[self.protocol_at()]);
        Sum::default().plus(&packet[self.addresses()]).plus_word(protocol)
    }

    fn protocol_at(&self) -> usize {
        match self.version {
            Version::V4 => 9,
            Version::V6 => 6,
        }
    }

    fn addresses(&self) -> Range<usize> {
        match self.version {
            Version::V4 => 12..20,
            Version::V6 => 8..40,
        }
    }
}

/// Next in sequence; same acknowledgement, flags, window, urgent pointer and options. The flag that pushes may be new.
fn follows_in_tcp(next: &[u8], first: &[u8], payload: usize) -> bool {
    let sequence = |header: &[u8]| u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let payload = u32::try_from(payload).expect("less than 64 KiB");
    sequence(next) == sequence(first).wrapping_add(payload)
        && next[8..13] == first[8..13]
        && next[13] & !PSH == first[13] & !PSH
        && next[14..16] == first[14..16]
        && next[18..] == first[18..]
}

/// Whether a packet of any kind may belong to the flow of a candidate: same addresses, as far as they can be read.
pub(super) fn may_be_one_flow(packet: &[u8], first: &[u8]) -> bool {
    let (Ok(packet), Ok(first)) = (IpPacket::parse(packet), IpPacket::parse(first)) else {
        return true;
    };
    packet.source() == first.source() && packet.destination() == first.destination()
}
