//! Fragmentation of IPv4 packets that allow it (RFC 791 sections 2.3 and 3.2).
//!
//! ```text
//!   | header, all options |         payload                  |
//!   | header, all options | 8 n   |                                MF
//!   | header, copied options      | 8 n   |                        MF
//!   | header, copied options              | rest     |             MF as it was
//! ```
//! A packet that is a fragment itself is cut further: offsets count on from its own, and the last one keeps its MF.

use crate::checksum::checksum;
use crate::{IpPacket, Version};

/// The least MTU that is served: every module forwards 68 bytes, the longest header and one block (RFC 791 section 3.2).
const MTU_MIN: u16 = 68;

const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
const BLOCK: usize = 8;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
/// Of an option's kind: to be in every fragment.
const COPIED: u8 = 0x80;

/// Cuts a packet into fragments of at most `mtu` bytes; a packet that fits is its own only fragment.
///
/// `None` if it must not or cannot be cut: it is not IPv4, or forbids it (see [`IpPacket::may_fragment`]); `mtu` is below
/// 68; its header is wrong (the checksum, which would become right in the fragments; an option; a payload that ends outside
/// 64 KiB, or within a block though more is to follow).
pub fn fragment<'a>(packet: &IpPacket<'a>, mtu: u16) -> Option<Fragments<'a>> {
    if packet.version() != Version::V4 || !packet.may_fragment() || mtu < MTU_MIN {
        return None;
    }
    let (header, payload) = packet.as_bytes().split_at(packet.header_length());
    let field = u16::from_be_bytes([header[6], header[7]]);
    let start = usize::from(field & OFFSET) * BLOCK;
    let is_broken_off = field & MORE_FRAGMENTS != 0 && payload.len() % BLOCK != 0;
    if checksum(header) != 0 || is_broken_off || start + payload.len() > usize::from(u16::MAX) {
        return None;
    }
    Some(Fragments {
        mtu: usize::from(mtu),
        header,
        later_header: later_header(header)?,
        payload,
        field,
        is_first: true,
    })
}

/// The header of all fragments but the first: options that are to be copied, filled up to whole words (RFC 791 section
/// 3.1).
fn later_header(header: &[u8]) -> Option<Vec<u8>> {
    let (fixed, options) = header.split_at(20);
    let mut later = fixed.to_vec();
    let mut rest = options;
    // Each turn takes at least one byte of at most 40.
    while let Some(kind) = rest.first() {
        let length = match *kind {
            END => break,
            NO_OPERATION => 1,
            _ => usize::from(*rest.get(1)?),
        };
        if length == 0 || (length == 1 && *kind != NO_OPERATION) || length > rest.len() {
            return None;
        }
        if kind & COPIED != 0 {
            later.extend(&rest[..length]);
        }
        rest = &rest[length..];
    }
    later.resize(later.len().next_multiple_of(4), END);
    later[0] = 0x40 | u8::try_from(later.len() / 4).expect("no longer than the header it came from");
    Some(later)
}

/// The fragments of one packet, in order. At most 8,185: 65,475 bytes behind the longest header, and at least
/// one block of them in each.
#[derive(Clone, Debug)]
pub struct Fragments<'a> {
    mtu: usize,
    header: &'a [u8],
    later_header: Vec<u8>,
    /// What has not been sent yet.
    payload: &'a [u8],
    /// Flags and offset of the next fragment, as if it were the last.
    field: u16,
    is_first: bool,
}

impl Fragments<'_> {
    /// Writes the next fragment into `out` instead of what was in it; false, and `out` empty, if there is none left.
    pub fn write_next(&mut self, out: &mut Vec<u8>) -> bool {
        out.clear();
        let header = match self.is_first {
            true => self.header,
            false if self.payload.is_empty() => return false,
            false => &self.later_header,
        };
        let room = self.mtu - header.len();
        let (now, rest) = match self.payload.len() <= room {
            true => (self.payload, &[][..]),
            false => self.payload.split_at(room / BLOCK * BLOCK),
        };
        let more = if rest.is_empty() { 0 } else { MORE_FRAGMENTS };
        let total = u16::try_from(header.len() + now.len()).expect("no longer than the packet");
        out.extend(header);
        out[2..4].copy_from_slice(&total.to_be_bytes());
        out[6..8].copy_from_slice(&(self.field | more).to_be_bytes());
        out[10..12].copy_from_slice(&[0, 0]);
        let sum = checksum(out);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
        out.extend(now);

        self.is_first = false;
        self.payload = rest;
        if !rest.is_empty() {
            // No carry into the flags: the whole payload ends within 64 KiB.
            self.field += u16::try_from(now.len() / BLOCK).expect("blocks of a packet");
        }
        true
    }
}

