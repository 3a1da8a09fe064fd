//! What a device with offloads gives, cut into the packets that the network would see, one at a time.
//!
//! ```text
//!   | IP | TCP | payload .......................................... |      one read of the device, up to 64 KiB
//!   | IP'| TCP'| size | -> | IP'| TCP'| size | -> | IP'| TCP'| rest |      write_next(): headers, numbers, checksums of its own
//! ```
//! Or several of them together, as a smaller packet of the same kind ([`Segments::next_bundle`]).
//!
//! Done lazily, because a packet can have more segments than anybody would keep room for: 64 KiB with segments of 8 bytes, say. What is
//! written is what Linux itself writes for a device without offloads (`tcp_gso_segment`, `__udp_gso_segment`); a test on a real device
//! compares the bytes.

use crate::bundle::{self, Outgoing};
use crate::checksum::{Sum, checksum};
use crate::upper::{Part, upper};
use crate::virtio::{Checksum, Gso, GsoKind, Offload};
use crate::{DropReason, IpPacket, Version};

const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The packets in what a device gave. Every packet is checked as far as it is changed.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    packet: &'a [u8],
    version: Version,
    cut: Cut,
    /// Bytes before the payload, in each segment.
    header: usize,
    /// Bytes of payload in each but the last.
    size: usize,
    /// Bytes of payload written.
    done: usize,
    /// Segments written.
    count: u16,
    finished: bool,
}

/// What became of a segment that was handed to somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is gone, written or not: on with the next.
    On,
    /// It is gone, written or not, and no more can be taken for now.
    Enough,
    /// It could not be taken, and was not written: it is the next one later.
    Later,
}

/// What is done to each segment.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Nothing: it is the only one, and right.
    Whole,
    /// It is the only one, and its checksum is missing: the bytes summed, the field, and whether zero means "none" there.
    Complete {
        start: usize,
        field: usize,
        never_zero: bool,
    },
    /// The upper layer begins at `at`; `sum` is the pseudo header without the length.
    Tcp { at: usize, sum: Sum },
    /// The same. `None`: these datagrams have no checksum.
    Udp { at: usize, sum: Option<Sum> },
}

impl<'a> Segments<'a> {
    /// The packets in `packet`, which begins with its IP header.
    ///
    /// # Errors
    /// [`DropReason::Malformed`]: it is not what `offload` says.
    pub fn new(offload: &Offload, packet: &'a [u8]) -> Result<Self, DropReason> {
        let ip = IpPacket::parse(packet)?;
        match offload.segments {
            None => Self::only(offload.checksum, &ip),
            Some(gso) => Self::many(offload.checksum, gso, &ip).ok_or(DropReason::Malformed),
        }
    }

    /// The packet as it is, without any offload.
    ///
    /// # Errors
    /// [`DropReason::Malformed`]: it is no IP packet.
    pub fn plain(packet: &'a [u8]) -> Result<Self, DropReason> {
        Self::new(&Offload::default(), packet)
    }

    fn only(checksum: Checksum, ip: &IpPacket<'a>) -> Result<Self, DropReason> {
        let packet = ip.as_bytes();
        let cut = match checksum {
            Checksum::AsIs | Checksum::Verified => Cut::Whole,
            Checksum::Partial { start, field } => {
                let (start, field) = (usize::from(start), usize::from(start) + usize::from(field));
                if start < ip.header_length() || field + 2 > packet.len() {
                    return Err(DropReason::Malformed);
                }
                let never_zero = upper(ip).is_some_and(|upper| upper.protocol == UDP);
                Cut::Complete {
                    start,
                    field,
                    never_zero,
                }
            }
        };
        Ok(Self {
            packet,
            version: ip.version(),
            cut,
            header: 0,
            size: packet.len(),
            done: 0,
            count: 0,
            finished: false,
        })
    }

