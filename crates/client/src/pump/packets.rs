//! Packets of the host into the tunnel, and those of the gateway to the host.
//!
//! ```text
//!   one read --Segments--> one packet ----- Fitter -----+--> the channel that packets take now
//!                     \--> several of one flow, sealed --+
//! ```

use std::io;

use channel::Channel;
use now::Now;
use packet::{DropReason, Segments};
use session::Fit;
use session::client::PathId;
use wire::cstp::Kind;

use super::{BATCH, MAX_STALE, Outcome, TURNS, Worker, lost};
use crate::attempt::Link;
use crate::datapath::{DataPath, Fate};
use crate::device::Device;
use crate::to_host::ToHost;

/// What of the last read has not gone yet, because the socket took nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    /// Bytes of the read.
    length: usize,
    /// Packets that have gone.
    done: usize,
}

impl Worker {
    /// Takes what has arrived over a path of the data channel, and is done with it or has more to do at once.
    pub(super) fn datagrams(&mut self, path: PathId, now: Now) -> Result<(), Outcome> {
        let Self {
            device,
            link,
            gathering,
            ..
        } = self;
        let Link { established, data, .. } = link;
        let Some(data) = data else { return Ok(()) };
        let mut to_host = ToHost::new(device, established, gathering);
        let more = data.receive(path, now, &mut to_host);
        let (packets, gone) = (to_host.packets, to_host.gone);
        if packets > 0 {
            self.last_traffic = now.awake;
        }
        if more {
            self.turns = TURNS;
        }
        gone.map_or(Ok(()), |error| Err(Outcome::DeviceGone(error)))
    }

