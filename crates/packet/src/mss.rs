//! The MSS clamp: TCP segments that fit the tunnel without anyone having to discover its MTU.
//!
//! ```text
//!   SYN, SYN-ACK   | IP | TCP, 20 bytes | ... 2 4 hi lo ... |      hi lo := min(hi lo, mtu - IP header - 20)
//!                                         kind length MSS
//! ```
//! The option states the largest segment its sender takes, without room for options of IP or TCP (RFC 9293 section 3.7.1,
//! RFC 6691), so the headers to be taken off are the fixed ones: 40 bytes over IPv4, 60 over IPv6.
//!
//! A SYN without the option is left without: its sender then takes 536 (IPv4) or 1220 (IPv6) bytes at most (RFC 9293
//! section 3.7.1), which fit 576 and 1280, and a longer header might not.

use std::ops::Range;

use crate::checksum::updated;
use crate::upper::{Part, upper};
use crate::{IpPacket, Version};

const TCP: u8 = 6;
const TCP_HEADER: usize = 20;
const SYN: u8 = 0x02;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;

/// The least that a link carries unfragmented (RFC 791 section 3.2). An MTU below that is none, and clamping to it would
/// leave connections that crawl.
const MTU_MIN: u16 = 68;

/// Lowers the MSS option of a TCP SYN or SYN-ACK so that segments fit IP packets of `mtu` bytes, and mends the checksum.
/// True if the packet was changed.
///
/// Left alone are: all other packets, options that are low enough, fragments (of IPv4 all but the first, of IPv6 all that
/// have a fragment header), what stands behind AH or ESP, and whatever is malformed. The checksum is mended, not made
/// right: one that was wrong stays wrong.
pub fn clamp_mss(packet: &mut [u8], mtu: u16) -> bool {
    let Some(syn) = find_syn(packet) else { return false };
    let tcp = &mut packet[syn.tcp];
    let Some(at) = find_mss(tcp) else { return false };
    let old = u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let new = mtu.saturating_sub(syn.headers);
    if mtu < MTU_MIN || old <= new {
        return false;
    }
    tcp[at..at + 2].copy_from_slice(&new.to_be_bytes());
    // Behind a single no-operation the value lies across two words of the sum.
    let (old, new) = match at % 2 {
        0 => (old, new),
        _ => (old.swap_bytes(), new.swap_bytes()),
    };
    let sum = updated(u16::from_be_bytes([tcp[16], tcp[17]]), old, new);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    true
}

struct Syn {
    /// The TCP header with its options.
    tcp: Range<usize>,
    /// Bytes of the fixed headers of IP and TCP.
    headers: u16,
}

fn find_syn(bytes: &[u8]) -> Option<Syn> {
    let packet = IpPacket::parse(bytes).ok()?;
    let upper = upper(&packet).filter(|upper| upper.protocol == TCP)?;
    let headers = match (packet.version(), upper.part) {
        (Version::V4, Part::Whole | Part::First) => 40,
        (Version::V6, Part::Whole) => 60,
        (Version::V4, Part::Later) | (Version::V6, Part::First | Part::Later) => return None,
    };
    let tcp = packet.as_bytes().get(upper.at..)?;
    let length = usize::from(tcp.get(12)? >> 4) * 4;
    let is_syn = tcp.get(13)? & SYN != 0;
    (is_syn && length >= TCP_HEADER && length <= tcp.len()).then_some(Syn {
        tcp: upper.at..upper.at + length,
        headers,
    })
}

