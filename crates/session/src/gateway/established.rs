//! Frames and packets of one connected client, as the gateway sees them.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use now::{Deadline, Gap, Now};
use packet::access::Towards;
use packet::{AccessList, Bundle, DropCounters, DropReason, Ecn, IpPacket, ecn};
use wire::cstp::{Frame, Goodbye, Kind, goodbye_payload, parse_goodbye};

use super::Lease;
use crate::timers::{Timer, Timers};
use crate::{EndReason, Output, Received, Traffic};

/// Answers to probes that may wait to be sent. A client that probes faster than it reads gets no more.
const MAX_ANSWERS: usize = 8;

/// How much of its idle time a client has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    /// As the timer says.
    Counts,
    /// This much, once it is back: it is parked.
    Rests { left: Duration },
}

/// Protocol numbers that keep no session alive, as at stock gateways: ICMP and ICMPv6 are mostly machines talking.
const NO_ACTIVITY: [u8; 2] = [1, 58];

/// A client with a lease and a living channel.
///
/// There is no dead-peer detection here on purpose: a client that does not answer may be asleep. Whether its host is
/// there is the kernel's business (TCP keepalive), and how long its session waits is the table's.
#[derive(Debug)]
pub struct Established {
    lease: Lease,
    /// Whom the client may talk to; `None` is everybody.
    access: Option<Arc<AccessList>>,
    mtu: u16,
    /// The client was granted frames of several packets.
    bundles: bool,
    idle: Option<Duration>,
    count: Idle,
    timers: Timers,
    outputs: VecDeque<Output>,
    traffic: Traffic,
    over: bool,
}

impl Established {
    /// A session just connected. `mtu` is the granted tunnel MTU in bytes; `idle` ends the session after that much waking
    /// time of the gateway without a packet from the client, ICMP not counted, and without the time for which it is parked.
    pub fn new(lease: Lease, mtu: u16, idle: Option<Duration>, now: Now) -> Self {
        let mut this = Self {
            lease,
            access: None,
            mtu,
            bundles: false,
            idle,
            count: Idle::Counts,
            timers: Timers::default(),
            outputs: VecDeque::new(),
            traffic: Traffic::default(),
            over: false,
        };
        this.active(now);
        this
    }

    /// With frames of several packets, which the client was granted.
    #[must_use]
    pub fn with_bundles(mut self, granted: bool) -> Self {
        self.bundles = granted;
        self
    }

    /// From now on the client may talk to whom this list allows.
    pub fn set_access(&mut self, access: Option<Arc<AccessList>>) {
        self.access = access;
    }

    /// Whether packets for the client may go to it, of which `packet` is the first: they are of one flow. To be asked before they are
    /// made to fit.
    ///
    /// # Errors
    /// Why not. They have been counted.
    pub fn may_go(&mut self, packet: &[u8], packets: usize) -> Result<(), DropReason> {
        let Some(access) = &self.access else {
            return Ok(());
        };
        let reason = match IpPacket::parse(packet) {
            Ok(packet) if access.permits(&packet, Towards::Client) => return Ok(()),
            Ok(_) => DropReason::Access,
            Err(reason) => reason,
        };
        self.drop_packets(reason, packets);
        Err(reason)
    }

    /// Whether frames of several packets may go to the client.
    pub fn takes_bundles(&self) -> bool {
        self.bundles
    }

    /// The addresses of the client.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The largest packet of the tunnel, in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Packets and bytes so far.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Takes a frame from the client. A packet may go on only if its source is the client's lease.
    pub fn received(&mut self, frame: &Frame, now: Now) -> Received {
        match frame.kind {
            Kind::Data => return self.incoming(&frame.payload, now),
            Kind::DpdRequest => {
                if self.outputs.len() < MAX_ANSWERS {
                    self.outputs
                        .push_back(Output::Send(Kind::DpdResponse, frame.payload.to_vec()));
                }
            }
            Kind::Disconnect => match parse_goodbye(&frame.payload) {
                Goodbye::Logout(_) => self.over(Output::Ended(EndReason::UserStop)),
                Goodbye::Temporary | Goodbye::Other(_) => self.over(Output::Dead("the client left for now")),
            },
            Kind::Bundle if self.bundles => return self.bundle(&frame.payload, now),
            Kind::Compressed => return self.dropped(DropReason::Malformed),
            Kind::DpdResponse
            | Kind::Keepalive
            | Kind::Terminate
            | Kind::Park
            | Kind::ParkAnswer
            | Kind::Awake
            | Kind::AwakeAnswer
            | Kind::Bundle
            | Kind::Unknown(_) => {}
        }
        Received::Nothing
    }