    fn many(checksum: Checksum, gso: Gso, ip: &IpPacket<'a>) -> Option<Self> {
        let packet = ip.as_bytes();
        let fits = match gso.kind {
            GsoKind::TcpV4 => ip.version() == Version::V4,
            GsoKind::TcpV6 => ip.version() == Version::V6,
            GsoKind::Udp => true,
        };
        let found = upper(ip).filter(|upper| fits && upper.part == Part::Whole)?;
        let at = found.at;
        let (protocol, header, field) = match gso.kind {
            GsoKind::TcpV4 | GsoKind::TcpV6 => {
                let words = packet.get(at..at + TCP_HEADER)?[12] >> 4;
                (TCP, usize::from(words) * 4, 16)
            }
            GsoKind::Udp => (UDP, UDP_HEADER, 6),
        };
        let least = if protocol == TCP { TCP_HEADER } else { UDP_HEADER };
        if found.protocol != protocol || header < least || packet.len() <= at + header {
            return None;
        }
        let here = u16::from_be_bytes([packet[at + field], packet[at + field + 1]]);
        let sum = pseudo_sum(ip, at, protocol, checksum, here)?;
        let cut = match gso.kind {
            GsoKind::TcpV4 | GsoKind::TcpV6 => Cut::Tcp { at, sum },
            GsoKind::Udp => {
                let has_checksum = here != 0 || matches!(checksum, Checksum::Partial { .. });
                Cut::Udp {
                    at,
                    sum: has_checksum.then_some(sum),
                }
            }
        };
        Some(Self {
            packet,
            version: ip.version(),
            cut,
            header: at + header,
            size: usize::from(gso.size),
            done: 0,
            count: 0,
            finished: false,
        })
    }