    /// Sends what was stuck, and what waits behind it.
    pub(super) fn go_on(&mut self, now: Now) -> Result<(), Outcome> {
        if self.link.data.as_ref().is_some_and(DataPath::is_stuck) {
            self.flush(now);
        }
        match self.rest {
            Some(rest) if self.has_way() => {
                let sent = self.read(rest, now);
                self.flush(now);
                sent
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Sends what the device gave, and what it gives at once.
    pub(super) fn packets(&mut self, first: io::Result<usize>, now: Now) -> Result<(), Outcome> {
        let sent = self.gather(first, now);
        self.flush(now);
        sent
    }

    fn gather(&mut self, first: io::Result<usize>, now: Now) -> Result<(), Outcome> {
        let (mut received, mut taken) = (first, 0);
        loop {
            match received {
                Ok(length) => {
                    taken += self.device.segments(&self.buffer[..length]).map_or(1, |all| all.left());
                    self.read(Rest { length, done: 0 }, now)?;
                }
                Err(error) if Device::is_gone(&error) => return Err(Outcome::DeviceGone(error)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => {
                    taken += 1;
                    self.link.established.drop_packet(DropReason::DeviceRefused);
                }
            }
            if taken >= BATCH {
                self.turns = TURNS;
                return Ok(());
            }
            if !self.has_room() {
                return Ok(());
            }
            received = self.device.try_recv(&mut self.buffer);
        }
    }

    /// Sends a read, or what is left of it, as far as it goes.
    fn read(&mut self, rest: Rest, now: Now) -> Result<(), Outcome> {
        self.rest = None;
        let buffer = std::mem::take(&mut self.buffer);
        let sent = match self.device.segments(&buffer[..rest.length]) {
            Ok(mut segments) => {
                segments.skip(rest.done);
                self.segments(&mut segments, rest, now)
            }
            Err(reason) => {
                self.link.established.drop_packet(reason);
                Ok(())
            }
        };
        self.buffer = buffer;
        sent
    }

    fn segments(&mut self, segments: &mut Segments<'_>, rest: Rest, now: Now) -> Result<(), Outcome> {
        let packets = segments.left();
        if self.drops(segments.whole()) {
            self.link.established.drop_packets(DropReason::Asleep, packets);
            return Ok(());
        }
        self.last_traffic = now.awake;
        if packets == 1 && rest.done == 0 {
            return match segments.as_is() {
                Some(packet) => self.packet(packet, now),
                None => self.first(segments, now),
            };
        }
        let longest = segments.longest();
        if longest > usize::from(self.link.mtu()) {
            // The first is answered like any other; its sender makes smaller ones of all.
            self.link.established.drop_packets(DropReason::TooBig, packets - 1);
            return self.first(segments, now);
        }
        let all = (packets, segments.bytes());
        // What is left of a read has been counted.
        let counted = rest.done > 0;
        let link = &mut self.link;
        if !counted
            && link
                .established
                .outgoing_many(segments.whole(), longest, all, now)
                .is_err()
        {
            return Ok(());
        }
        while let Some(length) = segments.next_length() {
            if link.data.as_ref().is_some_and(DataPath::is_stuck) {
                self.rest = Some(Rest {
                    length: rest.length,
                    done: rest.done + packets - segments.left(),
                });
                break;
            }
            carry(link, length, |place| _ = segments.write_next(place), now)?;
        }
        Ok(())
    }

    /// The first of several packets, or one that is not complete yet, by itself.
    fn first(&mut self, segments: &mut Segments<'_>, now: Now) -> Result<(), Outcome> {
        let mut packet = std::mem::take(&mut self.scratch);
        packet.resize(segments.next_length().unwrap_or(0), 0);
        segments.write_next(&mut packet);
        let sent = self.packet(&packet, now);
        self.scratch = packet;
        sent
    }

    fn packet(&mut self, packet: &[u8], now: Now) -> Result<(), Outcome> {
        let link = &mut self.link;
        let mtu = link.mtu();
        match self.fitter.fit(packet, mtu, now.awake) {
            Fit::AsIs => send(link, packet, now),
            Fit::Clamped(packet) => send(link, packet, now),
            Fit::Pieces(pieces) => pieces.iter().try_for_each(|piece| send(link, piece, now)),
            Fit::Answer(answer) => {
                link.established.drop_packet(DropReason::TooBig);
                // Whoever does not take it sends as much again.
                let _ = self.device.try_send(answer);
                Ok(())
            }
            Fit::Dropped(reason) => {
                link.established.drop_packet(reason);
                Ok(())
            }
        }
    }

    /// Hands the kernel what was gathered.
    fn flush(&mut self, now: Now) {
        if let Some(data) = &mut self.link.data {
            let lost = data.flush(now);
            self.link.established.add_drops(&lost);
        }
    }

    /// Whether more packets of the host can be taken.
    pub(super) fn has_room(&self) -> bool {
        self.rest.is_none() && self.has_way()
    }

    /// Whether packets can go anywhere.
    fn has_way(&self) -> bool {
        let data = self.link.data.as_ref();
        let stuck = data.is_some_and(DataPath::is_stuck);
        let control = self.link.channel.as_ref().is_some_and(Channel::has_room);
        !stuck && (control || data.is_some_and(DataPath::is_up))
    }

    /// Throws away what waits in the device.
    pub(super) fn discard_waiting(&mut self) {
        if let Some(rest) = self.rest.take() {
            self.discard(rest.length);
        }
        for _ in 0..MAX_STALE {
            match self.device.try_recv(&mut self.buffer) {
                Ok(length) => self.discard(length),
                Err(_) => break,
            }
        }
    }

    /// Counts what was read as old.
    pub(super) fn discard(&mut self, length: usize) {
        let packets = self.device.segments(&self.buffer[..length]).map_or(1, |all| all.left());
        self.link.established.drop_packets(DropReason::Stale, packets);
    }
}

/// Sends a packet that fits.
fn send(link: &mut Link, packet: &[u8], now: Now) -> Result<(), Outcome> {
    if link.established.outgoing(packet, now).is_err() {
        return Ok(());
    }
    carry(link, packet.len(), |place| place.copy_from_slice(packet), now)
}

/// Sends a packet that counts as sent over the channel that packets take now. It has `length` bytes, which `write` puts into its place.
fn carry(link: &mut Link, length: usize, write: impl FnOnce(&mut [u8]), now: Now) -> Result<(), Outcome> {
    let Link {
        channel,
        established,
        data,
        ..
    } = link;
    let mut write = Some(write);
    let mut once = |place: &mut [u8]| {
        if let Some(write) = write.take() {
            write(place);
        }
    };
    let fate = match data {
        Some(data) => data.send(length, &mut once, now),
        None => Fate::NotHere,
    };
    match (fate, channel) {
        (Fate::Sent, _) => Ok(()),
        (Fate::NotHere, Some(channel)) => {
            established.carried(now);
            channel.queue_with(Kind::Data, length, once).map_err(lost)
        }
        (Fate::NotHere, None) => {
            established.drop_packet(DropReason::ChannelDown);
            Ok(())
        }
    }
}
