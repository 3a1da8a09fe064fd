//! Facts about what is put together: taken apart again it is what it was.

use proptest::prelude::*;

use super::*;
use crate::checksum::{Sum, checksum};
use crate::virtio::GsoKind;
use crate::{Segments, sample};

/// Packets in an arena, three in each buffer.
#[derive(Default)]
struct Batch {
    arena: Vec<Vec<u8>>,
    packets: Vec<Place>,
}

impl Batch {
    fn of(packets: &[Vec<u8>]) -> Self {
        let mut batch = Self::default();
        for some in packets.chunks(3) {
            let (buffer, mut bytes) = (batch.arena.len(), Vec::new());
            for packet in some {
                bytes.extend([0xee; 22]);
                let range = bytes.len()..bytes.len() + packet.len();
                bytes.extend(packet);
                batch.packets.push(Place { buffer, range });
            }
            batch.arena.push(bytes);
        }
        batch
    }

    /// What the device would get, and of how many packets.
    fn writes(&self) -> Vec<(Vec<u8>, usize)> {
        let mut coalescer = Coalescer::new(true);
        for packet in &self.packets {
            coalescer.push(&self.arena, packet.clone());
        }
        let (mut writes, announced) = (Vec::new(), coalescer.writes());
        coalescer.write(&self.arena, |slices, packets| {
            writes.push((slices.iter().flat_map(|slice| slice.to_vec()).collect(), packets));
        });
        assert_eq!(writes.len(), announced);
        assert_eq!(coalescer.writes(), 0);
        writes
    }
}

/// Packets in each write.
fn counts(packets: &[Vec<u8>]) -> Vec<usize> {
    Batch::of(packets).writes().iter().map(|(_, count)| *count).collect()
}

/// What the kernel makes of the writes, for a network without offloads.
fn taken_apart(writes: &[(Vec<u8>, usize)]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (bytes, _) in writes {
        let (offload, packet) = Offload::split(bytes).expect("a header");
        let mut segments = Segments::new(&offload, packet).expect("a packet to be cut");
        while let Some(length) = segments.next_length() {
            let mut segment = vec![0; length];
            segments.write_next(&mut segment);
            packets.push(segment);
        }
    }
    packets
}

