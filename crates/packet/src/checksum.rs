//! The internet checksum: computed (RFC 1071), mended after a change (RFC 1624), and its pseudo headers.
//!
//! ```text
//!   IPv4 (RFC 9293 section 3.1)         IPv6 (RFC 8200 section 8.1)
//!   | source            4 |             | source                 16 |
//!   | destination       4 |             | destination            16 |
//!   | 0 | protocol | len 2 |            | length 4 | 0 0 0 | next 1 |
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

/// A one's complement sum under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The pseudo header of a TCP or UDP segment of `length` bytes over IPv4.
    pub fn of_pseudo_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: u16) -> Self {
        Self::default()
            .plus(&source.octets())
            .plus(&destination.octets())
            .plus(&[0, protocol])
            .plus(&length.to_be_bytes())
    }

    /// The pseudo header of an upper-layer packet of `length` bytes over IPv6. `destination` is the final one, which a
    /// routing header may name.
    pub fn of_pseudo_v6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, length: u32) -> Self {
        Self::default()
            .plus(&source.octets())
            .plus(&destination.octets())
            .plus(&length.to_be_bytes())
            .plus(&[0, 0, 0, next_header])
    }

    /// With `bytes` added. An odd last byte is filled up with a zero, so only the last piece may have an odd length.
    ///
    /// The words are added as this machine reads them, four at a time: swapping the bytes of every word swaps those of the
    /// folded sum (RFC 1071 section 2 (B)), so one swap at the end is enough.
    #[must_use]
    pub fn plus(self, bytes: &[u8]) -> Self {
        let (groups, rest) = bytes.as_chunks::<8>();
        let halves = |group: u64| (group & 0xffff_ffff) + (group >> 32);
        // Without checks for what cannot happen (see below) in any profile: they keep four words from being added at once.
        let add = |sum: u64, group: &[u8; 8]| sum.wrapping_add(halves(u64::from_ne_bytes(*group)));
        let sum = groups.iter().fold(0, add);
        let (words, last) = rest.as_chunks::<2>();
        let tail: u64 = words.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum();
        let last = last.first().map_or(0, |byte| u64::from(u16::from_ne_bytes([*byte, 0])));
        // A packet has at most 2^16 bytes: 2^13 groups of twice 32 bits stay far from 64 bits.
        Self(self.0.wrapping_add(sum).wrapping_add(tail).wrapping_add(last))
    }

    /// With one word added.
    #[must_use]
    pub fn plus_word(self, word: u16) -> Self {
        Self(self.0.wrapping_add(u64::from(word.to_be())))
    }

    /// With one word taken out that was added before.
    #[must_use]
    pub fn minus_word(self, word: u16) -> Self {
        self.plus_word(!word)
    }

    /// The folded sum itself: what stands in a checksum field that somebody else is to complete.
    pub fn partial(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::from_be(u16::try_from(sum).expect("folded to 16 bits"))
    }

    /// The checksum: the complement of the folded sum. Zero if the checksum was part of what was added and is right.
    pub fn checksum(self) -> u16 {
        !self.partial()
    }
}

/// The checksum of `bytes`; zero if they contain their checksum and it is right.
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::default().plus(bytes).checksum()
}

/// `checksum` after the 16-bit word `old` became `new` (RFC 1624, equation 3, the one that never turns +0 into -0).
///
/// A value at an odd offset lies across two words; swap the bytes of both arguments for it (RFC 1071 section 2 (B)).
pub fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from(sum).expect("three words fold to 16 bits in two steps")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Word by word with the carry added at once, as RFC 1071 section 1 tells it.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u16;
        for pair in bytes.chunks(2) {
            let word = u16::from(pair[0]) << 8 | u16::from(pair.get(1).copied().unwrap_or(0));
            let (next, carry) = sum.overflowing_add(word);
            sum = next + u16::from(carry);
        }
        !sum
    }

    #[test]
    fn the_example_of_rfc_1071_is_reproduced() {
        let sum = checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum, !0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_is_reproduced() {
        assert_eq!(updated(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn nothing_sums_to_zero() {
        assert_eq!(checksum(&[]), 0xffff);
        assert_eq!(checksum(&[0xff, 0xff]), 0);
    }

    #[test]
    fn a_real_udp_datagram_over_ipv4_is_right() {
        // 10.0.0.1:1 to 10.0.0.2:2, "hi": the sum of all words, by hand: 1400 + 3 + 17 + 10 + 3 + 10 + 6869.
        let mut datagram = [0, 1, 0, 2, 0, 10, 0, 0, b'h', b'i'];
        let pseudo = Sum::of_pseudo_v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, 10);
        let sum = pseudo.plus(&datagram).checksum();
        assert_eq!(sum, !(0x1400 + 3 + 17 + 10 + 3 + 10 + 0x6869));
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(pseudo.plus(&datagram).checksum(), 0);
    }

    proptest! {
        #[test]
        fn the_sum_is_the_one_of_the_naive_model(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(checksum(&bytes), naive(&bytes));
        }

        #[test]
        fn pieces_sum_to_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..100) {
            let cut = (cut * 2).min(bytes.len() / 2 * 2);
            let sum = Sum::default().plus(&bytes[..cut]).plus(&bytes[cut..]);
            prop_assert_eq!(sum.checksum(), checksum(&bytes));
        }

        #[test]
        fn pseudo_headers_are_what_the_naive_model_sums(
            v4 in any::<([u8; 4], [u8; 4], u8, u16)>(),
            v6 in any::<([u8; 16], [u8; 16], u8, u32)>(),
        ) {
            let sum = Sum::of_pseudo_v4(v4.0.into(), v4.1.into(), v4.2, v4.3);
            let bytes = [&v4.0[..], &v4.1, &[0, v4.2], &v4.3.to_be_bytes()].concat();
            prop_assert_eq!(sum.checksum(), naive(&bytes));
            let sum = Sum::of_pseudo_v6(v6.0.into(), v6.1.into(), v6.2, v6.3);
            let bytes = [&v6.0[..], &v6.1, &v6.3.to_be_bytes(), &[0, 0, 0, v6.2]].concat();
            prop_assert_eq!(sum.checksum(), naive(&bytes));
        }

        #[test]
        fn an_update_is_what_a_new_sum_would_be(
            mut bytes in proptest::collection::vec(any::<u8>(), 4..80),
            at in 0usize..78,
            new in any::<u16>(),
        ) {
            // All zeros is the one case in which the two may differ (RFC 1624 section 3); no packet is.
            bytes[0] = 0x45;
            let at = 1 + at % (bytes.len() - 2);
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let before = checksum(&bytes);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            let (old, new) = if at % 2 == 0 { (old, new) } else { (old.swap_bytes(), new.swap_bytes()) };
            prop_assert_eq!(updated(before, old, new), checksum(&bytes));
        }
    }
}
