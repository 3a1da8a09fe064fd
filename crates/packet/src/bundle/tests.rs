//! Facts about bundles: what is cut from them is what would have been cut from the whole.

use proptest::prelude::*;

use super::*;
use crate::checksum::{Sum, checksum};
use crate::sample;
use crate::sample::{tcp, udp};

const FRAME: usize = 16_376;

/// A packet as a device gives it: with the sum of its pseudo header.
fn whole(kind: GsoKind, flags: u8, payload: &[u8]) -> (u16, Vec<u8>) {
    let (protocol, field, upper) = match kind {
        GsoKind::TcpV4 | GsoKind::TcpV6 => (6, 16, tcp(u32::MAX - 2000, flags, payload)),
        GsoKind::Udp => (17, 6, udp(payload)),
    };
    let length = u16::try_from(upper.len()).expect("short");
    let (mut packet, at, addresses) = match kind {
        GsoKind::TcpV4 => (sample::v4(protocol, &[1, 1, 1, 0], 0x4000, &upper), 24, 12..20),
        GsoKind::TcpV6 | GsoKind::Udp => (sample::v6(protocol, &upper), 40, 8..40),
    };
    let pseudo = Sum::default()
        .plus(&packet[addresses])
        .plus_word(protocol.into())
        .plus_word(length);
    packet[at + field..at + field + 2].copy_from_slice(&pseudo.partial().to_be_bytes());
    (u16::try_from(at).expect("short"), packet)
}

fn all(mut segments: Segments<'_>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(length) = segments.next_length() {
        let mut segment = vec![0; length];
        segments.write_next(&mut segment);
        all.push(segment);
    }
    all
}

/// What arrives if `segments` go in bundles of `most` bytes, and how many of them go alone.
fn through_bundles(mut segments: Segments<'_>, most: usize) -> (Vec<Vec<u8>>, usize) {
    let (mut arrived, mut alone) = (Vec::new(), 0);
    while segments.left() > 0 {
        match segments.next_bundle(most) {
            Some(outgoing) => {
                let frame = outgoing.pieces().concat();
                assert!(frame.len() <= most);
                let bundle = Bundle::parse(&frame).expect("ours can be read");
                let cut = all(bundle.segments(&frame).expect("and cut"));
                assert_eq!((bundle.packets(), outgoing.packets()), (cut.len(), cut.len()));
                assert_eq!(bundle.bytes(), cut.iter().map(Vec::len).sum::<usize>());
                let (given, packet) = Offload::split(&[&bundle.header()[..], bundle.packet(&frame)].concat())
                    .map(|(offload, packet)| (offload, packet.to_vec()))
                    .expect("a header of a device");
                assert_eq!(all(Segments::new(&given, &packet).expect("as a device gives it")), cut);
                if packet[0] >> 4 == 4 {
                    assert_eq!(checksum(&packet[..24]), 0, "the IP header");
                }
                arrived.extend(cut);
            }
            None => {
                alone += 1;
                arrived.push(vec![0; segments.next_length().expect("one more")]);
                segments.write_next(arrived.last_mut().expect("just pushed"));
            }
        }
    }
    (arrived, alone)
}

#[test]
fn a_read_of_a_device_is_as_few_bundles_as_hold_it() {
    let (at, packet) = whole(GsoKind::TcpV6, 0x18, &vec![7; 64_400]);
    let mut segments = Segments::new(&offload(GsoKind::TcpV6, 1400, at), &packet).expect("valid");
    let packets: Vec<usize> =
        std::iter::from_fn(|| segments.next_bundle(FRAME).map(|bundle| bundle.packets())).collect();
    assert_eq!((packets, segments.left()), (vec![11, 11, 11, 11, 2], 0));
}

#[test]
fn the_first_has_the_mark_of_a_smaller_window_and_the_last_the_flags_that_end() {
    let (at, packet) = whole(GsoKind::TcpV4, 0x99, &[1; 500]);
    let mut segments = Segments::new(&offload(GsoKind::TcpV4, 100, at), &packet).expect("valid");
    let flags: Vec<u8> =
        std::iter::from_fn(|| segments.next_bundle(350).map(|bundle| bundle.pieces()[0][2 + 24 + 13])).collect();
    assert_eq!(flags, [0x90, 0x19]);
}

