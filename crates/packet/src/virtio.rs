//! The header that a device with offloads puts before each packet: what of it is left for us to do, or for the kernel.
//!
//! ```text
//!   | flags 1 | gso type 1 | header length 2 | gso size 2 | checksum start 2 | checksum offset 2 |     in the order of the host
//! ```
//! `struct virtio_net_hdr` of the Virtual I/O Device specification, version 1.2, section 5.1.6, without the number of buffers. The
//! lengths of headers that it names are not used: they are only hints there, and we have to read the headers anyway.

use crate::DropReason;

/// Bytes of the header.
pub const LENGTH: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
/// Several datagrams of one flow (Linux 6.2).
const GSO_UDP: u8 = 5;
/// A flag beside the type: the segments carry CWR as RFC 3168 wants it, which is what we do in any case.
const GSO_ECN: u8 = 0x80;

/// What is left to be done to a packet before it is one for the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The checksum of the upper layer.
    pub checksum: Checksum,
    /// Cutting it into segments.
    pub segments: Option<Gso>,
}

/// The state of an upper layer's checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// As it is on the wire: right or wrong.
    #[default]
    AsIs,
    /// It was found to be right.
    Verified,
    /// The field holds the sum of the pseudo header; the sum over all from `start` is to be put there.
    Partial {
        /// Where the upper layer begins, in bytes of the packet.
        start: u16,
        /// Where its checksum stands, from `start`.
        field: u16,
    },
}

/// How a packet is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Into what.
    pub kind: GsoKind,
    /// Bytes of payload in each segment but the last; never 0.
    pub size: u16,
}

/// What a packet is to be cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP segments over IPv4.
    TcpV4,
    /// TCP segments over IPv6.
    TcpV6,
    /// UDP datagrams over either.
    Udp,
}

impl Offload {
    /// Takes the header off what a device gave.
    ///
    /// # Errors
    /// [`DropReason::Malformed`]: shorter than the header, or something is asked for that no device of ours was told to ask for.
    pub fn split(bytes: &[u8]) -> Result<(Self, &[u8]), DropReason> {
        let (header, packet) = bytes.split_first_chunk::<LENGTH>().ok_or(DropReason::Malformed)?;
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let checksum = match header[0] {
            flags if flags & NEEDS_CHECKSUM != 0 => Checksum::Partial {
                start: word(6),
                field: word(8),
            },
            flags if flags & DATA_VALID != 0 => Checksum::Verified,
            _ => Checksum::AsIs,
        };
        let kind = match header[1] & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCP_V4 => Some(GsoKind::TcpV4),
            GSO_TCP_V6 => Some(GsoKind::TcpV6),
            GSO_UDP => Some(GsoKind::Udp),
            _ => return Err(DropReason::Malformed),
        };
        let segments = match (kind, word(4)) {
            (None, _) => None,
            (Some(_), 0) => return Err(DropReason::Malformed),
            (Some(kind), size) => Some(Gso { kind, size }),
        };
        Ok((Self { checksum, segments }, packet))
    }

    /// The header for a packet whose headers take `headers` bytes.
    pub fn header(&self, headers: u16) -> [u8; LENGTH] {
        let mut header = [0; LENGTH];
        match self.checksum {
            Checksum::AsIs => {}
            Checksum::Verified => header[0] = DATA_VALID,
            Checksum::Partial { start, field } => {
                header[0] = NEEDS_CHECKSUM;
                header[6..8].copy_from_slice(&start.to_ne_bytes());
                header[8..10].copy_from_slice(&field.to_ne_bytes());
            }
        }
        if let Some(Gso { kind, size }) = self.segments {
            header[1] = match kind {
                GsoKind::TcpV4 => GSO_TCP_V4,
                GsoKind::TcpV6 => GSO_TCP_V6,
                GsoKind::Udp => GSO_UDP,
            };
            header[2..4].copy_from_slice(&headers.to_ne_bytes());
            header[4..6].copy_from_slice(&size.to_ne_bytes());
        }
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_written_is_read() {
        let plain = Offload::default();
        let verified = Offload {
            checksum: Checksum::Verified,
            segments: None,
        };
        let cut = |kind| Offload {
            checksum: Checksum::Partial { start: 40, field: 16 },
            segments: Some(Gso { kind, size: 1398 }),
        };
        for offload in [
            plain,
            verified,
            cut(GsoKind::TcpV4),
            cut(GsoKind::TcpV6),
            cut(GsoKind::Udp),
        ] {
            let mut bytes = offload.header(60).to_vec();
            bytes.extend(b"packet");
            assert_eq!(Offload::split(&bytes), Ok((offload, &b"packet"[..])));
        }
    }

    #[test]
    fn the_mark_of_ecn_changes_nothing() {
        let mut bytes = Offload {
            checksum: Checksum::Partial { start: 20, field: 16 },
            segments: Some(Gso {
                kind: GsoKind::TcpV4,
                size: 1000,
            }),
        }
        .header(40);
        let without = Offload::split(&bytes).map(|(offload, _)| offload);
        bytes[1] |= 0x80;
        assert_eq!(Offload::split(&bytes).map(|(offload, _)| offload), without);
    }

    #[test]
    fn what_nobody_asked_for_and_nothing_at_a_time_are_malformed() {
        for kind in [2, 3, 6, 0x7f] {
            assert_eq!(
                Offload::split(&[1, kind, 0, 0, 9, 9, 0, 0, 0, 0]),
                Err(DropReason::Malformed)
            );
        }
        assert_eq!(
            Offload::split(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
            Err(DropReason::Malformed)
        );
        assert_eq!(Offload::split(&[0; LENGTH - 1]), Err(DropReason::Malformed));
    }

    proptest! {
        #[test]
        fn no_header_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok((_, packet)) = Offload::split(&bytes) {
                prop_assert_eq!(packet.len() + LENGTH, bytes.len());
            }
        }
    }
}
