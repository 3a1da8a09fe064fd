//! Several packets of one flow as one, on their way over a stream to a peer that cuts them itself.
//!
//! ```text
//!   | size 2 | IP | TCP or UDP | payload | payload | payload | rest |      2 to 64 packets, each but the last with `size` bytes of payload
//! ```
//! The size is in network order. The headers are those of the first packet, but for the lengths, which count all of it, FIN and PSH, which are
//! those of the last, and the checksum of TCP or UDP, which is the folded sum of the pseudo header. That is how a device with
//! offloads gives and takes it; what else stands in its header ([`virtio`]) can be read from the packet, so a peer cannot say it wrongly.
//! What is IP, TCP or UDP, and where it begins, is for [`Segments`] to check, as for a packet of a device.

use std::ops::Range;

use crate::upper::upper;
use crate::virtio::{self, Checksum, Gso, GsoKind, Offload};
use crate::{DropReason, IpPacket, Segments, Version};

/// Bytes before the packet.
pub const DESCRIPTION: usize = 2;

/// Packets in a bundle: what a device takes of UDP at once (`UDP_MAX_SEGMENTS` of Linux before 6.9), and as many of TCP, so that a short
/// record does not become thousands of packets.
pub const PACKETS_MAX: usize = 64;

/// Bytes of payload in each packet but the last: Linux drops what is to be cut smaller (`TCP_MIN_GSO_SIZE`).
pub const SIZE_MIN: usize = 8;

/// Bytes of the headers of those that we send: 60 of IPv4, or 40 of IPv6 with some extension headers, and 60 of TCP.
pub(crate) const HEADERS_MAX: usize = 120;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A bundle to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing<'a> {
    front: [u8; DESCRIPTION + HEADERS_MAX],
    /// Bytes of description and headers.
    length: usize,
    payload: &'a [u8],
    packets: usize,
}

impl<'a> Outgoing<'a> {
    /// `headers` are at most [`HEADERS_MAX`] bytes.
    pub(crate) fn new(size: u16, headers: &[u8], payload: &'a [u8], packets: usize) -> Self {
        let length = DESCRIPTION + headers.len();
        let mut front = [0; DESCRIPTION + HEADERS_MAX];
        front[..DESCRIPTION].copy_from_slice(&size.to_be_bytes());
        front[DESCRIPTION..length].copy_from_slice(headers);
        Self {
            front,
            length,
            payload,
            packets,
        }
    }

    /// The headers, to be made those of this bundle.
    pub(crate) fn headers(&mut self) -> &mut [u8] {
        &mut self.front[DESCRIPTION..self.length]
    }

    /// The bytes, in two pieces.
    pub fn pieces(&self) -> [&[u8]; 2] {
        [&self.front[..self.length], self.payload]
    }

    /// Packets in it.
    pub fn packets(&self) -> usize {
        self.packets
    }
}

/// What came: a description that holds for the bytes which it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bundle {
    kind: GsoKind,
    size: u16,
    /// Where the upper layer begins, in bytes of the packet.
    upper: u16,
    /// Bytes of all headers.
    headers: u16,
    /// Bytes of the packet.
    length: u16,
    packets: u16,
    /// Bytes of all packets, once they are cut.
    bytes: u32,
}

impl Bundle {
    /// Reads a bundle. What follows the packet does not count.
    ///
    /// # Errors
    /// [`DropReason::Malformed`]: it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let (size, packet) = bytes.split_first_chunk::<DESCRIPTION>().ok_or(DropReason::Malformed)?;
        let size = u16::from_be_bytes(*size);
        if usize::from(size) < SIZE_MIN {
            return Err(DropReason::Malformed);
        }
        let ip = IpPacket::parse(packet)?;
        let found = upper(&ip).ok_or(DropReason::Malformed)?;
        let kind = match (found.protocol, ip.version()) {
            (TCP, Version::V4) => GsoKind::TcpV4,
            (TCP, Version::V6) => GsoKind::TcpV6,
            (UDP, _) => GsoKind::Udp,
            _ => return Err(DropReason::Malformed),
        };
        let at = u16::try_from(found.at).map_err(|_| DropReason::Malformed)?;
        let length = u16::try_from(ip.as_bytes().len()).map_err(|_| DropReason::Malformed)?;
        let segments = Segments::new(&offload(kind, size, at), ip.as_bytes())?;
        let packets = u16::try_from(segments.left()).map_err(|_| DropReason::Malformed)?;
        if !(2..=PACKETS_MAX).contains(&usize::from(packets)) {
            return Err(DropReason::Malformed);
        }
        Ok(Self {
            kind,
            size,
            upper: at,
            headers: u16::try_from(segments.headers()).map_err(|_| DropReason::Malformed)?,
            length,
            packets,
            bytes: u32::try_from(segments.bytes()).map_err(|_| DropReason::Malformed)?,
        })
    }

    /// Where the packet stands in the bytes that this was read from.
    pub fn range(&self) -> Range<usize> {
        DESCRIPTION..DESCRIPTION + usize::from(self.length)
    }

    /// The packet in the `bytes` that this was read from.
    pub fn packet<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.range()]
    }

    /// What a device with offloads gets to know of the packet.
    pub fn header(&self) -> [u8; virtio::LENGTH] {
        offload(self.kind, self.size, self.upper).header(self.headers)
    }

    /// The packets in the `bytes` that this was read from.
    ///
    /// # Errors
    /// [`DropReason::Malformed`]: they are others.
    pub fn segments<'a>(&self, bytes: &'a [u8]) -> Result<Segments<'a>, DropReason> {
        let packet = bytes.get(DESCRIPTION..).ok_or(DropReason::Malformed)?;
        Segments::new(&offload(self.kind, self.size, self.upper), packet)
    }

    /// Into what it is cut.
    pub fn kind(&self) -> GsoKind {
        self.kind
    }

    /// Packets in it, 2 to [`PACKETS_MAX`].
    pub fn packets(&self) -> usize {
        self.packets.into()
    }

    /// Bytes of payload in each packet but the last.
    pub(crate) fn size(&self) -> usize {
        self.size.into()
    }

    /// Bytes of all packets, once they are cut.
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }
}

fn offload(kind: GsoKind, size: u16, start: u16) -> Offload {
    let field = match kind {
        GsoKind::TcpV4 | GsoKind::TcpV6 => 16,
        GsoKind::Udp => 6,
    };
    Offload {
        checksum: Checksum::Partial { start, field },
        segments: Some(Gso { kind, size }),
    }
}

#[cfg(test)]
mod tests;
