//! Explicit congestion notification of a packet within a datagram (RFC 6040, and RFC 9601 for tunnels like this one, with a header between the two).
//!
//! ```text
//!   inner    | outer: Not-ECT   ECT(0)     ECT(1)     CE
//!   ---------+-------------------------------------------      what the packet goes on with, once it is out of its datagram
//!   Not-ECT  |        Not-ECT   Not-ECT    Not-ECT    dropped
//!   ECT(0)   |        ECT(0)    ECT(0)     ECT(1)     CE
//!   ECT(1)   |        ECT(1)    ECT(1)     ECT(1)     CE
//!   CE       |        CE        CE         CE         CE
//! ```
//! A router between the two ends sees the datagram alone, so the datagram says whether its packet can be marked, and what the router marked is carried
//! over to the packet. A packet that cannot be marked is dropped instead, as the router would have done.

use crate::checksum::updated;
use crate::{DropReason, IpPacket, Version};

/// The two bits of the IP header (RFC 3168 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ecn {
    /// Its sender does not know of them: whoever has too many packets drops it.
    #[default]
    NotEct = 0,
    /// It can be marked; whoever marks early and much does (RFC 9331).
    Ect1 = 1,
    /// It can be marked.
    Ect0 = 2,
    /// It was marked: congestion experienced.
    Ce = 3,
}

/// Where the bits are in the second byte of an IPv4 header (RFC 3168 section 5), and of an IPv6 header, in which the class begins half a byte later.
const V4: (u8, u32) = (0x03, 0);
const V6: (u8, u32) = (0x30, 4);

/// Where the checksum of an IPv4 header is.
const V4_CHECKSUM: usize = 10;

impl Ecn {
    /// All four.
    pub const ALL: [Self; 4] = [Self::NotEct, Self::Ect1, Self::Ect0, Self::Ce];

    /// The lower two bits of `bits`.
    pub const fn from_bits(bits: u8) -> Self {
        Self::ALL[(bits & 3) as usize]
    }

    /// As it stands in a header.
    pub const fn bits(self) -> u8 {
        self as u8
    }

    /// Of a packet that begins with an IP header. What is none cannot be marked.
    pub fn of(packet: &[u8]) -> Self {
        match packet {
            [first, second, ..] if first >> 4 == 4 => Self::from_bits(second >> V4.1),
            [first, second, ..] if first >> 4 == 6 => Self::from_bits(second >> V6.1),
            _ => Self::NotEct,
        }
    }

    /// What a packet with these bits goes on with, out of a datagram with `outer`; nothing if it is to be dropped. RFC 6040 section 4.2.
    pub const fn out_of(self, outer: Self) -> Option<Self> {
        match (self, outer) {
            (Self::NotEct, Self::Ce) => None,
            (Self::NotEct, Self::NotEct | Self::Ect1 | Self::Ect0) => Some(Self::NotEct),
            (Self::Ect0 | Self::Ect1, Self::Ce) | (Self::Ce, _) => Some(Self::Ce),
            (Self::Ect0, Self::Ect1) | (Self::Ect1, Self::NotEct | Self::Ect1 | Self::Ect0) => Some(Self::Ect1),
            (Self::Ect0, Self::NotEct | Self::Ect0) => Some(Self::Ect0),
        }
    }
}