    /// The packet as the device gave it: headers of the whole, which hold for each segment but for their numbers.
    pub fn whole(&self) -> &'a [u8] {
        self.packet
    }

    /// The packet, if it is the only one and nothing is to be done to it.
    pub fn as_is(&self) -> Option<&'a [u8]> {
        matches!(self.cut, Cut::Whole).then_some(self.packet)
    }

    /// Bytes of the longest segment.
    pub fn longest(&self) -> usize {
        self.header + self.size.min(self.payload())
    }

    /// Whether none has been written or left out.
    pub fn is_untouched(&self) -> bool {
        self.count == 0
    }

    /// Leaves out the first `segments` of those that are left.
    pub fn skip(&mut self, segments: usize) {
        let skipped = segments.min(self.left());
        self.done = (self.done + skipped * self.size).min(self.payload());
        self.count = self.count.wrapping_add(skipped as u16);
        self.finished |= skipped > 0 && self.done == self.payload();
    }

    /// Segments left to be written.
    pub fn left(&self) -> usize {
        if self.finished {
            0
        } else {
            (self.payload() - self.done).div_ceil(self.size.max(1)).max(1)
        }
    }

    /// Bytes of all segments that are left.
    pub fn bytes(&self) -> usize {
        self.left() * self.header + self.payload() - self.done
    }

    /// Bytes of the next segment, `None` after the last one.
    pub fn next_length(&self) -> Option<usize> {
        (!self.finished).then(|| self.header + self.size.min(self.payload() - self.done))
    }

    /// Writes the next segment to the beginning of `to`, which has to hold [`Segments::next_length`] bytes, and returns its length;
    /// `None` after the last one.
    pub fn write_next(&mut self, to: &mut [u8]) -> Option<usize> {
        let length = self.next_length()?;
        let to = &mut to[..length];
        let from = self.header + self.done;
        to[..self.header].copy_from_slice(&self.packet[..self.header]);
        to[self.header..].copy_from_slice(&self.packet[from..from + length - self.header]);
        let is_last = from + length - self.header == self.packet.len();
        match self.cut {
            Cut::Whole => {}
            Cut::Complete {
                start,
                field,
                never_zero,
            } => {
                let sum = checksum(&to[start..]);
                let sum = if sum == 0 && never_zero { 0xffff } else { sum };
                to[field..field + 2].copy_from_slice(&sum.to_be_bytes());
            }
            Cut::Tcp { at, sum } => {
                self.number_ip(to, length);
                self.number_tcp(&mut to[at..], is_last);
                finish_tcp(&mut to[at..], sum);
            }
            Cut::Udp { at, sum } => {
                self.number_ip(to, length);
                finish_udp(&mut to[at..], sum);
            }
        }
        self.done += length - self.header;
        self.count = self.count.wrapping_add(1);
        self.finished = is_last;
        Some(length)
    }

    /// Takes as many of the segments that are left as a bundle of `most` bytes holds, in the form in which it goes to a peer that cuts it itself
    /// ([`crate::bundle`]). `None`, and none is taken: fewer than two are left or fit, or these may not go so.
    pub fn next_bundle(&mut self, most: usize) -> Option<Outgoing<'a>> {
        let (at, pseudo, field) = match self.cut {
            Cut::Tcp { at, sum } => (at, sum, 16),
            Cut::Udp { at, sum } => (at, sum?, 6),
            Cut::Whole | Cut::Complete { .. } => return None,
        };
        let room = most.checked_sub(bundle::DESCRIPTION + self.header)?;
        let packets = (room / self.size).min(self.left()).min(bundle::PACKETS_MAX);
        if packets < 2 || self.size < bundle::SIZE_MIN || self.header > bundle::HEADERS_MAX {
            return None;
        }
        let from = self.header + self.done;
        let taken = (packets * self.size).min(self.packet.len() - from);
        let is_last = from + taken == self.packet.len();
        let size = u16::try_from(self.size).expect("it was read as one");
        let mut outgoing = Outgoing::new(
            size,
            &self.packet[..self.header],
            &self.packet[from..from + taken],
            packets,
        );
        let headers = outgoing.headers();
        self.number_ip(headers, self.header + taken);
        let length = u16::try_from(self.header - at + taken).expect("shorter than the packet it was cut from");
        let upper = &mut headers[at..];
        match self.cut {
            Cut::Udp { .. } => upper[4..6].copy_from_slice(&length.to_be_bytes()),
            Cut::Tcp { .. } | Cut::Whole | Cut::Complete { .. } => self.number_tcp(upper, is_last),
        }
        upper[field..field + 2].copy_from_slice(&pseudo.plus_word(length).partial().to_be_bytes());
        self.skip(packets);
        Some(outgoing)
    }

    /// Bytes of all headers.
    pub(crate) fn headers(&self) -> usize {
        self.header
    }

    /// Hands the segments to `carry` one after the other, with their length and what writes them into their place, until there are no more or it
    /// has enough. Whoever drops one need not write it.
    pub fn each(&mut self, mut carry: impl FnMut(usize, &mut dyn FnMut(&mut [u8])) -> Step) {
        while let Some(length) = self.next_length() {
            let before = self.left();
            let step = carry(length, &mut |place| _ = self.write_next(place));
            if step == Step::Later {
                return;
            }
            if self.left() == before {
                self.skip(1);
            }
            if step == Step::Enough {
                return;
            }
        }
    }

    fn payload(&self) -> usize {
        self.packet.len() - self.header
    }

    /// Length, identification and checksum of the IP header of `length` bytes.
    fn number_ip(&self, segment: &mut [u8], length: usize) {
        let length = u16::try_from(length).expect("shorter than the packet it was cut from");
        match self.version {
            Version::V4 => {
                let header = usize::from(segment[0] & 0x0f) * 4;
                let id = u16::from_be_bytes([segment[4], segment[5]]).wrapping_add(self.count);
                segment[2..4].copy_from_slice(&length.to_be_bytes());
                segment[4..6].copy_from_slice(&id.to_be_bytes());
                segment[10..12].fill(0);
                let sum = checksum(&segment[..header]);
                segment[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            Version::V6 => segment[4..6].copy_from_slice(&(length - 40).to_be_bytes()),
        }
    }

    /// Sequence number and flags.
    fn number_tcp(&self, tcp: &mut [u8], is_last: bool) {
        let done = u32::try_from(self.done).expect("less than 64 KiB");
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(done);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        if !is_last {
            tcp[13] &= !(FIN | PSH);
        }
        if self.count > 0 {
            tcp[13] &= !CWR;
        }
    }
}

fn finish_tcp(tcp: &mut [u8], pseudo: Sum) {
    tcp[16..18].fill(0);
    let length = u16::try_from(tcp.len()).expect("shorter than the packet it was cut from");
    let sum = pseudo.plus_word(length).plus(tcp).checksum();
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
}

fn finish_udp(udp: &mut [u8], pseudo: Option<Sum>) {
    let length = u16::try_from(udp.len()).expect("shorter than the packet it was cut from");
    udp[4..6].copy_from_slice(&length.to_be_bytes());
    if let Some(pseudo) = pseudo {
        udp[6..8].fill(0);
        let sum = pseudo.plus_word(length).plus(udp).checksum();
        // Zero would say that there is none (RFC 768).
        let sum = if sum == 0 { 0xffff } else { sum };
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The sum of the pseudo header without the length. With extension headers only the kernel knows which destination counts: then its
/// own sum, in the field, is used.
fn pseudo_sum(ip: &IpPacket<'_>, at: usize, protocol: u8, checksum: Checksum, field: u16) -> Option<Sum> {
    let bytes = ip.as_bytes();
    let addresses = match ip.version() {
        Version::V4 => &bytes[12..20],
        Version::V6 if at == ip.header_length() => &bytes[8..40],
        Version::V6 => {
            let length = u16::try_from(bytes.len() - at).ok()?;
            return matches!(checksum, Checksum::Partial { .. })
                .then(|| Sum::default().plus_word(field).minus_word(length));
        }
    };
    Some(Sum::default().plus(addresses).plus_word(u16::from(protocol)))
}

#[cfg(test)]
mod tests;
