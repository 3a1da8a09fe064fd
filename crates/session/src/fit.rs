//! Making packets fit the tunnel, whoever made them too large.
//!
//! ```text
//!   TCP handshake -----------> maximum segment size lowered, so that there will be no large segments
//!   larger, may be split ----> pieces (RFC 791)
//!   larger, may not be split -> an answer to its sender that names the size (RFC 1191, RFC 4443)
//! ```
//! The answer comes from the packet's destination: an address of the tunnel's own would be taken for a forgery by the host.

use now::Awake;
use packet::{DropReason, IpPacket, TooBigLimit, clamp_mss, fragment, too_big};

/// TCP handshakes are shorter than this: 40 bytes IPv6, 60 bytes TCP, and some extension headers.
const LONGEST_HANDSHAKE: usize = 160;

/// Number of TCP (RFC 9293).
const TCP: u8 = 6;

/// What is to be sent instead of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Fit<'a> {
    /// The packet itself.
    AsIs,
    /// This one, which differs from it in the segment size that it announces.
    Clamped(&'a [u8]),
    /// These, together as much as it.
    Pieces(&'a [Vec<u8>]),
    /// Nothing; this goes back to where it came from.
    Answer(&'a [u8]),
    /// Nothing.
    Dropped(DropReason),
}

/// Makes packets fit, one after the other. Its buffers are reused.
#[derive(Debug)]
pub struct Fitter {
    clamp: bool,
    limit: TooBigLimit,
    packet: Vec<u8>,
    pieces: Vec<Vec<u8>>,
}

impl Fitter {
    /// One that lowers the segment size of TCP connections if `clamp` is true.
    pub fn new(clamp: bool) -> Self {
        Self {
            clamp,
            limit: TooBigLimit::new(),
            packet: Vec::new(),
            pieces: Vec::new(),
        }
    }

    /// Makes `packet` fit `mtu` bytes.
    pub fn fit(&mut self, packet: &[u8], mtu: u16, now: Awake) -> Fit<'_> {
        if packet.len() <= usize::from(mtu) {
            return self.handshake(packet, mtu);
        }
        let packet = match IpPacket::parse(packet) {
            Ok(packet) => packet,
            Err(reason) => return Fit::Dropped(reason),
        };
        if packet.may_fragment()
            && let Some(mut fragments) = fragment(&packet, mtu)
        {
            let mut count = 0;
            loop {
                if count == self.pieces.len() {
                    self.pieces.push(Vec::new());
                }
                if !fragments.write_next(&mut self.pieces[count]) {
                    return Fit::Pieces(&self.pieces[..count]);
                }
                count += 1;
            }
        }
        if self.limit.allow(now.since_origin()) && too_big(&packet, mtu, packet.destination(), &mut self.packet) {
            Fit::Answer(&self.packet)
        } else {
            Fit::Dropped(DropReason::TooBig)
        }
    }

    fn handshake(&mut self, packet: &[u8], mtu: u16) -> Fit<'_> {
        let small = self.clamp && packet.len() <= LONGEST_HANDSHAKE;
        if !small || !IpPacket::parse(packet).is_ok_and(|packet| may_be_tcp(&packet)) {
            return Fit::AsIs;
        }
        self.packet.clear();
        self.packet.extend_from_slice(packet);
        if clamp_mss(&mut self.packet, mtu) {
            Fit::Clamped(&self.packet)
        } else {
            Fit::AsIs
        }
    }
}

/// IPv6 may have extension headers in between, which are looked at later.
fn may_be_tcp(packet: &IpPacket<'_>) -> bool {
    match packet.version() {
        packet::Version::V4 => packet.protocol() == TCP,
        packet::Version::V6 => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use packet::checksum::checksum;

    fn v4(length: usize, dont_fragment: bool) -> Vec<u8> {
        let mut packet = vec![0; length];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&u16::try_from(length).expect("short").to_be_bytes());
        packet[6] = if dont_fragment { 0x40 } else { 0 };
        packet[8] = 64;
        packet[9] = 17;
        packet[12..16].copy_from_slice(&[10, 78, 0, 2]);
        packet[16..20].copy_from_slice(&[10, 77, 0, 10]);
        let sum = checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn syn(mss: u16) -> Vec<u8> {
        let mut packet = v4(44, true);
        packet[9] = TCP;
        packet[32] = 6 << 4;
        packet[33] = 2;
        packet[40..42].copy_from_slice(&[2, 4]);
        packet[42..44].copy_from_slice(&mss.to_be_bytes());
        packet
    }

    #[test]
    fn what_fits_goes_as_it_is() {
        let mut fitter = Fitter::new(true);
        assert_eq!(fitter.fit(&v4(1400, true), 1400, Awake::default()), Fit::AsIs);
        assert_eq!(fitter.fit(&syn(1000), 1400, Awake::default()), Fit::AsIs);
    }

    #[test]
    fn a_handshake_announces_what_fits() {
        let mut fitter = Fitter::new(true);
        let Fit::Clamped(clamped) = fitter.fit(&syn(1460), 1400, Awake::default()) else {
            panic!("not clamped")
        };
        assert_eq!(clamped[42..44], 1360_u16.to_be_bytes());
        assert_eq!(Fitter::new(false).fit(&syn(1460), 1400, Awake::default()), Fit::AsIs);
    }

    #[test]
    fn what_may_be_split_is_and_what_may_not_is_answered() {
        let mut fitter = Fitter::new(true);
        let Fit::Pieces(pieces) = fitter.fit(&v4(1500, false), 1300, Awake::default()) else {
            panic!("not split")
        };
        assert_eq!(pieces.len(), 2);
        assert!(pieces.iter().all(|piece| piece.len() <= 1300));
        let Fit::Answer(answer) = fitter.fit(&v4(1500, true), 1300, Awake::default()) else {
            panic!("not answered")
        };
        assert_eq!((answer[20], answer[21]), (3, 4), "fragmentation needed");
        assert_eq!(answer[26..28], 1300_u16.to_be_bytes());
        assert_eq!(answer[16..20], [10, 78, 0, 2], "to the sender");
    }

    #[test]
    fn a_flood_of_large_packets_is_not_answered_for_ever() {
        let mut fitter = Fitter::new(true);
        let answered = (0..1000)
            .filter(|_| matches!(fitter.fit(&v4(1500, true), 1300, Awake::default()), Fit::Answer(_)))
            .count();
        assert!((1..=100).contains(&answered), "{answered}");
    }
}