/// Takes over what routers marked on the datagram that carried `packet`, which is changed as RFC 6040 section 4.2 says. What is no IP packet stays as it
/// is: it is dropped for another reason.
///
/// # Errors
/// [`DropReason::Congestion`]: it is to be dropped, and was not changed.
pub fn decapsulate(packet: &mut [u8], outer: Ecn) -> Result<(), DropReason> {
    match outer {
        // Nothing was marked: no packet changes, and none need be looked at.
        Ecn::NotEct | Ecn::Ect0 => return Ok(()),
        Ecn::Ect1 | Ecn::Ce => {}
    }
    let Ok(ip) = IpPacket::parse(packet) else { return Ok(()) };
    let (version, inner) = (ip.version(), Ecn::of(packet));
    let ecn = inner.out_of(outer).ok_or(DropReason::Congestion)?;
    if ecn == inner {
        return Ok(());
    }
    let (mask, shift) = match version {
        Version::V4 => V4,
        Version::V6 => V6,
    };
    let second = packet[1] & !mask | ecn.bits() << shift;
    let (old, new) = (
        u16::from_be_bytes([packet[0], packet[1]]),
        u16::from_be_bytes([packet[0], second]),
    );
    packet[1] = second;
    if version == Version::V4 {
        let field = V4_CHECKSUM..V4_CHECKSUM + 2;
        let sum = u16::from_be_bytes([packet[field.start], packet[field.start + 1]]);
        packet[field].copy_from_slice(&updated(sum, old, new).to_be_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Ecn::{Ce, Ect0, Ect1, NotEct};
    use super::*;
    use crate::checksum::checksum;
    use crate::sample;

    const UDP: u8 = 17;

    /// Both families, with these bits, and the rest of the class in `class` (6 bits).
    fn both(class: u8, ecn: Ecn) -> [Vec<u8>; 2] {
        let tos = class << 2 | ecn.bits();
        let mut v4 = sample::v4(UDP, &[], 0x4000, &sample::udp(b"hello"));
        v4[1] = tos;
        v4[10..12].fill(0);
        let sum = checksum(&v4[..20]);
        v4[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut v6 = sample::v6(UDP, &sample::udp(b"hello"));
        v6[0] |= tos >> 4;
        v6[1] |= tos << 4;
        [v4, v6]
    }

    #[test]
    fn the_table_of_rfc_6040_holds_for_both_families() {
        // Figure 4 there, line by line; nothing stands for a drop.
        let table = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ];
        for (inner, line) in table {
            for (outer, expected) in [NotEct, Ect0, Ect1, Ce].into_iter().zip(line) {
                assert_eq!(inner.out_of(outer), expected, "{inner:?} in {outer:?}");
                for class in [0, 0b10_1110, 0b11_1111] {
                    for (mut packet, right) in both(class, inner)
                        .into_iter()
                        .zip(both(class, expected.unwrap_or(inner)))
                    {
                        let outcome = decapsulate(&mut packet, outer);
                        assert_eq!(outcome, expected.map(drop).ok_or(DropReason::Congestion));
                        assert_eq!(packet, right, "{inner:?} in {outer:?}, checksum and all");
                    }
                }
            }
        }
    }

    #[test]
    fn the_bits_are_read_where_each_family_has_them() {
        for ecn in Ecn::ALL {
            assert_eq!(Ecn::from_bits(ecn.bits()), ecn);
            assert_eq!(Ecn::from_bits(0xfc | ecn.bits()), ecn);
            for class in [0, 0b11_1111] {
                assert_eq!(both(class, ecn).map(|packet| Ecn::of(&packet)), [ecn, ecn]);
            }
        }
        assert_eq!([Ecn::of(&[]), Ecn::of(&[0x45]), Ecn::of(&[0x53, 0xff])], [NotEct; 3]);
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        let [mut packet, _] = both(0, Ect0);
        packet[11] ^= 1;
        assert_eq!(decapsulate(&mut packet, Ce), Ok(()));
        assert_ne!(checksum(&packet[..20]), 0);
    }

    fn bits() -> impl Strategy<Value = Ecn> {
        (0u8..4).prop_map(Ecn::from_bits)
    }

    proptest! {
        #[test]
        fn only_the_bits_change_and_the_header_stays_right(
            class in 0u8..64,
            inner in bits(),
            outer in bits(),
            options in proptest::collection::vec(any::<[u8; 4]>(), 0..=10),
            addresses in any::<[u8; 8]>(),
            id in any::<[u8; 2]>(),
            payload in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut packet = sample::v4(UDP, &options.concat(), 0, &payload);
            let header = 20 + 4 * options.len();
            packet[1] = class << 2 | inner.bits();
            packet[4..6].copy_from_slice(&id);
            packet[12..20].copy_from_slice(&addresses);
            packet[10..12].fill(0);
            let sum = checksum(&packet[..header]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            let before = packet.clone();
            let outcome = decapsulate(&mut packet, outer);
            prop_assert_eq!(checksum(&packet[..header]), 0);
            prop_assert_eq!(Some(Ecn::of(&packet)), inner.out_of(outer).or(Some(inner)));
            prop_assert_eq!(outcome.is_err(), inner.out_of(outer).is_none());
            prop_assert_eq!(packet[1] >> 2, class);
            packet[1] = before[1];
            packet[10..12].copy_from_slice(&before[10..12]);
            prop_assert_eq!(packet, before);
        }

        #[test]
        fn what_is_no_packet_is_not_touched(bytes in proptest::collection::vec(any::<u8>(), 0..80), outer in bits()) {
            let mut packet = bytes.clone();
            let outcome = decapsulate(&mut packet, outer);
            if IpPacket::parse(&bytes).is_err() {
                prop_assert_eq!(outcome, Ok(()));
                prop_assert_eq!(packet, bytes);
            } else {
                prop_assert_eq!(Ecn::of(&packet), Ecn::of(&bytes).out_of(outer).unwrap_or(NotEct));
            }
        }
    }
}
