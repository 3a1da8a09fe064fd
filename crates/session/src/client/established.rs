//! Frames and packets of the client, from grant to end.

mod demand;
mod wake;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use now::{Awake, Deadline, Gap, Now};
use packet::{Bundle, DropCounters, DropReason, Ecn, IpPacket, ecn};
use wire::cstp::{Frame, Goodbye, Kind, goodbye_payload, parse_goodbye};
use wire::offer::{Grant, MarmotSession};
use wire::text::escape;

use self::wake::Watch;
use crate::liveness::Verdict;
use crate::timers::{Timer, Timers};
use crate::{EndReason, Liveness, Output, Received, Traffic};

pub use demand::asks_for_tunnel;
pub use wake::Word;

/// Answers to probes that may wait to be sent. A peer that probes faster than it reads gets no more.
const MAX_ANSWERS: usize = 8;

/// A session with a grant and a living channel.
#[derive(Debug)]
pub struct Established {
    grant: Grant,
    liveness: Option<Liveness>,
    timers: Timers,
    outputs: VecDeque<Output>,
    traffic: Traffic,
    watch: Watch,
    over: bool,
}

impl Established {
    pub(super) fn new(grant: Grant, now: Now) -> Self {
        let mut this = Self {
            liveness: None,
            timers: Timers::default(),
            outputs: VecDeque::new(),
            traffic: Traffic::default(),
            watch: Watch::new(),
            over: false,
            grant,
        };
        this.set_dpd(this.grant.dpd, now);
        this.sent(now.awake);
        this
    }

    /// What the gateway granted.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Session id and epoch, if the gateway is one of ours.
    pub fn session(&self) -> Option<&MarmotSession> {
        self.grant.session.as_ref()
    }