    /// Whether a packet of `length` bytes may go to the client; it then counts as sent.
    ///
    /// # Errors
    /// Why not. It has been counted.
    pub fn outgoing(&mut self, length: usize) -> Result<(), DropReason> {
        self.outgoing_many(length, (1, length))
    }

    /// Whether `packets` packets, `bytes` bytes together, of which the longest has `longest`, may go to the client; they then count as sent.
    ///
    /// # Errors
    /// Why not. They have been counted.
    pub fn outgoing_many(&mut self, longest: usize, (packets, bytes): (usize, usize)) -> Result<(), DropReason> {
        if longest > usize::from(self.mtu) {
            self.drop_packets(DropReason::TooBig, packets);
            return Err(DropReason::TooBig);
        }
        self.traffic.went_out(packets, bytes);
        Ok(())
    }

    /// Counts a packet that the caller had to drop.
    pub fn drop_packet(&mut self, reason: DropReason) {
        self.traffic.drops.count(reason);
    }

    /// Counts what became of packets elsewhere.
    pub fn add_drops(&mut self, drops: &DropCounters) {
        self.traffic.drops.add(drops);
    }

    /// Counts several packets that the caller had to drop.
    pub fn drop_packets(&mut self, reason: DropReason, packets: usize) {
        self.traffic.drops.count_many(reason, packets as u64);
    }

    /// When to call [`Established::handle_timeout`].
    pub fn deadline(&self) -> Option<Deadline> {
        self.timers.earliest()
    }

