//! A view of an IP packet whose fixed header and length have been checked.
//!
//! RFC 791 section 3.1 (IPv4) and RFC 8200 section 3 (IPv6). Nothing is copied, and nothing beyond the fixed header is
//! interpreted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::DropReason;

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;

/// Of the seventh byte of an IPv4 header.
const V4_DONT_FRAGMENT: u8 = 0x40;

/// The version nibble of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// One IP packet, exactly as long as its own header says.
#[derive(Clone, Copy, Debug)]
pub struct IpPacket<'a> {
    bytes: &'a [u8],
    version: Version,
}

impl<'a> IpPacket<'a> {
    /// Checks version, header length and total length. `bytes` may be longer than the packet (padding is cut off), never
    /// shorter.
    ///
    /// # Errors
    /// [`DropReason::Malformed`], whatever was wrong: the sender is the only one who could mend it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let first = *bytes.first().ok_or(DropReason::Malformed)?;
        let (version, header, total) = match first >> 4 {
            4 if bytes.len() >= V4_HEADER => {
                let header = usize::from(first & 0x0f) * 4;
                let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
                (Version::V4, header.max(V4_HEADER), total)
            }
            6 if bytes.len() >= V6_HEADER => {
                let total = V6_HEADER + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
                (Version::V6, V6_HEADER, total)
            }
            _ => return Err(DropReason::Malformed),
        };
        let header_is_whole = version == Version::V6 || first & 0x0f >= 5;
        if !header_is_whole || total < header || total > bytes.len() {
            return Err(DropReason::Malformed);
        }
        Ok(Self {
            bytes: &bytes[..total],
            version,
        })
    }

    /// IPv4 or IPv6.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The packet, without padding.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Source address.
    pub fn source(&self) -> IpAddr {
        match self.version {
            Version::V4 => self.v4_at(12).into(),
            Version::V6 => self.v6_at(8).into(),
        }
    }

    /// Destination address.
    pub fn destination(&self) -> IpAddr {
        match self.version {
            Version::V4 => self.v4_at(16).into(),
            Version::V6 => self.v6_at(24).into(),
        }
    }

    /// The protocol (IPv4) or next header (IPv6) number.
    pub fn protocol(&self) -> u8 {
        match self.version {
            Version::V4 => self.bytes[9],
            Version::V6 => self.bytes[6],
        }
    }

    /// May it be cut into fragments on the way? Only IPv4 without "don't fragment" (RFC 791 section 3.1); IPv6 is cut by its
    /// sender alone (RFC 8200 section 5).
    pub fn may_fragment(&self) -> bool {
        self.version == Version::V4 && self.bytes[6] & V4_DONT_FRAGMENT == 0
    }

    /// Bytes of the IP header: with its options (IPv4), without extension headers (IPv6).
    pub fn header_length(&self) -> usize {
        match self.version {
            Version::V4 => usize::from(self.bytes[0] & 0x0f) * 4,
            Version::V6 => V6_HEADER,
        }
    }

    fn v4_at(&self, offset: usize) -> Ipv4Addr {
        let octets: [u8; 4] = self.bytes[offset..offset + 4]
            .try_into()
            .expect("four bytes of a checked header");
        octets.into()
    }

    fn v6_at(&self, offset: usize) -> Ipv6Addr {
        let octets: [u8; 16] = self.bytes[offset..offset + 16]
            .try_into()
            .expect("16 bytes of a checked header");
        octets.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend([0; 8]);
        packet
    }

    fn v6() -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 4, 58, 64];
        packet.extend(Ipv6Addr::LOCALHOST.octets());
        packet.extend(Ipv6Addr::UNSPECIFIED.octets());
        packet.extend([0; 4]);
        packet
    }

    #[test]
    fn addresses_are_read_from_the_header() {
        let bytes = v4();
        let packet = IpPacket::parse(&bytes).expect("valid");
        assert_eq!(packet.source(), IpAddr::from([10, 0, 0, 1]));
        assert_eq!(packet.destination(), IpAddr::from([10, 0, 0, 2]));
        assert_eq!(packet.protocol(), 17);
        let bytes = v6();
        let packet = IpPacket::parse(&bytes).expect("valid");
        assert_eq!(packet.version(), Version::V6);
        assert_eq!(packet.source(), IpAddr::from(Ipv6Addr::LOCALHOST));
        assert_eq!(packet.protocol(), 58);
    }

    #[test]
    fn padding_is_cut_off() {
        let mut bytes = v4();
        bytes.extend([0xff; 9]);
        assert_eq!(IpPacket::parse(&bytes).expect("valid").as_bytes().len(), 28);
    }

    #[test]
    fn a_packet_shorter_than_it_says_is_malformed() {
        for whole in [v4(), v6()] {
            for cut in 0..whole.len() {
                assert_eq!(IpPacket::parse(&whole[..cut]).map(|_| ()), Err(DropReason::Malformed));
            }
        }
    }

    #[test]
    fn a_header_length_below_five_words_is_malformed() {
        let mut bytes = v4();
        bytes[0] = 0x44;
        assert!(IpPacket::parse(&bytes).is_err());
    }

    #[test]
    fn only_ipv4_without_df_may_be_fragmented() {
        let mut bytes = v4();
        assert!(IpPacket::parse(&bytes).expect("valid").may_fragment());
        bytes[6] = 0x40;
        assert!(!IpPacket::parse(&bytes).expect("valid").may_fragment());
        assert!(!IpPacket::parse(&v6()).expect("valid").may_fragment());
    }

    #[test]
    fn options_belong_to_the_header() {
        let mut bytes = v4();
        assert_eq!(IpPacket::parse(&bytes).expect("valid").header_length(), 20);
        bytes[0] = 0x46;
        assert_eq!(IpPacket::parse(&bytes).expect("valid").header_length(), 24);
        assert_eq!(IpPacket::parse(&v6()).expect("valid").header_length(), 40);
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            if let Ok(packet) = IpPacket::parse(&bytes) {
                let _ = (packet.source(), packet.destination(), packet.protocol());
                prop_assert!(packet.as_bytes().len() <= bytes.len());
            }
        }
    }
}