    /// The addresses granted to this end.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let v4 = self.grant.v4.map(|net| IpAddr::V4(net.addr()));
        let v6 = self.grant.v6.map(|net| IpAddr::V6(net.addr()));
        v4.into_iter().chain(v6)
    }

    /// Packets and bytes so far.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Overrides the dead-peer detection time the gateway advised. `None` switches it off. With a gateway that keeps sessions
    /// there is none: a probe on its way to a gateway that is gone would end the connection sooner than the kernel does, whose
    /// own probes find out as well, and hold no sleep against anybody.
    pub fn set_dpd(&mut self, interval: Option<Duration>, now: Now) {
        self.liveness = interval
            .filter(|_| !self.parks())
            .map(|interval| Liveness::new(interval, now.awake));
        self.rearm();
    }

    /// Takes a frame from the gateway.
    pub fn received(&mut self, frame: &Frame, now: Now) -> Received {
        self.watch.heard(now.awake);
        self.received_late(frame, now)
    }

    /// Takes a frame that waited while this process did not run. It proves nothing of the channel of today.
    pub fn received_late(&mut self, frame: &Frame, now: Now) -> Received {
        if let Some(liveness) = &mut self.liveness {
            liveness.heard(now.awake);
        }
        self.rearm();
        match frame.kind {
            Kind::Data => return self.incoming(&frame.payload),
            Kind::DpdRequest => self.answer(&frame.payload, now.awake),
            Kind::Disconnect => self.over(disconnected(&frame.payload)),
            Kind::Terminate => self.over(Output::Dead("the gateway is going away")),
            Kind::Bundle if self.grant.marmot_bundle => return self.bundle(&frame.payload),
            Kind::Compressed => return self.dropped(DropReason::Malformed),
            Kind::ParkAnswer => self.watch.park_answered(&frame.payload),
            Kind::AwakeAnswer => self.watch.awake_answered(&frame.payload),
            Kind::DpdResponse | Kind::Keepalive | Kind::Park | Kind::Awake | Kind::Bundle | Kind::Unknown(_) => {}
        }
        Received::Nothing
    }

    /// Whether a packet of this host may go to the gateway now; it then counts as sent.
    ///
    /// # Errors
    /// Why not. It has been counted.
    pub fn outgoing(&mut self, packet: &[u8], now: Now) -> Result<(), DropReason> {
        self.outgoing_many(packet, packet.len(), (1, packet.len()), now)
    }

    /// Whether `packets` packets of this host, `bytes` bytes together, of which the longest has `longest`, may go to the gateway now; they
    /// then count as sent. `whole` has the addresses of all of them.
    ///
    /// # Errors
    /// Why not. They have been counted.
    pub fn outgoing_many(
        &mut self,
        whole: &[u8],
        longest: usize,
        (packets, bytes): (usize, usize),
        now: Now,
    ) -> Result<(), DropReason> {
        match self.check_outgoing(whole, longest) {
            Ok(()) => {
                self.traffic.went_out(packets, bytes);
                self.sent(now.awake);
                Ok(())
            }
            Err(reason) => {
                self.drop_packets(reason, packets);
                Err(reason)
            }
        }
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
        Deadline::earliest(self.timers.earliest(), self.watch.deadline())
    }

    /// Handles every timer that is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.handle_watch(now.awake);
        while let Some(timer) = self.timers.take_due(now.awake) {
            match timer {
                Timer::Liveness => self.look_for_peer(now.awake),
                Timer::Keepalive => {
                    self.outputs.push_back(Output::Send(Kind::Keepalive, Vec::new()));
                    self.sent(now.awake);
                }
                Timer::Idle => {}
            }
        }
    }

    /// Waking time in which this process did not run does not count against the peer.
    pub fn rebase(&mut self, gap: &Gap) {
        if let Some(liveness) = &mut self.liveness {
            liveness.rebase(gap.awake);
        }
        self.timers.rebase(gap.awake);
        self.watch.rebase(gap.awake);
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The frame that ends the session for good and makes the gateway forget it.
    pub fn goodbye() -> (Kind, Vec<u8>) {
        (
            Kind::Disconnect,
            goodbye_payload(&Goodbye::Logout("user stop".to_owned())),
        )
    }

    /// Whether a packet out of a datagram with the mark `outer` may go to the host, with what of the mark is to be its own; otherwise as
    /// [`Established::incoming`].
    pub fn incoming_in(&mut self, outer: Ecn, payload: &mut [u8]) -> Received {
        match ecn::decapsulate(payload, outer) {
            Ok(()) => self.incoming(payload),
            Err(reason) => self.dropped(reason),
        }
    }

    /// Whether a packet that came over either channel may go to the host; it then counts as received.
    pub fn incoming(&mut self, payload: &[u8]) -> Received {
        match self.check_incoming(payload) {
            Ok(packet) => {
                self.traffic.came_in(1, packet.as_bytes().len());
                Received::Packet
            }
            Err(reason) => self.dropped(reason),
        }
    }

    /// As [`Established::incoming`], for several packets of one flow in a frame.
    fn bundle(&mut self, payload: &[u8]) -> Received {
        let bundle = match Bundle::parse(payload) {
            Ok(bundle) => bundle,
            Err(reason) => return self.dropped(reason),
        };
        match self.check_incoming(bundle.packet(payload)) {
            Ok(_) => {
                self.traffic.came_in(bundle.packets(), bundle.bytes());
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
        // The gateway speaks to the tunnel's addresses only; what listens on others of this host is not its business.
        if self.addresses().any(|own| own == packet.destination()) {
            Ok(packet)
        } else {
            Err(DropReason::ForeignDestination)
        }
    }

    fn dropped(&mut self, reason: DropReason) -> Received {
        self.traffic.drops.count(reason);
        Received::Dropped(reason)
    }

    fn check_outgoing(&self, packet: &[u8], longest: usize) -> Result<(), DropReason> {
        if longest > usize::from(self.grant.mtu) {
            return Err(DropReason::TooBig);
        }
        let packet = IpPacket::parse(packet)?;
        if packet.destination().is_multicast() {
            return Err(DropReason::NotForwardable);
        }
        let source = packet.source();
        if self.addresses().any(|own| own == source) {
            Ok(())
        } else {
            Err(DropReason::ForeignSource)
        }
    }

    fn answer(&mut self, payload: &[u8], now: Awake) {
        if self.outputs.len() < MAX_ANSWERS {
            self.outputs
                .push_back(Output::Send(Kind::DpdResponse, payload.to_vec()));
            self.sent(now);
        }
    }

    fn look_for_peer(&mut self, now: Awake) {
        let Some(liveness) = &mut self.liveness else { return };
        match liveness.look(now) {
            Verdict::Wait => {}
            Verdict::Probe => {
                self.outputs.push_back(Output::Send(Kind::DpdRequest, Vec::new()));
                self.sent(now);
            }
            Verdict::Dead => {
                self.watch.silent();
                self.over(Output::Dead("the gateway answers no probe"));
            }
        }
        self.rearm();
    }

    /// The first last word counts.
    fn over(&mut self, word: Output) {
        if !self.over {
            self.over = true;
            self.outputs.push_back(word);
            self.rearm();
        }
    }

    fn sent(&mut self, now: Awake) {
        // Where sessions are kept, the kernel's keepalive is enough; see `set_dpd`.
        let speaks = !self.parks() && !self.watch.is_quiet();
        let interval = self.grant.keepalive.filter(|_| speaks);
        self.timers
            .set(Timer::Keepalive, interval.map(|interval| now.plus(interval)));
    }

    fn rearm(&mut self) {
        let live = self.liveness.filter(|_| !self.over && !self.watch.is_quiet());
        self.timers
            .set(Timer::Liveness, live.map(|liveness| liveness.deadline()));
    }
}

/// A goodbye with a reason is one to us. An empty one is what a stock gateway says on its way down, when it has the time to
/// (measured with ocserv 1.1.6); whether the session is over is then for the cookie to show.
fn disconnected(payload: &[u8]) -> Output {
    match parse_goodbye(payload) {
        Goodbye::Logout(text) => Output::Ended(EndReason::Admin(escape(&text))),
        Goodbye::Temporary | Goodbye::Other(_) => Output::Dead("the gateway is going away"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(seconds: u64) -> Now {
        Now::default().plus(Duration::from_secs(seconds))
    }

    fn established(dpd: u64) -> Established {
        let grant = Grant {
            v4: Some("10.78.0.2/24".parse().expect("net")),
            v6: Some("fd00:78::2/128".parse().expect("net")),
            mtu: 1400,
            dpd: Some(Duration::from_secs(dpd)),
            ..Grant::default()
        };
        Established::new(grant, now(0))
    }

    fn frame(kind: Kind, payload: &[u8]) -> Frame {
        Frame {
            kind,
            payload: payload.into(),
        }
    }

    fn packet(source: [u8; 4], destination: [u8; 4], length: u16) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(length)];
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes[12..16].copy_from_slice(&source);
        bytes[16..20].copy_from_slice(&destination);
        bytes
    }

    #[test]
    fn a_mark_reaches_the_packet_or_costs_it_and_is_counted() {
        let mut session = established(20);
        let bytes = |ecn: Ecn| {
            let mut bytes = packet([10, 77, 0, 1], [10, 78, 0, 2], 60);
            bytes[1] = ecn.bits();
            bytes
        };
        let mut capable = bytes(Ecn::Ect1);
        assert_eq!(session.incoming_in(Ecn::Ce, &mut capable), Received::Packet);
        assert_eq!(Ecn::of(&capable), Ecn::Ce);
        let lost = session.incoming_in(Ecn::Ce, &mut bytes(Ecn::NotEct));
        assert_eq!(lost, Received::Dropped(DropReason::Congestion));
        assert_eq!(session.traffic().drops.of(DropReason::Congestion), 1);
        assert_eq!(session.traffic().drops.total(), 1, "one reason");
    }

    #[test]
    fn a_probe_is_echoed_with_its_payload() {
        let mut session = established(20);
        assert_eq!(
            session.received(&frame(Kind::DpdRequest, b"tag"), now(1)),
            Received::Nothing
        );
        assert_eq!(session.poll(), Some(Output::Send(Kind::DpdResponse, b"tag".to_vec())));
    }

    #[test]
    fn a_flood_of_probes_makes_no_flood_of_memory() {
        let mut session = established(20);
        for _ in 0..10_000 {
            session.received(&frame(Kind::DpdRequest, b"x"), now(1));
        }
        assert_eq!(std::iter::from_fn(|| session.poll()).count(), MAX_ANSWERS);
    }

    #[test]
    fn a_silent_gateway_is_probed_and_then_dead_once() {
        let mut session = established(20);
        let mut outputs = Vec::new();
        while let Some(deadline) = session.deadline() {
            session.handle_timeout(Now {
                awake: deadline.at,
                ..now(0)
            });
            outputs.extend(std::iter::from_fn(|| session.poll()));
        }
        let probe = Output::Send(Kind::DpdRequest, Vec::new());
        assert_eq!(
            outputs,
            [probe.clone(), probe, Output::Dead("the gateway answers no probe")]
        );
    }

    #[test]
    fn a_frozen_process_does_not_condemn_its_session_on_waking() {
        let mut session = established(20);
        session.handle_timeout(now(20));
        assert!(matches!(session.poll(), Some(Output::Send(Kind::DpdRequest, _))));
        let hour = Duration::from_secs(3600);
        session.rebase(&Gap {
            length: hour,
            awake: hour,
            kind: now::GapKind::Freeze,
        });
        session.handle_timeout(now(3625));
        assert_eq!(session.poll(), None, "the answer may be in the socket");
        session.received(&frame(Kind::DpdResponse, b""), now(3625));
        session.handle_timeout(now(3644));
        assert_eq!(session.poll(), None);
    }

    /// A gateway of ours: it keeps sessions, and nobody asks for want of traffic.
    fn kept() -> Established {
        let mut session = established(20);
        session.grant.park = Some(Duration::from_secs(28_800));
        session.set_dpd(None, now(0));
        session.sent(now(0).awake);
        session
    }

    fn freeze(session: &mut Established, length: u64) {
        let length = Duration::from_secs(length);
        session.rebase(&Gap {
            length,
            awake: length,
            kind: now::GapKind::Freeze,
        });
    }

    /// All it says until `end`, with the second in which it says it.
    fn said(session: &mut Established, from: u64, end: u64) -> Vec<(u64, Kind)> {
        let mut said = Vec::new();
        for second in from..=end {
            session.handle_timeout(now(second));
            while let Some(output) = session.poll() {
                match output {
                    Output::Send(kind, _) => said.push((second, kind)),
                    Output::Dead(_) | Output::Ended(_) => panic!("{output:?}"),
                }
            }
        }
        said
    }

    #[test]
    fn an_idle_channel_is_asked_once_after_a_freeze_and_the_answer_is_proof_of_life() {
        let mut session = kept();
        freeze(&mut session, 10);
        session.ask_soon(now(10));
        assert_eq!(said(&mut session, 10, 13), [(12, Kind::DpdRequest)]);
        session.received(&frame(Kind::DpdResponse, b""), now(13));
        assert_eq!(session.word(), Some(Word::Alive));
        assert_eq!(said(&mut session, 13, 4000), [], "once");
        assert_eq!(session.deadline(), None);
    }

    #[test]
    fn whoever_is_heard_after_a_freeze_is_not_asked() {
        let mut session = kept();
        session.ask_soon(now(1));
        assert_eq!(session.deadline(), None, "nothing is in doubt");
        freeze(&mut session, 10);
        session.ask_soon(now(10));
        session.received(&frame(Kind::Keepalive, b""), now(11));
        assert_eq!(said(&mut session, 11, 100), []);
    }

    #[test]
    fn a_question_for_its_own_sake_is_not_asked_in_quiet() {
        let mut session = kept();
        freeze(&mut session, 10);
        session.ask_soon(now(10));
        session.be_quiet();
        session.ask_soon(now(11));
        session.ask(now(11));
        assert_eq!(said(&mut session, 11, 100), []);
    }

    #[test]
    fn a_gateway_that_does_not_answer_after_a_move_is_looked_for_on_another_connection() {
        let mut session = kept();
        session.ask(now(1));
        assert_eq!(said(&mut session, 1, 2), [(1, Kind::DpdRequest)]);
        session.handle_timeout(now(3));
        let words: Vec<Word> = std::iter::from_fn(|| session.word()).collect();
        assert!(matches!(words[..], [Word::Silent, Word::Renew(_)]), "{words:?}");
        session.received(&frame(Kind::DpdResponse, b""), now(4));
        assert_eq!(session.word(), Some(Word::Alive));
        assert_eq!(session.deadline(), None);
    }

    #[test]
    fn a_disconnect_ends_the_session_once_and_with_the_text_escaped() {
        let mut session = established(20);
        session.received(&frame(Kind::Disconnect, b"\xb0bye\x1b[2J"), now(1));
        session.received(&frame(Kind::Terminate, b""), now(1));
        let Some(Output::Ended(EndReason::Admin(text))) = session.poll() else {
            panic!("not ended")
        };
        assert!(text.starts_with("bye") && !text.contains('\x1b'), "{text}");
        assert_eq!(session.poll(), None);
    }

    #[test]
    fn a_gateway_that_goes_away_ends_the_connection_and_not_the_session() {
        for (kind, payload) in [
            (Kind::Terminate, &b""[..]),
            (Kind::Disconnect, b""),
            (Kind::Disconnect, b"\x01"),
        ] {
            let mut session = established(20);
            session.received(&frame(kind, payload), now(1));
            assert_eq!(session.poll(), Some(Output::Dead("the gateway is going away")));
            session.handle_timeout(now(100));
            assert_eq!(session.poll(), None);
        }
    }

    #[test]
    fn unknown_frames_are_ignored_and_count_as_life() {
        let mut session = established(20);
        session.handle_timeout(now(20));
        session.received(&frame(Kind::Unknown(0x77), b"?"), now(21));
        assert_eq!(session.deadline().map(|deadline| deadline.at), Some(now(41).awake));
    }

    #[test]
    fn only_our_own_packets_go_out() {
        let mut session = established(20);
        assert_eq!(
            session.outgoing(&packet([10, 78, 0, 2], [10, 77, 0, 1], 100), now(1)),
            Ok(())
        );
        let foreign = packet([192, 0, 2, 1], [10, 77, 0, 1], 100);
        assert_eq!(session.outgoing(&foreign, now(1)), Err(DropReason::ForeignSource));
        let large = packet([10, 78, 0, 2], [10, 77, 0, 1], 1401);
        assert_eq!(session.outgoing(&large, now(1)), Err(DropReason::TooBig));
        let multicast = packet([10, 78, 0, 2], [224, 0, 0, 22], 100);
        assert_eq!(session.outgoing(&multicast, now(1)), Err(DropReason::NotForwardable));
        assert_eq!(session.traffic().packets_out, 1);
        assert_eq!(session.traffic().drops.total(), 3);
    }

    #[test]
    fn a_packet_from_the_gateway_must_be_one() {
        let mut session = established(20);
        assert_eq!(
            session.received(&frame(Kind::Data, &packet([10, 77, 0, 1], [10, 78, 0, 2], 60)), now(1)),
            Received::Packet
        );
        let garbage = frame(Kind::Data, b"garbage");
        assert_eq!(
            session.received(&garbage, now(1)),
            Received::Dropped(DropReason::Malformed)
        );
        assert_eq!(session.traffic().bytes_in, 60);
    }

    #[test]
    fn several_packets_in_a_frame_count_as_many_and_only_where_that_was_granted() {
        let bundle = |to| {
            let mut bytes = packet([10, 77, 0, 1], to, 28 + 25);
            bytes[9] = 17;
            frame(Kind::Bundle, &[&[0, 10], &bytes[..]].concat())
        };
        let mut session = established(20);
        assert_eq!(session.received(&bundle([10, 78, 0, 2]), now(1)), Received::Nothing);
        session.grant.marmot_bundle = true;
        let taken = session.received(&bundle([10, 78, 0, 2]), now(1));
        assert!(
            matches!(taken, Received::Bundle(bundle) if bundle.packets() == 3),
            "{taken:?}"
        );
        assert_eq!(
            (session.traffic().packets_in, session.traffic().bytes_in),
            (3, 3 * 28 + 25)
        );
        let elsewhere = session.received(&bundle([192, 0, 2, 2]), now(1));
        assert_eq!(elsewhere, Received::Dropped(DropReason::ForeignDestination));
        let garbage = session.received(&frame(Kind::Bundle, b"garbage"), now(1));
        assert_eq!(garbage, Received::Dropped(DropReason::Malformed));
        assert_eq!(session.traffic().drops.total(), 4);
    }

    #[test]
    fn a_packet_from_the_gateway_must_be_for_the_tunnel() {
        let mut session = established(20);
        let elsewhere = frame(Kind::Data, &packet([10, 77, 0, 1], [192, 0, 2, 2], 60));
        assert_eq!(
            session.received(&elsewhere, now(1)),
            Received::Dropped(DropReason::ForeignDestination)
        );
        assert_eq!(session.traffic().packets_in, 0);
    }

    #[test]
    fn a_keepalive_goes_out_when_nothing_else_did() {
        let grant = Grant {
            mtu: 1400,
            keepalive: Some(Duration::from_secs(10)),
            ..Grant::default()
        };
        let mut session = Established::new(grant, now(0));
        session.handle_timeout(now(10));
        assert_eq!(session.poll(), Some(Output::Send(Kind::Keepalive, Vec::new())));
        assert_eq!(session.deadline().map(|deadline| deadline.at), Some(now(20).awake));
    }
}
