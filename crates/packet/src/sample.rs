//! Packets for the tests of this crate.

use std::net::Ipv6Addr;

use crate::checksum::checksum;

/// The source address of [`v4`].
pub(crate) const SOURCE_V4: [u8; 4] = [10, 0, 0, 1];

/// The source address of [`v6`].
pub(crate) const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

const DESTINATION_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// An IPv4 packet from 10.0.0.1 to 10.0.0.2. `field` is the word of flags and fragment offset; `options` are whole words.
pub(crate) fn v4(protocol: u8, options: &[u8], field: u16, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let total = u16::try_from(header + payload.len()).expect("a test packet");
    let words = u8::try_from(header / 4).expect("a test header");
    let mut packet = vec![0x40 | words, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(field.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(SOURCE_V4);
    packet.extend([10, 0, 0, 2]);
    packet.extend(options);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet from 2001:db8::1 to 2001:db8::2.
pub(crate) fn v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a test packet");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend(SOURCE_V6.octets());
    packet.extend(DESTINATION_V6.octets());
    packet.extend(payload);
    packet
}

/// A TCP segment from port 1000 to port 2000 with a right acknowledgement and no checksum.
pub(crate) fn tcp(sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0x03, 0xe8, 0x07, 0xd0];
    segment.extend(sequence.to_be_bytes());
    segment.extend([0, 0, 0, 77, 5 << 4, flags, 0x20, 0, 0, 0, 0, 0]);
    segment.extend(payload);
    segment
}

/// A UDP datagram from port 1000 to port 2000 with a checksum that is not zero, and not right.
pub(crate) fn udp(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a test packet");
    let mut datagram = vec![0x03, 0xe8, 0x07, 0xd0];
    datagram.extend(length.to_be_bytes());
    datagram.extend([1, 1]);
    datagram.extend(payload);
    datagram
}