impl Iterator for Fragments<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        self.write_next(&mut out).then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use proptest::prelude::*;

    fn cut(packet: &[u8], mtu: u16) -> Option<Vec<Vec<u8>>> {
        Some(fragment(&IpPacket::parse(packet).expect("valid"), mtu)?.collect())
    }

    fn field(packet: &[u8]) -> u16 {
        u16::from_be_bytes([packet[6], packet[7]])
    }

    fn payload(length: usize) -> Vec<u8> {
        (0..length)
            .map(|at| u8::try_from(at % 251).expect("below 251"))
            .collect()
    }

    #[test]
    fn a_packet_is_cut_at_blocks_of_eight() {
        let whole = sample::v4(17, &[], 0, &payload(2000));
        let fragments = cut(&whole, 1006).expect("cut");
        let seen: Vec<_> = fragments.iter().map(|one| (one.len(), field(one))).collect();
        assert_eq!(seen, [(20 + 984, 0x2000), (20 + 984, 0x2000 | 123), (20 + 32, 246)]);
        assert!(
            fragments
                .iter()
                .all(|one| checksum(&one[..20]) == 0 && one[4..6] == whole[4..6])
        );
    }

    #[test]
    fn a_packet_that_fits_is_its_own_fragment() {
        for field in [0, 0x2003, 3] {
            let whole = sample::v4(17, &[7, 4, 0, 0], field, &payload(80));
            assert_eq!(cut(&whole, 104), Some(vec![whole]));
        }
    }

    #[test]
    fn a_fragment_is_cut_further() {
        let whole = sample::v4(17, &[], 0x2000 | 100, &payload(160));
        let fields: Vec<_> = cut(&whole, 100).expect("cut").iter().map(|one| field(one)).collect();
        assert_eq!(fields, [0x2000 | 100, 0x2000 | 110]);
        let last = sample::v4(17, &[], 100, &payload(161));
        let fields: Vec<_> = cut(&last, 100).expect("cut").iter().map(|one| field(one)).collect();
        assert_eq!(fields, [0x2000 | 100, 0x2000 | 110, 120]);
    }

    #[test]
    fn later_fragments_carry_copied_options_only() {
        // Record route (7) is not to be copied, loose source route (131) is.
        let options = [7, 3, 4, 1, 131, 7, 4, 10, 9, 9, 9, 0];
        let whole = sample::v4(17, &options, 0, &payload(200));
        let fragments = cut(&whole, 120).expect("cut");
        assert_eq!(fragments[0][..1], [0x48]);
        assert_eq!(fragments[0][20..32], options);
        for later in &fragments[1..] {
            assert_eq!(later[0], 0x47);
            assert_eq!(later[20..28], [131, 7, 4, 10, 9, 9, 9, 0]);
            assert_eq!(checksum(&later[..28]), 0);
        }
    }

    #[test]
    fn what_must_not_be_cut_is_not() {
        assert_eq!(cut(&sample::v4(17, &[], 0x4000, &payload(200)), 100), None);
        assert_eq!(cut(&sample::v6(17, &payload(200)), 100), None);
        assert_eq!(cut(&sample::v4(17, &[], 0, &payload(200)), 67), None);
    }

    #[test]
    fn a_wrong_header_is_not_made_right() {
        let mut wrong = sample::v4(17, &[], 0, &payload(200));
        wrong[10] ^= 1;
        assert_eq!(cut(&wrong, 100), None);
        for options in [[7, 0, 0, 0], [7, 1, 0, 0], [7, 5, 0, 0], [1, 1, 1, 7]] {
            assert_eq!(cut(&sample::v4(17, &options, 0, &payload(200)), 100), None);
        }
        assert_eq!(cut(&sample::v4(17, &[], 0x2000, &payload(201)), 100), None);
        assert_eq!(cut(&sample::v4(17, &[], 0x1fff, &payload(8)), 100), None);
    }

    #[test]
    fn the_largest_packet_is_cut_to_the_least_mtu() {
        let whole = sample::v4(17, &[1; 40], 0, &payload(65_535 - 60));
        let fragments = cut(&whole, 68).expect("cut");
        // One block behind the 40 bytes of options, then six behind each bare header.
        assert_eq!(fragments.len(), 1 + (65_475usize - 8).div_ceil(48));
    }

    proptest! {
        #[test]
        fn fragments_make_the_packet_again(
            length in 0usize..5000, mtu in MTU_MIN..3000, start in 0u16..4000, is_part: bool,
            kinds in proptest::collection::vec(0usize..4, 0..6),
        ) {
            let choices: [&[u8]; 4] = [&[1], &[7, 3, 4], &[131, 3, 4], &[0x88, 4, 1, 2]];
            let mut options: Vec<u8> = kinds.iter().flat_map(|kind| choices[*kind]).copied().collect();
            options.resize(options.len().next_multiple_of(4), 0);
            let length = if is_part { length / 8 * 8 } else { length };
            let more = if is_part { 0x2000 } else { 0 };
            let whole = sample::v4(17, &options, start | more, &payload(length));
            let fragments = cut(&whole, mtu).expect("cut");
            let mut made: Vec<u8> = Vec::new();
            for (index, one) in fragments.iter().enumerate() {
                let packet = IpPacket::parse(one).expect("valid");
                let header = packet.header_length();
                prop_assert!(one.len() <= usize::from(mtu) && packet.as_bytes().len() == one.len());
                prop_assert_eq!(checksum(&one[..header]), 0);
                prop_assert_eq!(usize::from(field(one) & OFFSET), usize::from(start) + made.len() / 8);
                prop_assert_eq!(made.len() % 8, 0);
                let is_last = index + 1 == fragments.len();
                prop_assert_eq!(field(one) & MORE_FRAGMENTS != 0, is_part || !is_last);
                prop_assert_eq!((&one[1..2], &one[4..6], &one[8..10]), (&whole[1..2], &whole[4..6], &whole[8..10]));
                prop_assert_eq!(&one[12..20], &whole[12..20]);
                made.extend(&one[header..]);
            }
            prop_assert_eq!(made, payload(length));
        }

        #[test]
        fn no_packet_panics(mut bytes in proptest::collection::vec(any::<u8>(), 20..300), mtu: u16) {
            bytes[0] = 0x40 | bytes[0] & 0x0f;
            let total = u16::try_from(bytes.len()).expect("short");
            bytes[2..4].copy_from_slice(&total.to_be_bytes());
            if let Ok(packet) = IpPacket::parse(&bytes) {
                let header = packet.header_length();
                bytes[10..12].copy_from_slice(&[0, 0]);
                let sum = checksum(&bytes[..header]);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                for one in cut(&bytes, mtu).into_iter().flatten() {
                    prop_assert!(one.len() <= usize::from(mtu));
                }
            }
        }
    }
}