/// Offset of the value of the MSS option; `None` if there is none, or if an option before it is malformed.
fn find_mss(tcp: &[u8]) -> Option<usize> {
    let mut at = TCP_HEADER;
    // Each turn moves at least one byte of at most 40.
    while let Some(kind) = tcp.get(at) {
        let length = match *kind {
            END => return None,
            NO_OPERATION => 1,
            _ => usize::from(*tcp.get(at + 1)?),
        };
        if *kind == MSS {
            return (length == 4 && at + 4 <= tcp.len()).then_some(at + 2);
        }
        if length < 2 && *kind != NO_OPERATION {
            return None;
        }
        at += length;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Sum;
    use crate::sample;
    use proptest::prelude::*;
    use std::net::IpAddr;

    /// A TCP header with whole words of options, 12 bytes of payload and no checksum yet.
    fn tcp(flags: u8, options: &[u8]) -> Vec<u8> {
        let words = u8::try_from((TCP_HEADER + options.len()) / 4).expect("a test header");
        let mut tcp = vec![
            0x30,
            0x39,
            0,
            80,
            0,
            0,
            0,
            1,
            0,
            0,
            0,
            0,
            words << 4,
            flags,
            0xff,
            0xff,
            0,
            0,
            0,
            0,
        ];
        tcp.extend(options);
        tcp.extend([0xa5; 12]);
        tcp
    }

    fn sum(packet: &[u8], at: usize) -> u16 {
        let tcp = &packet[at..];
        let parsed = IpPacket::parse(packet).expect("valid");
        match (parsed.source(), parsed.destination()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                Sum::of_pseudo_v4(from, to, TCP, u16::try_from(tcp.len()).expect("short"))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                Sum::of_pseudo_v6(from, to, TCP, u32::try_from(tcp.len()).expect("short"))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => unreachable!("one packet, one family"),
        }
        .plus(tcp)
        .checksum()
    }

    fn summed(mut packet: Vec<u8>, at: usize) -> Vec<u8> {
        let sum = sum(&packet, at);
        packet[at + 16..at + 18].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn v4(flags: u8, options: &[u8]) -> Vec<u8> {
        summed(sample::v4(TCP, &[], 0x4000, &tcp(flags, options)), 20)
    }

    fn v6(flags: u8, options: &[u8]) -> Vec<u8> {
        summed(sample::v6(TCP, &tcp(flags, options)), 40)
    }

    #[test]
    fn a_syn_and_its_answer_are_clamped_over_both_families() {
        for flags in [SYN, SYN | 0x10] {
            let mut packet = v4(flags, &[2, 4, 0x05, 0xb4]);
            assert!(clamp_mss(&mut packet, 1400));
            assert_eq!(packet, v4(flags, &[2, 4, 0x05, 0x50]), "1360 and a sum that is right");
            let mut packet = v6(flags, &[2, 4, 0x05, 0xa0]);
            assert!(clamp_mss(&mut packet, 1400));
            assert_eq!(packet, v6(flags, &[2, 4, 0x05, 0x3c]), "1340 and a sum that is right");
        }
    }

    #[test]
    fn an_mss_that_fits_is_not_raised() {
        for mss in [536u16, 1359, 1360] {
            let [high, low] = mss.to_be_bytes();
            let before = v4(SYN, &[2, 4, high, low]);
            let mut packet = before.clone();
            assert!(!clamp_mss(&mut packet, 1400));
            assert_eq!(packet, before);
        }
    }

    #[test]
    fn an_option_at_an_odd_offset_is_summed_right() {
        let mut packet = v4(SYN, &[1, 2, 4, 0x05, 0xb4, 3, 3, 7]);
        assert!(clamp_mss(&mut packet, 1357));
        assert_eq!(packet, v4(SYN, &[1, 2, 4, 0x05, 0x25, 3, 3, 7]));
    }

    #[test]
    fn a_syn_behind_extension_headers_is_clamped() {
        let mut payload = vec![43, 0, 1, 4, 0, 0, 0, 0, 60, 0, 4, 0, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0];
        payload.extend(tcp(SYN, &[2, 4, 0x05, 0xa0]));
        let mut packet = summed(sample::v6(0, &payload), 64);
        assert!(clamp_mss(&mut packet, 1400));
        assert_eq!(packet[64 + 22..64 + 24], [0x05, 0x3c]);
        assert_eq!(sum(&packet, 64), 0);
    }

    fn assert_untouched(before: &[u8]) {
        let mut packet = before.to_vec();
        assert!(!clamp_mss(&mut packet, 600), "{before:02x?}");
        assert_eq!(packet, before);
    }

    #[test]
    fn what_is_no_syn_is_left_alone() {
        assert_untouched(&v4(0x10, &[2, 4, 0x05, 0xb4]));
        assert_untouched(&sample::v4(17, &[], 0, &tcp(SYN, &[2, 4, 0x05, 0xb4])));
        assert_untouched(&v4(SYN, &[]));
        assert_untouched(&v4(SYN, &[1, 1, 1, 0]));
    }

    #[test]
    fn fragments_without_the_header_and_fragments_of_ipv6_are_left_alone() {
        let tcp = tcp(SYN, &[2, 4, 0x05, 0xb4]);
        assert_untouched(&sample::v4(TCP, &[], 0x0001, &tcp));
        let fragment = |field: u8| [&[TCP, 0, 0, field, 0, 0, 0, 1], &tcp[..]].concat();
        assert_untouched(&sample::v6(44, &fragment(8)));
        assert_untouched(&sample::v6(44, &fragment(1)));
        assert_untouched(&sample::v6(44, &fragment(0)));
        let mut first = sample::v4(TCP, &[], 0x2000, &tcp);
        assert!(clamp_mss(&mut first, 1400));
    }

    #[test]
    fn malformed_options_and_truncated_headers_are_left_alone() {
        for options in [
            [3, 0, 2, 4, 0x05, 0xb4, 0, 0],
            [3, 1, 2, 4, 0x05, 0xb4, 0, 0],
            [2, 3, 0x05, 0xb4, 0, 0, 0, 0],
            [2, 6, 0x05, 0xb4, 0, 0, 0, 0],
            [0, 2, 4, 0x05, 0xb4, 0, 0, 0],
            [3, 99, 2, 4, 0x05, 0xb4, 0, 0],
            [1, 1, 1, 1, 1, 2, 4, 0x05],
            [1, 1, 1, 1, 1, 1, 1, 2],
        ] {
            assert_untouched(&v4(SYN, &options));
        }
        for length in 0..24 {
            let header = &tcp(SYN, &[2, 4, 0x05, 0xb4])[..length];
            assert_untouched(&sample::v4(TCP, &[], 0, header));
            assert_untouched(&sample::v6(TCP, header));
        }
        let mut short = v4(SYN, &[2, 4, 0x05, 0xb4]);
        short[32] = 0x40;
        assert_untouched(&short);
    }

    #[test]
    fn an_mtu_that_is_none_changes_nothing() {
        let before = v4(SYN, &[2, 4, 0x05, 0xb4]);
        for mtu in 0..MTU_MIN {
            let mut packet = before.clone();
            assert!(!clamp_mss(&mut packet, mtu));
            assert_eq!(packet, before);
        }
    }

    proptest! {
        #[test]
        fn a_clamped_packet_is_the_one_with_a_lower_mss(
            mss: u16, mtu in MTU_MIN.., before in proptest::collection::vec(0usize..3, 0..6), is_v6: bool,
        ) {
            let kinds: [&[u8]; 3] = [&[1], &[4, 2], &[3, 3, 7]];
            let mut options: Vec<u8> = before.iter().flat_map(|kind| kinds[*kind]).copied().collect();
            let at = options.len() + 2;
            options.extend([2, 4]);
            options.extend(mss.to_be_bytes());
            options.resize(options.len().next_multiple_of(4), 0);
            let make = if is_v6 { v6 } else { v4 };
            let mut packet = make(SYN, &options);
            let expected = mss.min(mtu.saturating_sub(if is_v6 { 60 } else { 40 }));
            prop_assert_eq!(clamp_mss(&mut packet, mtu), expected < mss);
            options[at..at + 2].copy_from_slice(&expected.to_be_bytes());
            prop_assert_eq!(packet, make(SYN, &options));
        }

        #[test]
        fn no_bytes_panic_and_only_value_and_sum_may_change(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..120), shape in 0u8..3, mtu: u16,
        ) {
            if bytes.len() >= 40 && shape > 0 {
                let length = u16::try_from(bytes.len()).expect("short");
                let (first, protocol_at, length_at, length) = match shape {
                    1 => (0x45, 9, 2, length),
                    _ => (0x60, 6, 4, length - 40),
                };
                bytes[0] = first;
                bytes[protocol_at] = TCP;
                bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
            }
            let before = bytes.clone();
            let changed = clamp_mss(&mut bytes, mtu);
            let different = before.iter().zip(&bytes).filter(|(a, b)| a != b).count();
            prop_assert!(different <= 4);
            prop_assert_eq!(changed, different > 0);
        }
    }
}
