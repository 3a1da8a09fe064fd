//! Telling the sender that its packet does not fit, cannot be carried at all, or is not allowed: ICMP "fragmentation needed" and ICMPv6 "packet
//! too big", "host unreachable", and "administratively prohibited" of both.
//!
//! ```text
//!   IPv4 (RFC 792, 1191)   | IP | 3 4 | sum | 0 0 | MTU | the packet, up to 576 bytes in all      | 3 13 | sum | 0 | (RFC 1812, 5.2.7.1)
//!   IPv6 (RFC 4443, 3.2)   | IP | 2 0 | sum |     MTU   | the packet, up to 1280 bytes in all     | 1 1  | sum | 0 | (RFC 4443, 3.1)
//! ```
//! Without this message a sender that does path MTU discovery sends large packets into nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::checksum::{Sum, checksum};
use crate::upper::{Part, Upper, upper};
use crate::{IpPacket, Version};

/// The largest ICMP error over IPv4 (RFC 1812 section 4.3.2.3).
const REPLY_V4_MAX: usize = 576;

/// The largest ICMP error over IPv6, the least MTU of a link (RFC 4443 section 3.2, RFC 8200 section 5).
const REPLY_V6_MAX: usize = 1280;

/// The least MTU there is over IPv4 (RFC 791 section 3.2); a router that reports less is not believed.
const MTU_V4_MIN: u16 = 68;

/// The least MTU there is over IPv6 (RFC 8200 section 5).
const MTU_V6_MIN: u16 = 1280;

const HEADER_V4: usize = 20;
const HEADER_V6: usize = 40;
const ICMP_HEADER: usize = 8;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const REDIRECT_V6: u8 = 137;

/// Hops a reply may make, the default of RFC 1700.
const TTL: u8 = 64;

/// Precedence "internetwork control", which RFC 1812 section 4.3.2.5 wants for ICMP errors.
const TOS: u8 = 0xc0;

/// Writes into `reply` the answer to a packet that is longer than `mtu` bytes, from `from` (our address in the tunnel) to
/// the packet's source. True if there is one; otherwise `reply` is empty.
///
/// There is none:
/// - to a packet that fits, or would fit the least MTU of its family, which is the least that is reported;
/// - to an IPv4 packet that [may be fragmented](IpPacket::may_fragment): it is to be cut, not refused;
/// - to an ICMP error, or what could be one (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e));
/// - to an IPv4 fragment other than the first (RFC 1812 section 4.3.2.7; RFC 4443 makes no such exception);
/// - to a packet whose source or destination is not one host's (RFC 4443 would allow multicast destinations, but the tunnel
///   carries none), or whose extension headers cannot be followed;
/// - if `from` is of the other family.
///
/// How often to answer is for [`TooBigLimit`].
pub fn too_big(packet: &IpPacket<'_>, mtu: u16, from: IpAddr, reply: &mut Vec<u8>) -> bool {
    reply.clear();
    let mtu = match packet.version() {
        Version::V4 => mtu.max(MTU_V4_MIN),
        Version::V6 => mtu.max(MTU_V6_MIN),
    };
    if packet.as_bytes().len() <= usize::from(mtu) || packet.may_fragment() || !may_answer(packet) {
        return false;
    }
    let [high, low] = mtu.to_be_bytes();
    answer(
        packet,
        from,
        ([3, 4, 0, 0, 0, 0, high, low], [2, 0, 0, 0, 0, 0, high, low]),
        reply,
    )
}

/// Writes into `reply` the answer to a packet that rules do not allow, as from its destination, to its source. True if there is one; otherwise
/// `reply` is empty. There is none to what [`too_big`] would not answer either, whatever its length.
pub fn prohibited(packet: &IpPacket<'_>, reply: &mut Vec<u8>) -> bool {
    reply.clear();
    may_answer(packet)
        && answer(
            packet,
            packet.destination(),
            ([3, 13, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]),
            reply,
        )
}

