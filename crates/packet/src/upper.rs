//! Where the header of the upper layer begins, behind whatever stands between it and the IP header.
//!
//! ```text
//!   IPv4   | header, options |                                          | TCP ...
//!   IPv6   | header | hop-by-hop | routing | destination | fragment ... | TCP ...
//! ```
//! RFC 8200 section 4. Headers that hide or protect what follows (AH, ESP) are the upper layer here: nothing behind them
//! may be changed.

use crate::{IpPacket, Version};

/// Extension headers looked at. RFC 8200 section 4.1 knows six kinds, only one of which may come twice.
pub(crate) const EXTENSIONS_MAX: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// What part of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// The beginning, with the header of the upper layer. Also all that stands behind a fragment header but needs none
    /// (RFC 6946).
    First,
    /// A part that begins elsewhere: there is no header of the upper layer.
    Later,
}

/// The upper layer of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Upper {
    /// Protocol number of the upper layer, also of a [`Part::Later`].
    pub(crate) protocol: u8,
    /// Offset of its first byte; at most the length of the packet.
    pub(crate) at: usize,
    /// Is it there at all?
    pub(crate) part: Part,
}

/// Finds the upper layer; `None` if the extension headers are cut off or too many.
pub(crate) fn upper(packet: &IpPacket<'_>) -> Option<Upper> {
    match packet.version() {
        Version::V4 => upper_v4_in(packet.as_bytes()),
        Version::V6 => upper_v6(packet.as_bytes()),
    }
}

/// The same for what may be no more than the beginning of an IPv4 packet; `None` if there is less than its header.
pub(crate) fn upper_v4_in(bytes: &[u8]) -> Option<Upper> {
    let header: &[u8; 20] = bytes.first_chunk()?;
    let field = u16::from_be_bytes([header[6], header[7]]);
    Some(Upper {
        protocol: header[9],
        at: usize::from(header[0] & 0x0f) * 4,
        part: part(field & 0x1fff != 0, field & 0x2000 != 0),
    })
}

/// The same for what may be no more than the beginning of an IPv6 packet.
pub(crate) fn upper_v6(bytes: &[u8]) -> Option<Upper> {
    let mut found = Upper {
        protocol: *bytes.get(6)?,
        at: 40,
        part: Part::Whole,
    };
    for _ in 0..=EXTENSIONS_MAX {
        let length = match found.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => 8 + usize::from(*bytes.get(found.at + 1)?) * 8,
            FRAGMENT => 8,
            _ => return Some(found),
        };
        let header = bytes.get(found.at..found.at + length)?;
        if found.protocol == FRAGMENT {
            let field = u16::from_be_bytes([header[2], header[3]]);
            found.part = part(field & 0xfff8 != 0, true);
        }
        found.protocol = header[0];
        found.at += length;
        if found.part == Part::Later {
            return Some(found);
        }
    }
    None
}

fn part(has_offset: bool, has_more: bool) -> Part {
    match (has_offset, has_more) {
        (true, _) => Part::Later,
        (false, true) => Part::First,
        (false, false) => Part::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use proptest::prelude::*;

    fn found(bytes: &[u8]) -> Option<Upper> {
        upper(&IpPacket::parse(bytes).expect("valid"))
    }

    #[test]
    fn options_of_ipv4_are_skipped() {
        let bytes = sample::v4(6, &[7, 4, 0, 0], 0, &[0; 20]);
        let upper = found(&bytes).expect("found");
        assert_eq!((upper.protocol, upper.at, upper.part), (6, 24, Part::Whole));
    }

    #[test]
    fn fragments_of_ipv4_are_told_apart() {
        let part = |field| found(&sample::v4(6, &[], field, &[0; 8])).expect("found").part;
        assert_eq!(part(0x4000), Part::Whole);
        assert_eq!(part(0x2000), Part::First);
        assert_eq!(part(0x2001), Part::Later);
        assert_eq!(part(0x0001), Part::Later);
    }

    #[test]
    fn extension_headers_are_walked() {
        let mut payload = vec![43, 0, 1, 4, 0, 0, 0, 0];
        payload.extend([60, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        payload.extend([6, 0, 1, 4, 0, 0, 0, 0]);
        payload.extend([0; 20]);
        let upper = found(&sample::v6(0, &payload)).expect("found");
        assert_eq!((upper.protocol, upper.at, upper.part), (6, 72, Part::Whole));
    }

    #[test]
    fn a_fragment_header_tells_the_part() {
        let part = |field: u16| {
            let mut payload = vec![6, 0, 0, 0, 0, 0, 0, 1];
            payload[2..4].copy_from_slice(&field.to_be_bytes());
            payload.extend([0; 8]);
            let upper = found(&sample::v6(44, &payload)).expect("found");
            (upper.protocol, upper.at, upper.part)
        };
        assert_eq!(part(0), (6, 48, Part::First));
        assert_eq!(part(1), (6, 48, Part::First));
        assert_eq!(part(8), (6, 48, Part::Later));
    }

    #[test]
    fn endless_and_truncated_extensions_lead_nowhere() {
        assert_eq!(found(&sample::v6(0, &[0; 8 * 20])), None);
        assert_eq!(found(&sample::v6(0, &[6, 1, 0, 0, 0, 0, 0, 0])), None);
        assert_eq!(found(&sample::v6(0, &[])), None);
    }

    proptest! {
        #[test]
        fn no_packet_panics(next in any::<u8>(), payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = sample::v6(next, &payload);
            if let Some(upper) = found(&bytes) {
                prop_assert!(upper.at <= bytes.len());
            }
        }
    }
}
