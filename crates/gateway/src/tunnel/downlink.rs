//! The way of packets to the client: which channel, or under which reason they are dropped.

use bytes::Bytes;
use channel::Closed;
use now::Now;
use packet::DropReason;
use session::{Fit, Fitter};
use tokio::sync::mpsc;
use wire::cstp::Kind;

use super::presence::is_idle;
use super::{BATCH, Line, SEALED_MAX, Tunnel};
use crate::datapath::{DataPath, Fate};

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
        let has_room = |line: &Line| line.channel.pending() < SEALED_MAX;
        taken_anyway || self.line.as_ref().is_none_or(has_room)
    }

    /// Sends this packet and those behind it, as long as the channel that they take keeps up.
    pub(super) fn packets(
        &mut self,
        first: Bytes,
        queue: &mut mpsc::Receiver<Bytes>,
        fitter: &mut Fitter,
        now: Now,
    ) -> Result<(), Closed> {
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(packet) = next else { break };
            self.packet(&packet, fitter, now)?;
            if !self.takes_packets() {
                break;
            }
            next = queue.try_recv().ok();
        }
        Ok(())
    }

    /// Sends what has come for the client before it connected anew. Nothing comes behind it.
    pub(super) fn rest_of_packets(&mut self, queue: &mut mpsc::Receiver<Bytes>, fitter: &mut Fitter, now: Now) {
        while let Ok(packet) = queue.try_recv() {
            if self.packets(packet, queue, fitter, now).is_err() {
                return;
            }
        }
    }

    /// Makes a packet fit, and sends it.
    fn packet(&mut self, packet: &[u8], fitter: &mut Fitter, now: Now) -> Result<(), Closed> {
        let way = self.way(now);
        if let Way::Nowhere(reason) = way {
            self.established.drop_packet(reason);
            return Ok(());
        }
        let carried = self.data.as_ref().and_then(DataPath::mtu);
        let mtu = carried.unwrap_or(u16::MAX).min(self.established.mtu());
        match fitter.fit(packet, mtu, now.awake) {
            Fit::AsIs => self.send(packet, now),
            Fit::Clamped(packet) => self.send(packet, now),
            Fit::Pieces(pieces) => pieces.iter().try_for_each(|piece| self.send(piece, now)),
            Fit::Answer(answer) => {
                self.established.drop_packet(DropReason::TooBig);
                self.shared.switch.answer(Bytes::copy_from_slice(answer));
                Ok(())
            }
            Fit::Dropped(reason) => {
                self.established.drop_packet(reason);
                Ok(())
            }
        }
    }

    /// Sends a packet that fits.
    fn send(&mut self, packet: &[u8], now: Now) -> Result<(), Closed> {
        if self.established.outgoing(packet).is_err() {
            // Counted by the session.
            return Ok(());
        }
        let fate = self.data.as_mut().map_or(Fate::NotHere, |data| data.send(packet, now));
        let dropped = match fate {
            Fate::Sent => return Ok(()),
            Fate::Refused => DropReason::QueueFull,
            Fate::NotHere => match self.beside_data() {
                Way::Control => match self.channel() {
                    Some(channel) => return channel.queue(Kind::Data, packet),
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