/// Writes into `reply` the answer to a packet that could not be carried: ICMP "host unreachable" (RFC 792), ICMPv6 "address
/// unreachable" (RFC 4443 section 3.1), as if from `from`. True if there is one; otherwise `reply` is empty, for the reasons of
/// [`too_big`]. A program that is told so need not wait for its own patience to end.
pub fn unreachable(packet: &IpPacket<'_>, from: IpAddr, reply: &mut Vec<u8>) -> bool {
    reply.clear();
    may_answer(packet)
        && answer(
            packet,
            from,
            ([3, 1, 0, 0, 0, 0, 0, 0], [1, 3, 0, 0, 0, 0, 0, 0]),
            reply,
        )
}

/// The header of an ICMP error, its checksum left out, for either family.
type IcmpHeader = [u8; ICMP_HEADER];

fn answer(packet: &IpPacket<'_>, from: IpAddr, headers: (IcmpHeader, IcmpHeader), reply: &mut Vec<u8>) -> bool {
    match (packet.source(), from) {
        (IpAddr::V4(to), IpAddr::V4(from)) => write_v4(packet.as_bytes(), headers.0, (from, to), reply),
        (IpAddr::V6(to), IpAddr::V6(from)) => write_v6(packet.as_bytes(), headers.1, (from, to), reply),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    }
    true
}

fn may_answer(packet: &IpPacket<'_>) -> bool {
    let is_later_v4 = |upper: &Upper| packet.version() == Version::V4 && upper.part == Part::Later;
    is_one_host(packet.source())
        && is_one_host(packet.destination())
        && upper(packet).is_some_and(|upper| !is_later_v4(&upper) && !may_be_error(packet, upper))
}

/// Can a host have this address? RFC 1812 section 5.3.7; 240.0.0.0/4 contains the limited broadcast. The broadcast
/// addresses of subnets are known only to those.
fn is_one_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => (1..224).contains(&v4.octets()[0]) && !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_loopback() && !v6.is_multicast(),
    }
}

/// Is it an ICMP error, a redirect, or ICMP of a kind that cannot be told?
fn may_be_error(packet: &IpPacket<'_>, upper: Upper) -> bool {
    let kind = match upper.part {
        Part::Whole | Part::First => packet.as_bytes().get(upper.at).copied(),
        Part::Later => None,
    };
    match (packet.version(), upper.protocol) {
        // Echo, the timestamp, information and mask pairs, extended echo: the queries and their answers.
        (Version::V4, ICMP) => !matches!(kind, Some(0 | 8 | 13..=18 | 42 | 43)),
        // RFC 4443 section 2.1: errors have the high bit clear.
        (Version::V6, ICMPV6) => !kind.is_some_and(|kind| kind >= 128 && kind != REDIRECT_V6),
        (Version::V4 | Version::V6, _) => false,
    }
}

fn write_v4(packet: &[u8], header: IcmpHeader, (from, to): (Ipv4Addr, Ipv4Addr), reply: &mut Vec<u8>) {
    let quote = &packet[..packet.len().min(REPLY_V4_MAX - HEADER_V4 - ICMP_HEADER)];
    let total = u16::try_from(HEADER_V4 + ICMP_HEADER + quote.len()).expect("at most 576");
    reply.extend([0x45, TOS]);
    reply.extend(total.to_be_bytes());
    // Never fragmented, so the identification need not be unique (RFC 6864 section 4.1).
    reply.extend([0, 0, 0x40, 0, TTL, ICMP, 0, 0]);
    reply.extend(from.octets());
    reply.extend(to.octets());
    let sum = checksum(reply);
    reply[10..12].copy_from_slice(&sum.to_be_bytes());

    reply.extend(header);
    reply.extend(quote);
    let sum = checksum(&reply[HEADER_V4..]);
    reply[HEADER_V4 + 2..HEADER_V4 + 4].copy_from_slice(&sum.to_be_bytes());
}

fn write_v6(packet: &[u8], header: IcmpHeader, (from, to): (Ipv6Addr, Ipv6Addr), reply: &mut Vec<u8>) {
    let quote = &packet[..packet.len().min(REPLY_V6_MAX - HEADER_V6 - ICMP_HEADER)];
    let length = u16::try_from(ICMP_HEADER + quote.len()).expect("at most 1240");
    reply.extend([0x60, 0, 0, 0]);
    reply.extend(length.to_be_bytes());
    reply.extend([ICMPV6, TTL]);
    reply.extend(from.octets());
    reply.extend(to.octets());

    reply.extend(header);
    reply.extend(quote);
    let sum = Sum::of_pseudo_v6(from, to, ICMPV6, u32::from(length))
        .plus(&reply[HEADER_V6..])
        .checksum();
    reply[HEADER_V6 + 2..HEADER_V6 + 4].copy_from_slice(&sum.to_be_bytes());
}

