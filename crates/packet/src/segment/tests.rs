//! Facts about segments: each is right by itself, and together they are the packet.

use proptest::prelude::*;

use super::*;
use crate::sample;
use crate::sample::{tcp, udp};

const TCP_V4: GsoKind = GsoKind::TcpV4;

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

fn cut(offload: &Offload, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(offload, packet).expect("a packet to be cut");
    let (mut all, longest, left) = (Vec::new(), segments.longest(), segments.left());
    let mut bytes = segments.bytes();
    while let Some(length) = segments.next_length() {
        let mut segment = vec![0xaa; length];
        assert_eq!(segments.write_next(&mut segment), Some(length));
        assert!(length <= longest);
        bytes -= length;
        assert_eq!(segments.bytes(), bytes);
        all.push(segment);
    }
    assert_eq!(segments.write_next(&mut []), None);
    assert_eq!((all.len(), segments.left()), (left, 0));
    all
}

/// The upper layer's checksum comes out right.
fn is_right(packet: &[u8], at: usize) -> bool {
    let ip = IpPacket::parse(packet).expect("valid");
    let length = u16::try_from(packet.len() - at).expect("short");
    let addresses = match ip.version() {
        Version::V4 => &packet[12..20],
        Version::V6 => &packet[8..40],
    };
    let protocol = u16::from(upper(&ip).expect("an upper layer").protocol);
    let sum = Sum::default().plus(addresses).plus_word(protocol).plus_word(length);
    sum.plus(&packet[at..]).checksum() == 0
}

#[test]
fn tcp_is_cut_with_numbers_flags_and_checksums_of_its_own() {
    let payload: Vec<u8> = (0..250).collect();
    let whole = sample::v4(6, &[], 0x4000, &tcp(1000, CWR | PSH | FIN | 0x10, &payload));
    let segments = cut(&offload(TCP_V4, 100, 20), &whole);
    assert_eq!(segments.iter().map(Vec::len).collect::<Vec<_>>(), [140, 140, 90]);
    for (index, segment) in segments.iter().enumerate() {
        assert_eq!(checksum(&segment[..20]), 0, "the IP header");
        assert!(is_right(segment, 20));
        let id = u16::from_be_bytes([segment[4], segment[5]]);
        assert_eq!(usize::from(id), 0x1234 + index);
        let sequence = u32::from_be_bytes(segment[24..28].try_into().expect("four"));
        assert_eq!(sequence as usize, 1000 + index * 100);
    }
    let flags: Vec<u8> = segments.iter().map(|segment| segment[33]).collect();
    assert_eq!(flags, [CWR | 0x10, 0x10, PSH | FIN | 0x10]);
    assert_eq!(
        segments.iter().flat_map(|s| &s[40..]).copied().collect::<Vec<_>>(),
        payload
    );
}

#[test]
fn datagrams_are_cut_with_lengths_of_their_own() {
    let payload = [7; 250];
    let whole = sample::v6(17, &udp(&payload));
    let segments = cut(&offload(GsoKind::Udp, 100, 40), &whole);
    for (segment, length) in segments.iter().zip([108u16, 108, 58]) {
        assert_eq!(segment[4..6], length.to_be_bytes(), "of IPv6");
        assert_eq!(segment[44..46], length.to_be_bytes(), "of UDP");
        assert!(is_right(segment, 40));
    }
}

#[test]
fn datagrams_without_a_checksum_stay_without() {
    let mut whole = sample::v4(17, &[], 0, &udp(&[1; 30]));
    whole[26..28].fill(0);
    let plain = Offload {
        checksum: Checksum::AsIs,
        ..offload(GsoKind::Udp, 10, 20)
    };
    assert!(cut(&plain, &whole).iter().all(|segment| segment[26..28] == [0, 0]));
}

#[test]
fn a_missing_checksum_is_completed() {
    let payload = b"an odd number of bytes.";
    let mut whole = sample::v4(17, &[], 0, &udp(payload));
    let length = u16::try_from(8 + payload.len()).expect("short");
    let pseudo = Sum::of_pseudo_v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, length);
    whole[26..28].copy_from_slice(&pseudo.partial().to_be_bytes());
    let partial = Offload {
        checksum: Checksum::Partial { start: 20, field: 6 },
        segments: None,
    };
    let segments = cut(&partial, &whole);
    assert_eq!(segments.len(), 1);
    assert!(is_right(&segments[0], 20));
}

