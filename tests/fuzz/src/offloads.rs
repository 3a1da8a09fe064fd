//! What the targets for offloads do with their bytes: whatever a device gives is cut into packets that are right, and whatever packets come
//! out of the tunnel, what is put together comes apart into them.
//!
//! `crates/packet/tests/corpus.rs` includes this file and replays the corpora on every `cargo test`.

use packet::virtio::{self, Checksum, Offload};
use packet::{Bundle, Coalescer, IpPacket, Place, Segments};

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

/// A frame of several packets: what it is cut into is what a device with offloads would be given, and sent on in smaller frames it is still the same.
pub fn bundle(data: &[u8]) {
    let Ok(bundle) = Bundle::parse(data) else { return };
    let all = cut(bundle.segments(data).expect("checked"));
    assert_eq!(
        (all.len(), all.iter().map(Vec::len).sum::<usize>()),
        (bundle.packets(), bundle.bytes())
    );
    assert!((2..=64).contains(&all.len()));
    let given = [&bundle.header()[..], bundle.packet(data)].concat();
    let (offload, packet) = Offload::split(&given).expect("a header");
    let mut segments = Segments::new(&offload, packet).expect("as a device gives it");
    assert_eq!(cut(segments.clone()), all);
    let mut again = Vec::new();
    while let Some(length) = segments.next_length() {
        match segments.next_bundle(data.len() / 2) {
            Some(smaller) => {
                let frame = smaller.pieces().concat();
                let smaller = Bundle::parse(&frame).expect("ours can be read");
                again.extend(cut(smaller.segments(&frame).expect("checked")));
            }
            None => {
                again.push(vec![0; length]);
                segments.write_next(again.last_mut().expect("just pushed"));
            }
        }
    }
    assert_eq!(again, all);
    let arena = [data];
    let mut coalescer = Coalescer::new(true);
    let range = bundle.range();
    coalescer.push_bundle(&arena, Place { buffer: 0, range }, &bundle);
    coalescer.write(&arena, |pieces, count| {
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        assert_eq!((bytes, count), (given.clone(), all.len()));
    });
}

fn cut(mut segments: Segments<'_>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(length) = segments.next_length() {
        all.push(vec![0; length]);
        segments.write_next(all.last_mut().expect("just pushed"));
    }
    all
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