    /// Handles every timer that is due.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.timers.take_due(now.awake) {
            match timer {
                Timer::Idle => self.over(Output::Ended(EndReason::Idle)),
                Timer::Liveness | Timer::Keepalive => {}
            }
        }
    }

    /// The client is parked: how long that may last is for the table of sessions, and none of it counts as idle.
    pub fn rest(&mut self, now: Now) {
        if let Some(deadline) = self.timers.earliest() {
            self.count = Idle::Rests {
                left: deadline.at.since(now.awake),
            };
            self.timers.set(Timer::Idle, None);
        }
    }

    /// The client is back, and has as long as it had left.
    pub fn wake(&mut self, now: Now) {
        if let Idle::Rests { left } = self.count {
            self.count = Idle::Counts;
            self.timers
                .set(Timer::Idle, Some(now.awake.plus(left)).filter(|_| !self.over));
        }
    }

    /// Time in which the gateway did not run does not count as idle.
    pub fn rebase(&mut self, gap: &Gap) {
        self.timers.rebase(gap.awake);
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The frame that tells a client that its session is over. Stock clients log the text and stop.
    pub fn farewell(reason: &EndReason) -> (Kind, Vec<u8>) {
        (
            Kind::Disconnect,
            goodbye_payload(&Goodbye::Logout(reason.phrase().to_owned())),
        )
    }

    /// Whether a packet out of a datagram with the mark `outer` may go on, with what of the mark is to be its own; otherwise as
    /// [`Established::incoming`].
    pub fn incoming_in(&mut self, outer: Ecn, payload: &mut [u8], now: Now) -> Received {
        match ecn::decapsulate(payload, outer) {
            Ok(()) => self.incoming(payload, now),
            Err(reason) => self.dropped(reason),
        }
    }

    /// Whether a packet that came over either channel may go on: only if its source is the client's lease. It then counts as
    /// received.
    pub fn incoming(&mut self, payload: &[u8], now: Now) -> Received {
        match self.check_incoming(payload) {
            Ok(packet) => {
                self.came_in(&packet, (1, packet.as_bytes().len()), now);
                Received::Packet
            }
            Err(reason) => self.dropped(reason),
        }
    }

    /// As [`Established::incoming`], for several packets of one flow in a frame.
    fn bundle(&mut self, payload: &[u8], now: Now) -> Received {
        let bundle = match Bundle::parse(payload) {
            Ok(bundle) => bundle,
            Err(reason) => return self.dropped(reason),
        };
        match self.check_incoming(bundle.packet(payload)) {
            Ok(packet) => {
                self.came_in(&packet, (bundle.packets(), bundle.bytes()), now);
                Received::Bundle(bundle)
            }
            Err(reason) => {
                self.drop_packets(reason, bundle.packets());
                Received::Dropped(reason)
            }
        }
    }

    fn check_incoming<'a>(&self, payload: &'a [u8]) -> Result<IpPacket<'a>, DropReason> {
        let packet = IpPacket::parse(payload)?;
        if !self.lease.permits(packet.source()) {
            return Err(DropReason::ForeignSource);
        }
        if !is_forwardable(packet.destination()) {
            return Err(DropReason::NotForwardable);
        }
        match &self.access {
            Some(access) if !access.permits(&packet, Towards::Network) => Err(DropReason::Access),
            Some(_) | None => Ok(packet),
        }
    }

    fn came_in(&mut self, packet: &IpPacket<'_>, (packets, bytes): (usize, usize), now: Now) {
        self.traffic.came_in(packets, bytes);
        if !NO_ACTIVITY.contains(&packet.protocol()) {
            self.active(now);
        }
    }

    fn dropped(&mut self, reason: DropReason) -> Received {
        self.traffic.drops.count(reason);
        Received::Dropped(reason)
    }

    fn active(&mut self, now: Now) {
        let Some(idle) = self.idle else { return };
        match &mut self.count {
            Idle::Rests { left } => *left = idle,
            Idle::Counts => self
                .timers
                .set(Timer::Idle, Some(now.awake.plus(idle)).filter(|_| !self.over)),
        }
    }

    fn over(&mut self, output: Output) {
        if !self.over {
            self.over = true;
            self.timers.set(Timer::Idle, None);
            self.outputs.push_back(output);
        }
    }
}