#[test]
fn a_sum_of_zero_is_sent_as_ones_by_udp_alone() {
    for (protocol, field, sent) in [(17, 6, 0xffff_u16), (6, 16, 0)] {
        let mut upper = vec![0; 24];
        upper[0..2].copy_from_slice(&0xfff0_u16.to_be_bytes());
        upper[2..4].copy_from_slice(&0x000f_u16.to_be_bytes());
        let whole = sample::v4(protocol, &[], 0, &upper);
        let partial = Offload {
            checksum: Checksum::Partial { start: 20, field },
            segments: None,
        };
        let at = 20 + usize::from(field);
        assert_eq!(cut(&partial, &whole)[0][at..at + 2], sent.to_be_bytes());
    }
}

#[test]
fn what_needs_nothing_is_the_packet_itself_without_padding() {
    let whole = sample::v4(6, &[], 0x4000, &tcp(1, 0x10, &[5; 40]));
    let padded = [&whole[..], &[0; 6]].concat();
    assert_eq!(cut(&Offload::default(), &padded), [whole]);
}

#[test]
fn behind_extension_headers_the_sum_of_the_kernel_counts() {
    let payload = [3; 50];
    let tcp_part = tcp(9, 0x10, &payload);
    let mut upper = vec![6, 0, 1, 4, 0, 0, 0, 0];
    upper.extend(&tcp_part);
    let mut whole = sample::v6(60, &upper);
    let length = u16::try_from(tcp_part.len()).expect("short");
    let pseudo = Sum::default().plus(&whole[8..40]).plus_word(6).plus_word(length);
    whole[64..66].copy_from_slice(&pseudo.partial().to_be_bytes());
    let segments = cut(&offload(GsoKind::TcpV6, 20, 48), &whole);
    assert_eq!(segments.len(), 3);
    assert!(segments.iter().all(|segment| is_right(segment, 48)));
    let unknown = Offload {
        checksum: Checksum::AsIs,
        ..offload(GsoKind::TcpV6, 20, 48)
    };
    assert_eq!(Segments::new(&unknown, &whole).map(|_| ()), Err(DropReason::Malformed));
}

#[test]
fn what_is_not_what_it_is_said_to_be_is_malformed() {
    let tcp_v4 = sample::v4(6, &[], 0x4000, &tcp(1, 0x10, &[0; 100]));
    let udp_v6 = sample::v6(17, &udp(&[0; 100]));
    let malformed = |offload: &Offload, packet: &[u8]| Segments::new(offload, packet).is_err();
    assert!(malformed(&offload(GsoKind::TcpV6, 50, 40), &tcp_v4));
    assert!(malformed(&offload(GsoKind::Udp, 50, 20), &tcp_v4));
    assert!(malformed(&offload(GsoKind::TcpV6, 50, 40), &udp_v6));
    let fragment = sample::v4(6, &[], 0x2000, &tcp(1, 0x10, &[0; 100]));
    assert!(malformed(&offload(TCP_V4, 50, 20), &fragment));
    let headers_only = sample::v4(6, &[], 0, &tcp(1, 0x10, &[]));
    assert!(malformed(&offload(TCP_V4, 50, 20), &headers_only));
    let mut short_header = tcp_v4.clone();
    short_header[32] = 0x40;
    assert!(malformed(&offload(TCP_V4, 50, 20), &short_header));
    let outside = |start, field| Offload {
        checksum: Checksum::Partial { start, field },
        segments: None,
    };
    assert!(malformed(&outside(20, 119), &tcp_v4));
    assert!(malformed(&outside(65_535, 65_535), &tcp_v4));
    assert!(malformed(&outside(0, 10), &tcp_v4), "in the IP header");
}

#[test]
fn segments_may_be_many() {
    let whole = sample::v4(6, &[], 0x4000, &tcp(1, 0x10, &vec![1; 65_000]));
    let segments = Segments::new(&offload(TCP_V4, 1, 20), &whole).expect("valid");
    assert_eq!((segments.left(), segments.longest()), (65_000, 41));
}

