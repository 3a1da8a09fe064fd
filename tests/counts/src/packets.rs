//! A TCP super-packet, as a device with offloads gives it, cut and put together.

use std::hint::black_box;

use packet::checksum::checksum as sum;
use packet::virtio::{Checksum, Gso, GsoKind, Offload};
use packet::{Batch, Coalescer, Ecn, Place, Segments};

/// Segments of the super-packet.
pub const SEGMENTS: usize = 45;

/// IPv4, and TCP with timestamps.
const HEADERS: usize = 20 + 32;

/// Payload of each segment: packets of 1,406 bytes, as many as one batch of datagrams takes.
const SIZE: usize = 1354;

/// What stands around each packet in its record.
const AROUND: usize = 47;

/// Cuts the super-packet into a batch of datagrams, without sealing them.
pub fn segment() -> impl FnMut() {
    let (offload, packet) = super_packet();
    let mut batch = Batch::default();
    move || {
        cut(black_box(&offload), black_box(&packet), &mut batch);
        black_box(batch.bytes());
        batch.clear();
    }
}

/// Puts the packets of one batch together, checksums verified.
pub fn coalesce() -> impl FnMut() {
    let (offload, packet) = super_packet();
    let mut batch = Batch::default();
    let mut places = Vec::new();
    cut(&offload, &packet, &mut batch);
    for at in 0..batch.count() {
        let start = at * batch.each();
        let end = batch.bytes().len().min(start + batch.each());
        let range = start + AROUND..end;
        places.push(Place { buffer: 0, range });
    }
    let arena = [batch.bytes().to_vec()];
    let mut coalescer = Coalescer::new(true);
    move || {
        for place in &places {
            coalescer.push(black_box(&arena), place.clone());
        }
        assert_eq!(coalescer.writes(), 1, "all of one flow, in order");
        coalescer.write(&arena, |pieces, packets| _ = black_box((pieces, packets)));
    }
}

/// The checksum of a packet's length of bytes.
pub fn checksum() -> impl FnMut() {
    let bytes = vec![0x5a; 1400];
    move || _ = black_box(sum(black_box(&bytes)))
}

fn cut(offload: &Offload, packet: &[u8], batch: &mut Batch) {
    let mut segments = Segments::new(offload, packet).expect("a good packet");
    while let Some(length) = segments.next_length() {
        let place = batch.add(AROUND + length, Ecn::default());
        segments.write_next(&mut place[AROUND..]);
    }
}

fn super_packet() -> (Offload, Vec<u8>) {
    let length = HEADERS + SEGMENTS * SIZE;
    let mut packet = vec![0; length];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(length).expect("at most 64 KiB").to_be_bytes());
    packet[6] = 0x40;
    packet[8..10].copy_from_slice(&[64, 6]);
    packet[12..20].copy_from_slice(&[10, 78, 0, 2, 10, 77, 0, 10]);
    packet[20..24].copy_from_slice(&[0x9c, 0x40, 0x14, 0x51]);
    // Header of 32 bytes, ACK; timestamps behind two bytes of padding.
    packet[32..34].copy_from_slice(&[0x80, 0x10]);
    packet[40..44].copy_from_slice(&[1, 1, 8, 10]);
    for (at, byte) in packet[HEADERS..].iter_mut().enumerate() {
        *byte = at as u8;
    }
    let gso = Gso {
        kind: GsoKind::TcpV4,
        size: u16::try_from(SIZE).expect("a packet's length"),
    };
    let offload = Offload {
        checksum: Checksum::Partial { start: 20, field: 16 },
        segments: Some(gso),
    };
    (offload, packet)
}