/// Puts the right checksums into an IPv4 packet.
fn summed(mut packet: Vec<u8>) -> Vec<u8> {
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let field = if packet[9] == 6 { 36 } else { 26 };
    packet[field..field + 2].fill(0);
    let length = u16::try_from(packet.len() - 20).expect("short");
    let pseudo = Sum::default().plus(&packet[12..20]).plus_word(packet[9].into());
    let sum = pseudo.plus_word(length).plus(&packet[20..]).checksum();
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Number `index` of a row of TCP segments of 100 bytes each.
fn tcp(index: u8) -> Vec<u8> {
    let mut packet = sample::v4(
        6,
        &[],
        0x4000,
        &sample::tcp(1000 + u32::from(index) * 100, 0x10, &[index; 100]),
    );
    packet[5] = packet[5].wrapping_add(index);
    summed(packet)
}

fn udp(index: u8, payload: usize) -> Vec<u8> {
    let mut packet = sample::v4(17, &[], 0, &sample::udp(&vec![index; payload]));
    packet[5] = packet[5].wrapping_add(index);
    summed(packet)
}

fn changed(mut packet: Vec<u8>, at: usize, change: impl FnOnce(&mut u8)) -> Vec<u8> {
    change(&mut packet[at]);
    summed(packet)
}

#[test]
fn a_row_of_segments_is_one_write_that_comes_apart_into_them() {
    let packets: Vec<_> = (0..5).map(tcp).collect();
    let writes = Batch::of(&packets).writes();
    assert_eq!(writes.len(), 1);
    let (offload, packet) = Offload::split(&writes[0].0).expect("a header");
    let gso = Gso {
        kind: GsoKind::TcpV4,
        size: 100,
    };
    assert_eq!(offload.segments, Some(gso));
    assert_eq!(packet.len(), 540);
    assert_eq!(taken_apart(&writes), packets);
}

#[test]
fn datagrams_of_one_size_and_a_smaller_last_one_are_one_write() {
    let packets = vec![udp(0, 80), udp(1, 80), udp(2, 30), udp(3, 80)];
    let writes = Batch::of(&packets).writes();
    assert_eq!(writes.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(taken_apart(&writes), packets);
    let mut without = Coalescer::new(false);
    let batch = Batch::of(&packets);
    for packet in &batch.packets {
        without.push(&batch.arena, packet.clone());
    }
    assert_eq!(without.writes(), 4, "a device that takes one datagram at a time");
}

#[test]
fn nothing_comes_behind_a_push_or_a_short_segment() {
    let push = changed(tcp(1), 33, |flags| *flags |= 0x08);
    assert_eq!(counts(&[tcp(0), push.clone(), tcp(2), tcp(3)]), [2, 2]);
    let writes = Batch::of(&[tcp(0), push.clone()]).writes();
    assert_eq!(taken_apart(&writes), [tcp(0), push.clone()]);
    assert_eq!(counts(&[push, tcp(2)]), [1, 1]);
    let mut short = tcp(1);
    short.truncate(139);
    short[3] = 139;
    assert_eq!(counts(&[tcp(0), summed(short), tcp(2)]), [2, 1]);
}

#[test]
fn whatever_differs_begins_another_write() {
    let differences: &[(&str, usize)] = &[
        ("type of service", 1),
        ("identification", 5),
        ("time to live", 8),
        ("source", 15),
        ("destination", 19),
        ("port", 21),
        ("sequence", 27),
        ("acknowledgement", 31),
        ("window", 35),
        ("urgent pointer", 39),
    ];
    for (what, at) in differences {
        assert_eq!(
            counts(&[tcp(0), changed(tcp(1), *at, |byte| *byte ^= 0x13)]),
            [1, 1],
            "{what}"
        );
    }
    for flags in [0x01, 0x02, 0x04, 0x20, 0x80] {
        assert_eq!(
            counts(&[tcp(0), changed(tcp(1), 33, |byte| *byte |= flags)]),
            [1, 1],
            "{flags:#x}"
        );
    }
    assert_eq!(
        counts(&[tcp(0), changed(tcp(1), 6, |byte| *byte = 0)]),
        [1, 1],
        "may be fragmented"
    );
    assert_eq!(
        counts(&[tcp(0), changed(tcp(1), 6, |byte| *byte = 0x60)]),
        [1, 1],
        "is a fragment"
    );
}

#[test]
fn a_wrong_checksum_stays_as_it_is_and_keeps_its_place() {
    let mut wrong = tcp(1);
    wrong[60] ^= 1;
    let packets = [tcp(0), wrong, tcp(2), tcp(3)];
    let writes = Batch::of(&packets).writes();
    assert_eq!(writes.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [1, 1, 2]);
    assert_eq!(taken_apart(&writes), packets);
    let checks: Vec<_> = writes
        .iter()
        .map(|(bytes, _)| Offload::split(bytes).expect("a header").0.checksum)
        .collect();
    assert_eq!(checks[..2], [Checksum::Verified, Checksum::AsIs]);
    let mut header = tcp(1);
    header[10] ^= 1;
    assert_eq!(counts(&[tcp(0), header, tcp(2)]), [1, 1, 1]);
}

#[test]
fn flows_grow_beside_each_other_and_stay_in_order() {
    let other = |index| changed(tcp(index), 21, |port| *port ^= 1);
    let packets = [tcp(0), other(0), tcp(1), other(1), udp(7, 50), tcp(2), other(2)];
    let writes = Batch::of(&packets).writes();
    assert_eq!(writes.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [3, 3, 1]);
    let apart = taken_apart(&writes);
    assert_eq!(apart[..3], [tcp(0), tcp(1), tcp(2)]);
    assert_eq!(apart[3..6], [other(0), other(1), other(2)]);
}

#[test]
fn a_packet_in_doubt_is_not_overtaken_by_its_flow() {
    let fragment = changed(tcp(1), 6, |byte| *byte = 0x20);
    assert_eq!(counts(&[tcp(0), fragment, tcp(1)]), [1, 1, 1]);
    let fin = changed(tcp(1), 33, |flags| *flags |= 1);
    assert_eq!(counts(&[tcp(0), fin, tcp(1)]), [1, 1, 1]);
}

#[test]
fn an_identification_that_nobody_reads_may_stay() {
    let same = changed(tcp(1), 5, |id| *id = id.wrapping_sub(1));
    assert_eq!(counts(&[tcp(0), same.clone()]), [2]);
    let may_be_fragmented = |packet| changed(packet, 6, |byte| *byte = 0);
    assert_eq!(counts(&[may_be_fragmented(tcp(0)), may_be_fragmented(same)]), [1, 1]);
}

#[test]
fn what_is_too_much_for_one_write_is_more() {
    let packets: Vec<_> = (0..=u8::MAX).chain(0..44).map(tcp).collect();
    let numbered: Vec<_> = packets
        .into_iter()
        .enumerate()
        .map(|(index, mut packet)| {
            let index = u32::try_from(index).expect("small");
            packet[24..28].copy_from_slice(&(1000 + index * 100).to_be_bytes());
            packet[4..6].copy_from_slice(&u16::try_from(index).expect("small").to_be_bytes());
            summed(packet)
        })
        .collect();
    assert_eq!(counts(&numbered), [128, 128, 44]);
    let long = |index: u16| {
        let mut packet = sample::v4(
            6,
            &[],
            0x4000,
            &sample::tcp(u32::from(index) * 30_000, 0x10, &vec![1; 30_000]),
        );
        packet[4..6].copy_from_slice(&index.to_be_bytes());
        summed(packet)
    };
    assert_eq!(counts(&[long(0), long(1), long(2)]), [2, 1]);
    let datagrams: Vec<_> = (0..100).map(|index| udp(index, 50)).collect();
    assert_eq!(counts(&datagrams), [64, 36]);
}

#[test]
fn more_flows_than_may_grow_are_still_in_order() {
    let flow = |flow: u8, index| changed(tcp(index), 21, |port| *port = flow);
    let packets: Vec<_> = (0..3)
        .flat_map(|index| (0..40).map(move |port| flow(port, index)))
        .collect();
    let writes = Batch::of(&packets).writes();
    let mut apart = taken_apart(&writes);
    apart.sort_by_key(|packet| packet[21]);
    let mut expected = packets;
    expected.sort_by_key(|packet| packet[21]);
    assert_eq!(apart, expected, "sorting by flow keeps the order within it");
}

#[test]
fn payloads_that_the_kernel_would_not_cut_stay_alone() {
    for (size, expected) in [(7, vec![1, 1]), (8, vec![2])] {
        assert_eq!(counts(&[udp(0, size), udp(1, size)]), expected, "{size}");
    }
}

#[test]
fn padding_is_left_out_and_garbage_is_handed_on() {
    let padded = [&tcp(0)[..], &[0; 6]].concat();
    let packets = [padded, tcp(1), b"no packet".to_vec(), Vec::new()];
    let writes = Batch::of(&packets).writes();
    assert_eq!(taken_apart(&writes[..1]), [tcp(0), tcp(1)]);
    assert_eq!(writes[1].0[virtio::LENGTH..], *b"no packet");
    assert_eq!(writes.len(), 3);
}

/// A TCP packet with options, or a datagram, to be cut by the rules of [`Segments`].
fn whole(v6: bool, is_tcp: bool, payload: &[u8], push: bool) -> (Vec<u8>, u16) {
    let upper = if is_tcp {
        let mut header = sample::tcp(0xffff_fff0, if push { 0x18 } else { 0x10 }, &[]);
        header[12] = 8 << 4;
        header.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
        header.extend(payload);
        header
    } else {
        sample::udp(payload)
    };
    let protocol = if is_tcp { 6 } else { 17 };
    if v6 {
        (sample::v6(protocol, &upper), 40)
    } else {
        (sample::v4(protocol, &[], 0x4000, &upper), 20)
    }
}

proptest! {
    #[test]
    fn cut_and_put_together_is_the_same(
        v6 in any::<bool>(),
        is_tcp in any::<bool>(),
        push in any::<bool>(),
        size in 320u16..1500,
        payload in proptest::collection::vec(any::<u8>(), 1501..20_000),
    ) {
        let (packet, start) = whole(v6, is_tcp, &payload, push);
        let kind = match (is_tcp, v6) {
            (true, false) => GsoKind::TcpV4,
            (true, true) => GsoKind::TcpV6,
            (false, _) => GsoKind::Udp,
        };
        let offload = Offload {
            checksum: Checksum::Partial { start, field: if is_tcp { 16 } else { 6 } },
            segments: Some(Gso { kind, size }),
        };
        let mut segments = Segments::new(&offload, &packet).expect("valid");
        let mut cut = Vec::new();
        while let Some(length) = segments.next_length() {
            cut.push(vec![0; length]);
            segments.write_next(cut.last_mut().expect("just pushed"));
        }
        let writes = Batch::of(&cut).writes();
        prop_assert_eq!(writes.len(), 1);
        let (again, bytes) = Offload::split(&writes[0].0).expect("a header");
        prop_assert_eq!(again, offload);
        // All but the field that holds the sum of the pseudo header, which the sample leaves empty.
        let field = usize::from(start) + if is_tcp { 16 } else { 6 };
        prop_assert_eq!(&bytes[..field], &packet[..field]);
        prop_assert_eq!(&bytes[field + 2..], &packet[field + 2..]);
        prop_assert_eq!(taken_apart(&writes), cut);
    }

    #[test]
    fn whatever_comes_goes_out_unchanged(
        picks in proptest::collection::vec((0u8..6, 0u8..4, 0usize..60, any::<u8>(), any::<bool>()), 0..60),
    ) {
        let packets: Vec<_> = picks
            .into_iter()
            .map(|(index, kind, at, byte, sum)| {
                let mut packet = if kind == 0 { udp(index, 40) } else { tcp(index) };
                if kind == 3 {
                    packet[at] = byte;
                }
                if sum && packet[0] == 0x45 && packet.len() >= 40 && packet[9] != 0 { summed(packet) } else { packet }
            })
            .collect();
        let writes = Batch::of(&packets).writes();
        let mut out = Vec::new();
        for (bytes, count) in &writes {
            if *count == 1 {
                out.push(bytes[virtio::LENGTH..].to_vec());
            } else {
                out.extend(taken_apart(&[(bytes.clone(), *count)]));
            }
        }
        let without_id = |packets: &[Vec<u8>]| {
            let mut packets: Vec<_> = packets.iter().map(|packet| {
                let mut packet = packet.clone();
                if let Ok(ip) = crate::IpPacket::parse(&packet) {
                    let length = ip.as_bytes().len();
                    packet.truncate(length);
                }
                packet[4..6].fill(0);
                packet[10..12].fill(0);
                packet
            }).collect();
            packets.sort();
            packets
        };
        prop_assert_eq!(without_id(&out), without_id(&packets));
    }
}

/// What arrives of a packet that was cut into bundles of `most` bytes, and single packets where `alone` says so.
fn arrives(mut segments: Segments<'_>, most: usize, alone: &[bool]) -> (Vec<Vec<u8>>, Vec<Option<Bundle>>) {
    let (mut arena, mut bundles) = (Vec::new(), Vec::new());
    while segments.left() > 0 {
        let is_alone = alone.get(arena.len()).copied().unwrap_or_default();
        let bundle = if is_alone { None } else { segments.next_bundle(most) };
        match bundle {
            Some(outgoing) => {
                let frame = outgoing.pieces().concat();
                bundles.push(Some(Bundle::parse(&frame).expect("ours can be read")));
                arena.push(frame);
            }
            None => {
                let mut packet = vec![0; segments.next_length().expect("one more")];
                segments.write_next(&mut packet);
                bundles.push(None);
                arena.push(packet);
            }
        }
    }
    (arena, bundles)
}

fn writes_of(arena: &[Vec<u8>], bundles: &[Option<Bundle>]) -> Vec<(Vec<u8>, usize)> {
    let mut coalescer = Coalescer::new(true);
    for (buffer, bundle) in bundles.iter().enumerate() {
        match bundle {
            Some(bundle) => {
                let range = bundle.range();
                coalescer.push_bundle(arena, Place { buffer, range }, bundle);
            }
            None => {
                let range = 0..arena[buffer].len();
                coalescer.push(arena, Place { buffer, range });
            }
        }
    }
    let mut writes = Vec::new();
    coalescer.write(arena, |slices, packets| {
        writes.push((slices.iter().flat_map(|slice| slice.to_vec()).collect(), packets));
    });
    writes
}

fn whole_tcp(payload: &[u8], options: &[u8]) -> (Offload, Vec<u8>) {
    let packet = sample::v4(6, options, 0x4000, &sample::tcp(5000, 0x18, payload));
    let start = u16::try_from(20 + options.len()).expect("short");
    let offload = Offload {
        checksum: Checksum::Partial { start, field: 16 },
        segments: Some(Gso {
            kind: GsoKind::TcpV4,
            size: 1400,
        }),
    };
    (offload, packet)
}

#[test]
fn bundles_of_one_read_are_one_write_again() {
    let (offload, packet) = whole_tcp(&[7; 64_400], &[]);
    let (arena, bundles) = arrives(Segments::new(&offload, &packet).expect("valid"), 16_376, &[]);
    let writes = writes_of(&arena, &bundles);
    assert_eq!((arena.len(), writes.len(), writes[0].1), (5, 1, 46));
}

#[test]
fn a_bundle_that_cannot_be_put_together_with_others_goes_as_it_is() {
    let (offload, packet) = whole_tcp(&[7; 64_400], &[1, 1, 1, 1]);
    let (arena, bundles) = arrives(Segments::new(&offload, &packet).expect("valid"), 16_376, &[]);
    let writes = writes_of(&arena, &bundles);
    let counts: Vec<usize> = writes.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts, [11, 11, 11, 11, 2]);
    let mut expected = Vec::new();
    let mut segments = Segments::new(&offload, &packet).expect("valid");
    while let Some(length) = segments.next_length() {
        expected.push(vec![0; length]);
        segments.write_next(expected.last_mut().expect("just pushed"));
    }
    assert_eq!(taken_apart(&writes), expected);
}

proptest! {
    #[test]
    fn bundles_and_packets_put_together_come_apart_into_what_was_sent(
        payload in proptest::collection::vec(any::<u8>(), 1..60_000),
        most in 60usize..16_376,
        size in 8u16..3000,
        alone in proptest::collection::vec(any::<bool>(), 0..40),
        udp in any::<bool>(),
    ) {
        let (kind, packet, start) = match udp {
            true => (GsoKind::Udp, sample::v6(17, &sample::udp(&payload)), 40),
            false => (GsoKind::TcpV4, sample::v4(6, &[], 0x4000, &sample::tcp(u32::MAX - 9, 0x18, &payload)), 20),
        };
        let field = if udp { 6 } else { 16 };
        let offload = Offload { checksum: Checksum::Partial { start, field }, segments: Some(Gso { kind, size }) };
        let segments = Segments::new(&offload, &packet).expect("valid");
        let mut expected = Vec::new();
        let mut all = segments.clone();
        while let Some(length) = all.next_length() {
            expected.push(vec![0; length]);
            all.write_next(expected.last_mut().expect("just pushed"));
        }
        let (arena, bundles) = arrives(segments, most, &alone);
        let writes = writes_of(&arena, &bundles);
        prop_assert_eq!(writes.iter().map(|(_, count)| count).sum::<usize>(), expected.len());
        if udp {
            prop_assert!(writes.iter().all(|(_, count)| *count <= 64));
        }
        prop_assert_eq!(taken_apart(&writes), expected);
    }
}
