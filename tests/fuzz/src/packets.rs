//! What the target for packets that do not fit does with its bytes: whatever becomes of a packet, the MSS clamp, fragments and
//! ICMP answers are packets themselves, fit, and say no more than they may.
//!
//! `crates/session/tests/corpus.rs` includes this file and replays the corpus on every `cargo test`.

use now::Awake;
use packet::checksum::checksum;
use packet::{IpPacket, Version, clamp_mss, too_big};
use session::{Fit, Fitter};

/// The longest answer (RFC 4443 section 2.4).
const ANSWER_MAX: usize = 1280;

/// Two bytes of MTU, one that says whether to clamp, and a packet: as it is, and with a header checksum that is right.
pub fn fit(data: &[u8]) {
    let [high, low, clamp, packet @ ..] = data else { return };
    let mtu = u16::from_be_bytes([*high, *low]);
    one(packet, mtu, clamp & 1 == 0);
    let mut packet = packet.to_vec();
    if IpPacket::parse(&packet).is_ok_and(|packet| packet.version() == Version::V4) {
        mend(&mut packet);
        one(&packet, mtu, clamp & 1 == 0);
    }
}

fn mend(packet: &mut [u8]) {
    let length = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = checksum(&packet[..length]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn one(packet: &[u8], mtu: u16, clamp: bool) {
    let mut fitter = Fitter::new(clamp);
    let fits = packet.len() <= usize::from(mtu);
    match fitter.fit(packet, mtu, Awake::default()) {
        Fit::AsIs => assert!(fits),
        Fit::Clamped(clamped) => {
            assert!(fits && clamp && IpPacket::parse(clamped).is_ok());
            assert_eq!(clamped.len(), packet.len());
            let changed = clamped.iter().zip(packet).filter(|(new, old)| new != old).count();
            assert!((1..=4).contains(&changed), "the size and the checksum: {changed}");
            assert!(!clamp_mss(&mut clamped.to_vec(), mtu), "once is enough");
        }
        Fit::Pieces(pieces) => {
            assert!(!fits);
            whole(packet, pieces, mtu);
        }
        Fit::Answer(answer) => {
            let asked = IpPacket::parse(packet).expect("answered");
            let answer = IpPacket::parse(answer).expect("a packet");
            assert!(!fits && answer.as_bytes().len() <= ANSWER_MAX);
            assert_eq!(
                (answer.source(), answer.destination()),
                (asked.destination(), asked.source())
            );
            if answer.version() == Version::V4 {
                assert_eq!(
                    (checksum(&answer.as_bytes()[..20]), checksum(&answer.as_bytes()[20..])),
                    (0, 0)
                );
            }
            let mut reply = Vec::new();
            assert!(
                !too_big(&answer, 0, answer.destination(), &mut reply),
                "no error about an error"
            );
        }
        Fit::Dropped(_) => assert!(!fits),
    }
}

/// Fragments that together are the packet.
fn whole(packet: &[u8], pieces: &[Vec<u8>], mtu: u16) {
    let field = |piece: &[u8]| u16::from_be_bytes([piece[6], piece[7]]);
    let start = usize::from(field(packet) & 0x1fff) * 8;
    let payload = &packet[usize::from(packet[0] & 15) * 4..];
    let mut at = 0;
    for (index, piece) in pieces.iter().enumerate() {
        let parsed = IpPacket::parse(piece).expect("a packet");
        assert!(piece.len() <= usize::from(mtu));
        let (header, part) = piece.split_at(parsed.header_length());
        assert_eq!(checksum(header), 0);
        assert_eq!(usize::from(field(piece) & 0x1fff) * 8, start + at);
        assert_eq!(&payload[at..at + part.len()], part);
        at += part.len();
        let is_last = index + 1 == pieces.len();
        assert!(part.len() % 8 == 0 || is_last);
        let more = field(piece) & 0x2000 != 0;
        assert_eq!(more, !is_last || field(packet) & 0x2000 != 0);
    }
    assert_eq!(at, payload.len());
}