/// How often packets are answered by [`too_big`] and [`prohibited`]: a token bucket, as RFC 4443 section 2.4 (f) and RFC 1812 section 4.3.2.8
/// demand.
///
/// A sender learns from one answer, so the rate is for many senders: 100 a second of at most 1280 bytes are 1 Mbit/s, which
/// a flood of large packets cannot exceed, and a burst of 50 serves the flows that start together when a link comes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TooBigLimit {
    /// When the bucket will be full again, since the caller's origin.
    full_at: Duration,
}

impl TooBigLimit {
    /// Answers in a burst.
    pub const BURST: u32 = 50;

    /// Time that earns one more answer: 100 a second.
    pub const EVERY: Duration = Duration::from_millis(10);

    /// A full bucket.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes leave for one answer. `now` is the time since an origin that stays the same; of a clock that stands still in
    /// sleep, as the answers do.
    pub fn allow(&mut self, now: Duration) -> bool {
        let full_at = self.full_at.max(now).saturating_add(Self::EVERY);
        let is_allowed = full_at.saturating_sub(now) <= Self::EVERY * Self::BURST;
        if is_allowed {
            self.full_at = full_at;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use proptest::prelude::*;

    const DF: u16 = 0x4000;
    const FROM_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 254));
    const FROM_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xff));

    fn answer(packet: &[u8], mtu: u16, from: IpAddr) -> Option<Vec<u8>> {
        let mut reply = vec![1, 2, 3];
        let is_answered = too_big(&IpPacket::parse(packet).expect("valid"), mtu, from, &mut reply);
        assert_eq!(is_answered, !reply.is_empty());
        is_answered.then_some(reply)
    }

    fn udp_v4(length: usize) -> Vec<u8> {
        sample::v4(17, &[], DF, &vec![0x5a; length - 20])
    }

    fn udp_v6(length: usize) -> Vec<u8> {
        sample::v6(17, &vec![0x5a; length - 40])
    }

    #[test]
    fn an_ipv4_sender_is_told_the_mtu_with_576_bytes() {
        let packet = udp_v4(1500);
        let reply = answer(&packet, 1400, FROM_V4).expect("answered");
        let parsed = IpPacket::parse(&reply).expect("valid");
        assert_eq!(reply.len(), 576);
        assert_eq!(
            (parsed.source(), parsed.destination()),
            (FROM_V4, sample::SOURCE_V4.into())
        );
        assert_eq!((checksum(&reply[..20]), checksum(&reply[20..])), (0, 0));
        assert_eq!((&reply[20..22], &reply[24..28]), (&[3, 4][..], &[0, 0, 0x05, 0x78][..]));
        assert_eq!(reply[28..], packet[..548]);
    }

    #[test]
    fn what_is_not_allowed_is_answered_from_where_it_was_to_go() {
        let prohibited = |packet: &[u8]| {
            let mut reply = vec![1, 2, 3];
            prohibited(&IpPacket::parse(packet).expect("valid"), &mut reply).then_some(reply)
        };
        let (v4, v6) = (udp_v4(100), udp_v6(100));
        let reply = prohibited(&v4).expect("answered");
        assert_eq!((&reply[12..16], &reply[16..20]), (&v4[16..20], &v4[12..16]));
        assert_eq!((&reply[20..22], &reply[24..28]), (&[3, 13][..], &[0; 4][..]));
        assert_eq!((checksum(&reply[..20]), checksum(&reply[20..])), (0, 0));
        assert_eq!(reply[28..], v4);
        let reply = prohibited(&v6).expect("answered");
        assert_eq!(
            (&reply[8..24], &reply[24..40], &reply[40..42]),
            (&v6[24..40], &v6[8..24], &[1, 1][..])
        );
        assert_eq!(
            prohibited(&sample::v4(1, &[], DF, &[3, 4, 0, 0, 0, 0, 0, 0])),
            None,
            "an error is not answered"
        );
        assert_eq!(
            prohibited(&sample::v4(17, &[], 7, &[0; 8])),
            None,
            "nor a later fragment"
        );
    }

    #[test]
    fn a_sender_is_told_that_a_host_cannot_be_reached() {
        let mut reply = Vec::new();
        let packet = udp_v4(100);
        assert!(unreachable(
            &IpPacket::parse(&packet).expect("valid"),
            FROM_V4,
            &mut reply
        ));
        assert_eq!((checksum(&reply[..20]), checksum(&reply[20..])), (0, 0));
        assert_eq!((&reply[20..22], &reply[28..]), (&[3, 1][..], &packet[..]));
        let packet = udp_v6(100);
        assert!(unreachable(
            &IpPacket::parse(&packet).expect("valid"),
            FROM_V6,
            &mut reply
        ));
        assert_eq!((&reply[40..42], &reply[48..]), (&[1, 3][..], &packet[..]));
        let error = reply.clone();
        let error = IpPacket::parse(&error).expect("valid");
        assert!(
            !unreachable(&error, FROM_V6, &mut reply) && reply.is_empty(),
            "an error answers no error"
        );
    }

    #[test]
    fn a_short_packet_is_quoted_whole() {
        let packet = udp_v4(300);
        assert_eq!(answer(&packet, 200, FROM_V4).expect("answered")[28..], packet);
    }

    #[test]
    fn an_ipv6_sender_is_told_the_mtu_with_1280_bytes() {
        let packet = udp_v6(1500);
        let reply = answer(&packet, 1400, FROM_V6).expect("answered");
        let parsed = IpPacket::parse(&reply).expect("valid");
        assert_eq!(reply.len(), 1280);
        assert_eq!(
            (parsed.source(), parsed.destination()),
            (FROM_V6, sample::SOURCE_V6.into())
        );
        assert_eq!((&reply[40..42], &reply[44..48]), (&[2, 0][..], &[0, 0, 0x05, 0x78][..]));
        assert_eq!(reply[48..], packet[..1232]);
        let (IpAddr::V6(from), IpAddr::V6(to)) = (parsed.source(), parsed.destination()) else {
            unreachable!("an IPv6 packet")
        };
        let sum = Sum::of_pseudo_v6(from, to, 58, 1240).plus(&reply[40..]);
        assert_eq!(sum.checksum(), 0);
    }

    #[test]
    fn ipv6_is_never_told_less_than_1280() {
        let reply = answer(&udp_v6(1281), 600, FROM_V6).expect("answered");
        assert_eq!(reply[44..48], [0, 0, 0x05, 0x00]);
        assert_eq!(answer(&udp_v6(1280), 600, FROM_V6), None);
    }

    #[test]
    fn a_packet_that_fits_is_not_answered() {
        assert_eq!(answer(&udp_v4(1400), 1400, FROM_V4), None);
        assert_eq!(answer(&udp_v6(1400), 1400, FROM_V6), None);
    }

    #[test]
    fn a_packet_that_may_be_fragmented_is_not_answered() {
        assert_eq!(answer(&sample::v4(17, &[], 0, &[0; 1480]), 1400, FROM_V4), None);
    }

    #[test]
    fn a_sender_of_the_other_family_is_not_answered() {
        assert_eq!(answer(&udp_v4(1500), 1400, FROM_V6), None);
        assert_eq!(answer(&udp_v6(1500), 1400, FROM_V4), None);
    }

    #[test]
    fn icmp_errors_are_not_answered_and_queries_are() {
        let v4 = |kind: u8| answer(&sample::v4(1, &[], DF, &[kind; 1480]), 1400, FROM_V4).is_some();
        assert_eq!([0, 8, 13].map(v4), [true; 3]);
        assert_eq!([3, 4, 5, 11, 12, 99].map(v4), [false; 6]);
        let v6 = |kind: u8| answer(&sample::v6(58, &[kind; 1460]), 1400, FROM_V6).is_some();
        assert_eq!([128, 129, 135].map(v6), [true; 3]);
        assert_eq!([1, 2, 3, 4, 127, 137].map(v6), [false; 6]);
    }

    #[test]
    fn an_icmpv6_error_behind_extension_headers_is_not_answered() {
        let mut payload = vec![58, 0, 1, 4, 0, 0, 0, 0];
        payload.extend([1; 1452]);
        assert_eq!(answer(&sample::v6(0, &payload), 1400, FROM_V6), None);
        payload[8] = 128;
        assert!(answer(&sample::v6(0, &payload), 1400, FROM_V6).is_some());
    }

    #[test]
    fn later_fragments_are_answered_over_ipv6_only() {
        let v4 = |field| answer(&sample::v4(17, &[], field, &[0; 1480]), 1400, FROM_V4).is_some();
        assert_eq!([DF | 0x2000, DF | 0x2001, DF | 1].map(v4), [true, false, false]);
        let v6 = |next: u8, field: u8| {
            let mut payload = vec![next, 0, 0, field, 0, 0, 0, 1];
            payload.extend([128; 1452]);
            answer(&sample::v6(44, &payload), 1400, FROM_V6).is_some()
        };
        assert_eq!((v6(17, 1), v6(17, 8)), (true, true));
        assert_eq!((v6(58, 1), v6(58, 8)), (true, false), "the second could be an error");
    }

    #[test]
    fn addresses_that_are_not_one_host_s_are_not_answered() {
        for address in [
            [0, 0, 0, 0],
            [0, 1, 2, 3],
            [127, 0, 0, 1],
            [224, 0, 0, 1],
            [255; 4],
            [240, 0, 0, 1],
        ] {
            for at in [12, 16] {
                let mut packet = udp_v4(1500);
                packet[at..at + 4].copy_from_slice(&address);
                assert_eq!(answer(&packet, 1400, FROM_V4), None, "{address:?}");
            }
        }
        let multicast = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        for address in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, multicast] {
            for at in [8, 24] {
                let mut packet = udp_v6(1500);
                packet[at..at + 16].copy_from_slice(&address.octets());
                assert_eq!(answer(&packet, 1400, FROM_V6), None, "{address}");
            }
        }
    }

    #[test]
    fn a_burst_is_answered_and_then_one_every_10_ms() {
        let mut limit = TooBigLimit::new();
        let start = Duration::from_secs(7);
        assert_eq!((0..1000).filter(|_| limit.allow(start)).count(), 50);
        assert!(!limit.allow(start + Duration::from_millis(9)));
        assert!(limit.allow(start + Duration::from_millis(10)));
        assert!(!limit.allow(start + Duration::from_millis(10)));
        let later = start + Duration::from_secs(60);
        assert_eq!((0..1000).filter(|_| limit.allow(later)).count(), 50);
    }

    proptest! {
        #[test]
        fn no_more_than_burst_and_rate_are_answered(gaps in proptest::collection::vec(0u64..30, 1..400)) {
            let mut limit = TooBigLimit::new();
            let (mut now, mut allowed) = (0, 0);
            for gap in gaps {
                now += gap;
                allowed += u64::from(limit.allow(Duration::from_millis(now)));
                prop_assert!(allowed <= 50 + now / 10);
            }
        }

        #[test]
        fn no_packet_panics_and_every_answer_is_right(
            protocol: u8, field: u16, next in prop::sample::select(vec![0u8, 6, 17, 43, 44, 58, 60]),
            start in proptest::collection::vec(any::<u8>(), 0..64), length in 64usize..2000, mtu: u16,
        ) {
            let mut payload = start;
            payload.resize(length, 0);
            if let Some(reply) = answer(&sample::v4(protocol, &[], field, &payload), mtu, FROM_V4) {
                prop_assert!(reply.len() <= 576);
                prop_assert_eq!(IpPacket::parse(&reply).expect("valid").as_bytes().len(), reply.len());
                prop_assert_eq!((checksum(&reply[..20]), checksum(&reply[20..])), (0, 0));
            }
            if let Some(reply) = answer(&sample::v6(next, &payload), mtu, FROM_V6) {
                prop_assert!(reply.len() <= 1280);
                prop_assert_eq!(IpPacket::parse(&reply).expect("valid").as_bytes().len(), reply.len());
            }
        }
    }
}