#[test]
fn segments_may_be_left_out() {
    let whole = sample::v4(6, &[], 0x4000, &tcp(1, 0x18, &(0..250).collect::<Vec<u8>>()));
    let offload = offload(TCP_V4, 100, 20);
    let all = cut(&offload, &whole);
    for skipped in 0..=4 {
        let mut segments = Segments::new(&offload, &whole).expect("valid");
        segments.skip(skipped);
        assert_eq!(segments.left(), all.len().saturating_sub(skipped));
        for expected in all.iter().skip(skipped) {
            let mut segment = vec![0; segments.next_length().expect("one more")];
            segments.write_next(&mut segment);
            assert_eq!(segment, *expected);
        }
        assert_eq!(segments.next_length(), None);
    }
}

#[test]
fn whoever_drops_a_segment_need_not_write_it_and_whoever_waits_gets_it_again() {
    let whole = sample::v4(6, &[], 0x4000, &tcp(1, 0x18, &[7; 500]));
    let mut segments = Segments::new(&offload(TCP_V4, 100, 20), &whole).expect("valid");
    let mut seen = Vec::new();
    let mut steps = [Step::On, Step::Later].into_iter();
    segments.each(|length, write| {
        seen.push(length);
        match steps.next().expect("asked once more") {
            Step::On => Step::On,
            step => {
                let _ = write;
                step
            }
        }
    });
    assert_eq!(
        (seen.len(), segments.left()),
        (2, 4),
        "the first is gone without being written"
    );
    let mut place = [0; 140];
    segments.each(|length, write| {
        write(&mut place[..length]);
        Step::Enough
    });
    assert_eq!(segments.left(), 3);
    assert_eq!(place[24..28], 101_u32.to_be_bytes(), "the second");
    segments.each(|_, _| Step::Enough);
    assert_eq!(segments.left(), 2);
    let mut dropped = 0;
    segments.each(|_, _| {
        dropped += 1;
        Step::On
    });
    assert_eq!((dropped, segments.left()), (2, 0));
}

proptest! {
    #[test]
    fn segments_together_are_the_packet(
        payload in proptest::collection::vec(any::<u8>(), 1..4000),
        size in 1u16..3000,
        kind in prop_oneof![Just(GsoKind::TcpV4), Just(GsoKind::TcpV6), Just(GsoKind::Udp)],
        sequence in any::<u32>(),
    ) {
        let (whole, at, header) = match kind {
            GsoKind::TcpV4 => (sample::v4(6, &[1, 1, 1, 0], 0x4000, &tcp(sequence, 0x18, &payload)), 24, 20),
            GsoKind::TcpV6 => (sample::v6(6, &tcp(sequence, 0x18, &payload)), 40, 20),
            GsoKind::Udp => (sample::v6(17, &udp(&payload)), 40, 8),
        };
        let segments = cut(&offload(kind, size, at), &whole);
        let at = usize::from(at);
        prop_assert_eq!(segments.len(), payload.len().div_ceil(usize::from(size)));
        prop_assert!(segments.iter().all(|segment| IpPacket::parse(segment).is_ok_and(|ip| ip.as_bytes().len() == segment.len())));
        prop_assert!(segments.iter().all(|segment| is_right(segment, at)));
        let together: Vec<u8> = segments.iter().flat_map(|segment| &segment[at + header..]).copied().collect();
        prop_assert_eq!(together, payload);
    }

    #[test]
    fn no_packet_and_no_header_panics(
        mut packet in proptest::collection::vec(any::<u8>(), 0..200),
        first in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
        kind in prop_oneof![Just(GsoKind::TcpV4), Just(GsoKind::TcpV6), Just(GsoKind::Udp)],
        size in 1u16..,
        start in any::<u16>(),
        field in any::<u16>(),
        cut in any::<bool>(),
    ) {
        if let Some(byte) = packet.first_mut() {
            *byte = first;
        }
        if packet.len() > 9 {
            packet[6] = if packet[9] % 2 == 0 { 6 } else { 17 };
            packet[9] = packet[6];
        }
        let offload = Offload {
            checksum: Checksum::Partial { start, field },
            segments: cut.then_some(Gso { kind, size }),
        };
        if let Ok(mut segments) = Segments::new(&offload, &packet) {
            while let Some(length) = segments.next_length() {
                prop_assert_eq!(segments.write_next(&mut vec![0; length]), Some(length));
            }
        }
    }
}