#[test]
fn what_cannot_be_said_in_a_bundle_stays_alone() {
    let (at, packet) = whole(GsoKind::TcpV4, 0x10, &[1; 500]);
    let segments = |size| Segments::new(&offload(GsoKind::TcpV4, size, at), &packet).expect("valid");
    assert!(segments(250).next_bundle(2 + 44 + 499).is_none(), "one fits");
    assert!(segments(500).next_bundle(FRAME).is_none(), "there is one");
    assert!(segments(7).next_bundle(FRAME).is_none(), "too small");
    assert!(Segments::plain(&packet).expect("valid").next_bundle(FRAME).is_none());
    let mut datagrams = sample::v6(17, &udp(&[1; 500]));
    datagrams[46..48].fill(0);
    let plain = Offload {
        checksum: Checksum::AsIs,
        ..offload(GsoKind::Udp, 100, 40)
    };
    let mut segments = Segments::new(&plain, &datagrams).expect("valid");
    assert!(segments.next_bundle(FRAME).is_none(), "without a checksum");
    assert_eq!(segments.left(), 5, "none was taken");
}

#[test]
fn a_bundle_that_is_none_is_malformed() {
    let (_, packet) = whole(GsoKind::TcpV4, 0x10, &[1; 500]);
    let parse = |size: u16, packet: &[u8]| Bundle::parse(&[&size.to_be_bytes(), packet].concat());
    assert_eq!(parse(100, &packet).map(|bundle| bundle.packets()), Ok(5));
    let padded = [&packet[..], b"trailing"].concat();
    assert_eq!(parse(100, &padded), parse(100, &packet));
    for (size, why) in [
        (0, "no size"),
        (7, "too small"),
        (500, "one packet"),
        (65_535, "one packet"),
    ] {
        assert_eq!(parse(size, &packet), Err(DropReason::Malformed), "{why}");
    }
    assert_eq!(
        parse(100, &packet[..packet.len() - 1]),
        Err(DropReason::Malformed),
        "cut off"
    );
    let icmp = sample::v4(1, &[], 0, &[0; 500]);
    assert_eq!(parse(100, &icmp), Err(DropReason::Malformed), "nothing that is cut");
    let fragment = sample::v4(6, &[], 0x2000, &tcp(1, 0x10, &[0; 500]));
    assert_eq!(parse(100, &fragment), Err(DropReason::Malformed), "a fragment");
    let (_, many) = whole(GsoKind::TcpV4, 0x10, &[1; 8 * 65]);
    assert_eq!(parse(8, &many), Err(DropReason::Malformed), "65 packets");
    assert_eq!(Bundle::parse(&[0]), Err(DropReason::Malformed));
    assert_eq!(Bundle::parse(&[0, 100]), Err(DropReason::Malformed));
}

proptest! {
    #[test]
    fn what_arrives_in_bundles_is_what_would_have_gone_alone(
        payload in proptest::collection::vec(any::<u8>(), 1..40_000),
        size in 8u16..3000,
        most in 60usize..FRAME,
        kind in prop_oneof![Just(GsoKind::TcpV4), Just(GsoKind::TcpV6), Just(GsoKind::Udp)],
        flags in any::<u8>(),
    ) {
        let (at, packet) = whole(kind, flags, &payload);
        let segments = Segments::new(&offload(kind, size, at), &packet).expect("valid");
        let expected = all(segments.clone());
        let (arrived, alone) = through_bundles(segments, most);
        prop_assert_eq!(arrived, expected);
        let headers = usize::from(at) + if kind == GsoKind::Udp { 8 } else { 20 };
        if most >= DESCRIPTION + headers + 2 * usize::from(size) {
            prop_assert!(alone <= 1, "{} went alone", alone);
        }
    }

    #[test]
    fn no_bytes_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
        first in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
        protocol in prop_oneof![Just(6u8), Just(17), any::<u8>()],
        size in 0u16..100,
    ) {
        if bytes.len() > 12 {
            bytes[..2].copy_from_slice(&size.to_be_bytes());
            bytes[2] = first;
            let length = u16::try_from(bytes.len() - 2).expect("short");
            match first {
                0x45 => {
                    bytes[4..6].copy_from_slice(&length.to_be_bytes());
                    bytes[8..10].fill(0);
                    bytes[11] = protocol;
                }
                _ => {
                    bytes[6..8].copy_from_slice(&length.saturating_sub(40).to_be_bytes());
                    bytes[8] = protocol;
                }
            }
        }
        if let Ok(bundle) = Bundle::parse(&bytes) {
            let cut = all(bundle.segments(&bytes).expect("checked"));
            prop_assert_eq!(cut.len(), bundle.packets());
            prop_assert!(bundle.packet(&bytes).len() <= bytes.len());
        }
    }
}