/// Whether a packet to this address can leave the host, to one other. What means "everybody here" or nobody is the gateway's own link.
fn is_forwardable(destination: IpAddr) -> bool {
    match destination {
        // 0.0.0.0/8 is "this network" (RFC 1122 section 3.2.1.3): some hosts take it for themselves.
        IpAddr::V4(to) => !(to.is_multicast() || to.is_loopback() || to.is_broadcast() || to.octets()[0] == 0),
        IpAddr::V6(to) => !(to.is_multicast() || to.is_loopback() || to.is_unspecified()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(seconds: u64) -> Now {
        Now::default().plus(Duration::from_secs(seconds))
    }

    fn session(idle: Option<u64>) -> Established {
        let lease = Lease {
            v4: Some([10, 78, 0, 2].into()),
            v6: None,
        };
        Established::new(lease, 1400, idle.map(Duration::from_secs), now(0))
    }

    fn frame(kind: Kind, payload: &[u8]) -> Frame {
        Frame {
            kind,
            payload: payload.into(),
        }
    }

    fn packet(source: [u8; 4], protocol: u8) -> Frame {
        let mut bytes = vec![0; 60];
        bytes[0] = 0x45;
        bytes[3] = 60;
        bytes[9] = protocol;
        bytes[12..16].copy_from_slice(&source);
        bytes[16..20].copy_from_slice(&[10, 77, 0, 1]);
        frame(Kind::Data, &bytes)
    }

    #[test]
    fn a_packet_must_come_from_the_lease() {
        let mut session = session(None);
        assert_eq!(session.received(&packet([10, 78, 0, 2], 6), now(1)), Received::Packet);
        let spoofed = session.received(&packet([10, 78, 0, 3], 6), now(1));
        assert_eq!(spoofed, Received::Dropped(DropReason::ForeignSource));
    }

    #[test]
    fn what_is_for_everybody_or_nobody_is_not_forwarded() {
        let mut session = session(None);
        let mut bytes = packet([10, 78, 0, 2], 17).payload.to_vec();
        for to in [[224, 0, 0, 251], [127, 0, 0, 1], [255; 4], [0; 4], [0, 1, 2, 3]] {
            bytes[16..20].copy_from_slice(&to);
            let taken = session.incoming(&bytes, now(1));
            assert_eq!(taken, Received::Dropped(DropReason::NotForwardable), "{to:?}");
        }
        for to in [[1, 0, 0, 0], [255, 255, 255, 254], [10, 77, 255, 255]] {
            bytes[16..20].copy_from_slice(&to);
            assert_eq!(session.incoming(&bytes, now(1)), Received::Packet, "{to:?}");
        }
        for (to, forwardable) in [("::", false), ("::1", false), ("ff02::1", false), ("fd00::1", true)] {
            assert_eq!(is_forwardable(to.parse().expect("an address")), forwardable, "{to}");
        }
    }

    #[test]
    fn only_what_the_rules_allow_passes_in_either_direction() {
        use packet::access::{Action, Protocol, Rule};
        let allowed = Rule {
            action: Action::Allow,
            networks: vec!["10.77.0.1/32".parse().expect("network")],
            protocol: Protocol::Udp,
            ports: vec![7..=7],
        };
        let mut session = session(None);
        let mut udp = packet([10, 78, 0, 2], 17).payload.to_vec();
        assert_eq!(session.incoming(&udp, now(1)), Received::Packet, "no rules");
        session.set_access(Some(Arc::new(AccessList::compile([&allowed], Action::Deny))));
        assert_eq!(session.incoming(&udp, now(1)), Received::Dropped(DropReason::Access));
        udp[22..24].copy_from_slice(&7_u16.to_be_bytes());
        assert_eq!(session.incoming(&udp, now(1)), Received::Packet);
        // Back from there.
        udp[12..20].copy_from_slice(&[10, 77, 0, 1, 10, 78, 0, 2]);
        assert_eq!(session.may_go(&udp, 1), Err(DropReason::Access), "from port 0");
        udp[20..22].copy_from_slice(&7_u16.to_be_bytes());
        assert_eq!(session.may_go(&udp, 1), Ok(()));
        assert_eq!(session.may_go(b"junk", 3), Err(DropReason::Malformed));
        assert_eq!(session.traffic().drops.to_string(), "malformed=3 access=2");
        session.set_access(None);
        assert_eq!(session.may_go(b"junk", 3), Ok(()), "whoever cuts it looks at it");
    }

    /// Three datagrams of the lease, or of its neighbour, in a frame.
    fn bundle(source: [u8; 4]) -> Frame {
        let mut bytes = vec![0, 10];
        bytes.extend(&packet(source, 17).payload[..]);
        bytes.truncate(2 + 20 + 8 + 25);
        bytes[2 + 3] = 53;
        frame(Kind::Bundle, &bytes)
    }

    #[test]
    fn several_packets_in_a_frame_count_as_many_and_only_where_that_was_granted() {
        let mut session = session(Some(60)).with_bundles(true);
        let taken = session.received(&bundle([10, 78, 0, 2]), now(50));
        let Received::Bundle(bundle_of_three) = taken else {
            panic!("{taken:?}")
        };
        assert_eq!((bundle_of_three.packets(), session.traffic().packets_in), (3, 3));
        assert_eq!(session.traffic().bytes_in, 3 * 28 + 25);
        assert_eq!(session.deadline().map(|deadline| deadline.at), Some(now(110).awake));
        let spoofed = session.received(&bundle([10, 78, 0, 3]), now(51));
        assert_eq!(spoofed, Received::Dropped(DropReason::ForeignSource));
        let garbage = session.received(&frame(Kind::Bundle, b"garbage"), now(51));
        assert_eq!(garbage, Received::Dropped(DropReason::Malformed));
        assert_eq!(session.traffic().drops.total(), 4);
        assert_eq!(session.outgoing_many(1400, (3, 4000)), Ok(()));
        assert_eq!(session.outgoing_many(1401, (3, 4000)), Err(DropReason::TooBig));
        assert_eq!((session.traffic().packets_out, session.traffic().bytes_out), (3, 4000));
        let mut stock = self::session(None);
        assert_eq!(stock.received(&bundle([10, 78, 0, 2]), now(1)), Received::Nothing);
        assert_eq!(stock.traffic().drops.total(), 0);
    }

    #[test]
    fn a_mark_reaches_the_packet_or_costs_it_and_is_counted() {
        let mut session = session(None);
        let bytes = |ecn: Ecn| {
            let mut bytes = packet([10, 78, 0, 2], 6).payload.to_vec();
            bytes[1] = ecn.bits();
            bytes
        };
        let mut capable = bytes(Ecn::Ect0);
        assert_eq!(session.incoming_in(Ecn::Ce, &mut capable, now(1)), Received::Packet);
        assert_eq!(Ecn::of(&capable), Ecn::Ce);
        let lost = session.incoming_in(Ecn::Ce, &mut bytes(Ecn::NotEct), now(1));
        assert_eq!(lost, Received::Dropped(DropReason::Congestion));
        assert_eq!(session.traffic().drops.of(DropReason::Congestion), 1);
        let mut foreign = bytes(Ecn::Ect0);
        foreign[15] = 9;
        let spoofed = session.incoming_in(Ecn::Ce, &mut foreign, now(1));
        assert_eq!(spoofed, Received::Dropped(DropReason::ForeignSource));
        assert_eq!(session.traffic().drops.total(), 2, "one reason each");
    }

    #[test]
    fn silence_ends_no_session() {
        let mut session = session(None);
        assert_eq!(session.deadline(), None);
        session.handle_timeout(now(100_000));
        assert_eq!(session.poll(), None);
    }

    #[test]
    fn an_idle_session_ends_and_ping_does_not_keep_it() {
        let mut session = session(Some(60));
        session.received(&packet([10, 78, 0, 2], 6), now(30));
        session.received(&packet([10, 78, 0, 2], 1), now(80));
        session.handle_timeout(now(89));
        assert_eq!(session.poll(), None);
        session.handle_timeout(now(90));
        assert_eq!(session.poll(), Some(Output::Ended(EndReason::Idle)));
        assert_eq!(session.deadline(), None);
    }

    #[test]
    fn a_park_is_not_idle_and_what_was_left_is_left_afterwards() {
        let mut session = session(Some(60));
        session.rest(now(40));
        session.rest(now(41));
        assert_eq!(session.deadline(), None);
        session.handle_timeout(now(30_000));
        assert_eq!(session.poll(), None);
        session.wake(now(30_000));
        session.handle_timeout(now(30_019));
        assert_eq!(session.poll(), None);
        session.handle_timeout(now(30_020));
        assert_eq!(session.poll(), Some(Output::Ended(EndReason::Idle)));
    }

    #[test]
    fn a_packet_of_a_maintenance_wake_gives_all_of_the_idle_time_back_and_starts_no_timer() {
        let mut session = session(Some(60));
        session.rest(now(40));
        session.received(&packet([10, 78, 0, 2], 6), now(1000));
        assert_eq!(session.deadline(), None);
        session.wake(now(2000));
        assert_eq!(session.deadline().map(|deadline| deadline.at), Some(now(2060).awake));
        let mut never = self::session(None);
        never.rest(now(1));
        never.wake(now(2));
        assert_eq!(never.deadline(), None);
    }

    #[test]
    fn a_logout_ends_the_session_and_a_temporary_goodbye_only_the_connection() {
        let mut one = session(None);
        one.received(&frame(Kind::Disconnect, b"\xb0bye"), now(1));
        assert_eq!(one.poll(), Some(Output::Ended(EndReason::UserStop)));
        let mut other = session(None);
        other.received(&frame(Kind::Disconnect, b""), now(1));
        assert!(matches!(other.poll(), Some(Output::Dead(_))));
    }

    #[test]
    fn a_probe_is_echoed_exactly() {
        let mut session = session(None);
        session.received(&frame(Kind::DpdRequest, &[7; 33]), now(1));
        assert_eq!(session.poll(), Some(Output::Send(Kind::DpdResponse, vec![7; 33])));
    }
}
