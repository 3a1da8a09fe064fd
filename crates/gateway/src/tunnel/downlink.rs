//! The way of packets to the client: which channel, or under which reason they are dropped.

use channel::Closed;
use now::Now;
use packet::{DropReason, Ecn, IpPacket, Segments, Step};
use session::{Fit, Fitter};
use wire::cstp::Kind;
use wire::limits::CSTP_MAX_PAYLOAD;

use super::presence::is_idle;
use super::{Line, SEALED_FLOWING, SEALED_MAX, Tunnel};
use crate::datapath::{DataPath, Fate};
use crate::load::Load;
use crate::queue::Receiver;

/// Packets sent before the other direction gets its turn: more than the switch reads in one of its own, so that none waits for the next.
const PACKETS: usize = 256;

/// Where a packet for the client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Data,
    Control,
    Nowhere(DropReason),
}

impl Tunnel<'_> {
    /// Whether packets for the client are to be taken: they can go somewhere, or are to be dropped.
    pub(super) fn takes_packets(&self) -> bool {
        let taken_anyway = self.attendance.parked().is_some()
            || self.data.as_ref().is_some_and(|data| data.is_up() || data.is_silent());
        let most = match self.flows && self.attendance.is_active() {
            true => SEALED_FLOWING,
            false => SEALED_MAX,
        };
        let has_room = |line: &Line| line.channel.pending() < most;
        taken_anyway || self.line.as_ref().is_none_or(has_room)
    }

    /// Sends these packets and those behind them, as long as the channel that they take keeps up.
    pub(super) fn packets(
        &mut self,
        first: Load,
        queue: &mut Receiver<Load>,
        fitter: &mut Fitter,
        now: Now,
    ) -> Result<(), Closed> {
        let sent = self.gather(first, queue, fitter, now);
        if let Some(data) = &mut self.data {
            self.established.add_drops(&data.flush(now));
        }
        sent
    }

    fn gather(&mut self, first: Load, queue: &mut Receiver<Load>, fitter: &mut Fitter, now: Now) -> Result<(), Closed> {
        let (mut next, mut taken) = (Some(first), 0);
        while let Some(load) = next {
            match load.segments() {
                Ok(mut segments) => {
                    let packets = segments.left();
                    taken += packets;
                    // What the rules do not allow has been counted by the session.
                    if self.established.may_go(segments.whole(), packets).is_ok() {
                        let sent = self.load(&mut segments, fitter, now);
                        let left = segments.left();
                        if sent.is_err() {
                            self.established.drop_packets(DropReason::ChannelDown, left);
                            return sent;
                        }
                        if left > 0 {
                            self.rest = Some(load.gone(packets - left));
                            break;
                        }
                    }
                }
                Err(reason) => {
                    taken += 1;
                    self.established.drop_packet(reason);
                }
            }
            if taken >= PACKETS || !self.takes_packets() {
                break;
            }
            next = queue.try_recv();
        }
        Ok(())
    }

    /// Sends what has come for the client before it connected anew. Nothing comes behind it.
    pub(super) fn rest_of_packets(&mut self, queue: &mut Receiver<Load>, fitter: &mut Fitter, now: Now) {
        while let Some(load) = self.rest.take().or_else(|| queue.try_recv()) {
            if self.packets(load, queue, fitter, now).is_err() {
                return;
            }
        }
    }

    /// One read of the device: one packet, or several of one flow, which are sealed straight from where they stand, as far as the
    /// channel that they take keeps up.
    fn load(&mut self, segments: &mut Segments<'_>, fitter: &mut Fitter, now: Now) -> Result<(), Closed> {
        let (packets, longest) = (segments.left(), segments.longest());
        if packets == 1 {
            return match segments.as_is() {
                Some(packet) => {
                    segments.skip(1);
                    self.packet(packet, fitter, now)
                }
                None => self.first(segments, fitter, now),
            };
        }
        if let Way::Nowhere(reason) = self.way(now) {
            self.established.drop_packets(reason, packets);
            segments.skip(packets);
            return Ok(());
        }
        if longest > usize::from(self.mtu()) {
            return self.too_long(segments, fitter, now);
        }
        if self.established.takes_bundles() && self.way(now) == Way::Control {
            self.bundles(segments, now)?;
            if segments.left() < packets && !self.takes_packets() {
                return Ok(());
            }
        }
        let (mut sent, ecn) = (Ok(()), Ecn::of(segments.whole()));
        segments.each(|length, write| {
            sent = self.send((length, ecn), write, now);
            match sent.is_ok() && self.takes_packets() {
                true => Step::On,
                false => Step::Enough,
            }
        });
        sent
    }

    /// Sends as many of these packets as go in bundles, as far as the control connection keeps up.
    fn bundles(&mut self, segments: &mut Segments<'_>, now: Now) -> Result<(), Closed> {
        let (longest, mut bytes) = (segments.longest(), segments.bytes());
        while let Some(bundle) = segments.next_bundle(CSTP_MAX_PAYLOAD) {
            let before = std::mem::replace(&mut bytes, segments.bytes());
            let all = (bundle.packets(), before - bytes);
            // Counted by the session, either way.
            if self.established.outgoing_many(longest, all).is_ok()
                && let Some(channel) = self.channel()
            {
                let packets = bundle.packets();
                if let Err(closed) = channel.queue_pieces(Kind::Bundle, bundle.pieces()) {
                    self.established.drop_packets(DropReason::ChannelDown, packets);
                    return Err(closed);
                }
            }
            // One that sleeps takes one record at a time, and each may be the last that may be said now.
            if !self.takes_packets() || self.way(now) != Way::Control {
                break;
            }
        }
        Ok(())
    }

    /// Several packets that do not fit. What may be split is, each of them; else the first is answered, and its sender makes smaller ones
    /// of all.
    fn too_long(&mut self, segments: &mut Segments<'_>, fitter: &mut Fitter, now: Now) -> Result<(), Closed> {
        let may_split = IpPacket::parse(segments.whole()).is_ok_and(|packet| packet.may_fragment());
        while segments.left() > 0 && (may_split || segments.is_untouched()) {
            self.first(segments, fitter, now)?;
            if !self.takes_packets() {
                return Ok(());
            }
        }
        let left = segments.left();
        segments.skip(left);
        self.established.drop_packets(DropReason::TooBig, left);
        Ok(())
    }

    /// The next of these packets by itself.
    fn first(&mut self, segments: &mut Segments<'_>, fitter: &mut Fitter, now: Now) -> Result<(), Closed> {
        let mut packet = std::mem::take(&mut self.scratch);
        packet.resize(segments.next_length().unwrap_or(0), 0);
        segments.write_next(&mut packet);
        let sent = self.packet(&packet, fitter, now);
        self.scratch = packet;
        sent
    }

    fn mtu(&self) -> u16 {
        let carried = self.data.as_ref().and_then(DataPath::mtu);
        carried.unwrap_or(u16::MAX).min(self.established.mtu())
    }

    /// Makes a packet fit, and sends it.
    fn packet(&mut self, packet: &[u8], fitter: &mut Fitter, now: Now) -> Result<(), Closed> {
        let way = self.way(now);
        if let Way::Nowhere(reason) = way {
            self.established.drop_packet(reason);
            return Ok(());
        }
        match fitter.fit(packet, self.mtu(), now.awake) {
            Fit::AsIs => self.send_packet(packet, now),
            Fit::Clamped(packet) => self.send_packet(packet, now),
            Fit::Pieces(pieces) => pieces.iter().try_for_each(|piece| self.send_packet(piece, now)),
            Fit::Answer(answer) => {
                self.established.drop_packet(DropReason::TooBig);
                self.worker.switch.answer(answer);
                Ok(())
            }
            Fit::Dropped(reason) => {
                self.established.drop_packet(reason);
                Ok(())
            }
        }
    }

    /// Sends a packet of the gateway's own, if there is a way that is open and has room, and it fits.
    pub(super) fn say_packet(&mut self, packet: &[u8], now: Now) -> Result<(), Closed> {
        // A client that asks and does not read must not have answers pile up.
        let is_open = self.takes_packets() && !matches!(self.way(now), Way::Nowhere(_));
        if !is_open || packet.len() > usize::from(self.mtu()) {
            return Ok(());
        }
        let sent = self.send_packet(packet, now);
        if let Some(data) = &mut self.data {
            self.established.add_drops(&data.flush(now));
        }
        sent
    }

    fn send_packet(&mut self, packet: &[u8], now: Now) -> Result<(), Closed> {
        self.send(
            (packet.len(), Ecn::of(packet)),
            |place| place.copy_from_slice(packet),
            now,
        )
    }

    /// Sends a packet that fits, of `length` bytes and with this mark, which `write` puts into its place.
    fn send(&mut self, (length, ecn): (usize, Ecn), write: impl FnMut(&mut [u8]), now: Now) -> Result<(), Closed> {
        if self.established.outgoing(length).is_err() {
            // Counted by the session.
            return Ok(());
        }
        let mut write = write;
        let fate = match &mut self.data {
            Some(data) => data.send((length, ecn), &mut write, now),
            None => Fate::NotHere,
        };
        let dropped = match fate {
            Fate::Sent => return Ok(()),
            Fate::NotHere => match self.beside_data() {
                Way::Control => match self.channel() {
                    Some(channel) => return channel.queue_with(Kind::Data, length, write),
                    None => DropReason::ChannelDown,
                },
                Way::Nowhere(reason) => reason,
                // Too large for it, and the other channel is not there.
                Way::Data => DropReason::TooBig,
            },
        };
        self.established.drop_packet(dropped);
        Ok(())
    }

    fn way(&self, now: Now) -> Way {
        if !self.attendance.downlink_open(now) {
            Way::Nowhere(DropReason::Parked)
        } else if self.data.as_ref().is_some_and(DataPath::is_up) {
            Way::Data
        } else {
            self.beside_data()
        }
    }

    /// Where a packet goes that the data channel does not take.
    fn beside_data(&self) -> Way {
        if self.data_is_silent() {
            return Way::Nowhere(DropReason::Unanswered);
        }
        match &self.line {
            // While it sleeps, what a maintenance wake asked for goes one record at a time.
            Some(line) if self.attendance.parked().is_some() && !is_idle(&line.channel) => {
                Way::Nowhere(DropReason::Parked)
            }
            Some(_) => Way::Control,
            None => Way::Nowhere(DropReason::ChannelDown),
        }
    }
}
