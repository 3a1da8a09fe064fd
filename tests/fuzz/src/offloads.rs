//! What the targets for offloads do with their bytes: whatever a device gives is cut into packets that are right, and whatever packets come
//! out of the tunnel, what is put together comes apart into them.
//!
//! `crates/packet/tests/corpus.rs` includes this file and replays the corpora on every `cargo test`.

use packet::virtio::{self, Checksum, Offload};
use packet::{Coalescer, IpPacket, Place, Segments};

/// A read of a device with offloads.
pub fn super_packet(data: &[u8]) {
    let Ok((offload, packet)) = Offload::split(data) else {
        return;
    };
    assert_eq!(
        Offload::split(&[&offload.header(0), packet].concat()).map(|(again, _)| again),
        Ok(offload)
    );
    let Ok(mut segments) = Segments::new(&offload, packet) else {
        return;
    };
    let (count, bytes, longest) = (segments.left(), segments.bytes(), segments.longest());
    assert!(offload.segments.is_some() || count == 1);
    let mut all = Vec::new();
    while let Some(length) = segments.next_length() {
        assert!(length <= longest);
        let mut segment = vec![0; length];
        assert_eq!(segments.write_next(&mut segment), Some(length));
        let parsed = IpPacket::parse(&segment).expect("each is a packet");
        assert_eq!(parsed.as_bytes().len(), length);
        all.push(segment);
    }
    assert_eq!((all.len(), all.iter().map(Vec::len).sum::<usize>()), (count, bytes));
    if all.len() > 1 && all.len() < 200 {
        together(&all);
    }
}

/// Packets, each behind two bytes of length.
pub fn packets(mut data: &[u8]) {
    let mut all = Vec::new();
    while let [high, low, rest @ ..] = data {
        let length = usize::from(u16::from_be_bytes([*high, *low]) % 2048).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        all.push(packet.to_vec());
        data = rest;
    }
    together(&all);
}

fn together(packets: &[Vec<u8>]) {
    let mut coalescer = Coalescer::new(true);
    for (buffer, packet) in packets.iter().enumerate() {
        let range = 0..packet.len();
        coalescer.push(packets, Place { buffer, range });
    }
    let mut out = Vec::new();
    coalescer.write(packets, |pieces, count| {
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        let (offload, packet) = Offload::split(&bytes).expect("a header");
        if count == 1 {
            assert!(offload.segments.is_none() && !matches!(offload.checksum, Checksum::Partial { .. }));
            out.push(packet.to_vec());
            return;
        }
        let mut segments = Segments::new(&offload, packet).expect("what was put together can be cut");
        assert_eq!(segments.left(), count);
        assert!(bytes.len() - virtio::LENGTH <= 65_535);
        while let Some(length) = segments.next_length() {
            let mut segment = vec![0; length];
            segments.write_next(&mut segment);
            out.push(segment);
        }
    });
    let (mut before, mut after): (Vec<_>, Vec<_>) = (
        packets.iter().map(|packet| plain(packet)).collect(),
        out.iter().map(|packet| plain(packet)).collect(),
    );
    before.sort();
    after.sort();
    assert_eq!(after, before);
}

/// Without padding, and without what may change: the identification of a packet that may not be fragmented, and the sum over it.
fn plain(packet: &[u8]) -> Vec<u8> {
    let mut plain = packet.to_vec();
    if let Ok(parsed) = IpPacket::parse(packet) {
        plain.truncate(parsed.as_bytes().len());
        if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
            plain[4..6].fill(0);
            plain[10..12].fill(0);
        }
    }
    plain
}
