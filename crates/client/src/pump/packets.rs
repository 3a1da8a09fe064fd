//! Packets of the host into the tunnel, and those of the gateway to the host.
//!
//! ```text
//!   one read --Segments--> one packet ----- Fitter -----+--> the channel that packets take now
//!                     \--> several of one flow, sealed --+
//!                     \--> the same, in bundles ---------+--> the control channel, if the gateway takes them
//! ```

use std::io;

use channel::Channel;
use now::Now;
use packet::{DropReason, Ecn, IpPacket, Segments, Step};
use session::Fit;
use session::client::PathId;
use wire::cstp::Kind;
use wire::limits::CSTP_MAX_PAYLOAD;

use super::{BATCH, MAX_STALE, Outcome, TURNS, Worker, lost, take_first};
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
    /// They all count as sent.
    counted: bool,
}

impl Rest {
    /// All of a read.
    fn of(length: usize) -> Self {
        Self {
            length,
            done: 0,
            counted: false,
        }
    }
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
            Some(rest) if self.has_way() && !self.holds() => {
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
                    self.read(Rest::of(length), now)?;
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
            received = match take_first(&mut self.first, &mut self.buffer) {
                Some(length) => Ok(length),
                None => self.device.try_recv(&mut self.buffer),
            };
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

    fn segments(&mut self, segments: &mut Segments<'_>, mut rest: Rest, now: Now) -> Result<(), Outcome> {
        let (packets, longest) = (segments.left(), segments.longest());
        if self.drops(segments.whole()) {
            self.link.established.drop_packets(DropReason::Asleep, packets);
            return Ok(());
        }
        self.last_traffic = now.awake;
        self.note_use(segments.whole());
        if packets == 1 && !rest.counted {
            let sent = match segments.as_is() {
                Some(packet) => self.packet(packet, now)?,
                None => self.first(segments, now)?,
            };
            if sent == Carried::Later {
                self.rest = Some(Rest { counted: true, ..rest });
            }
            return Ok(());
        }
        if longest > usize::from(self.link.mtu()) {
            return self.too_long(segments, now);
        }
        let all = (packets, segments.bytes());
        let link = &mut self.link;
        if !rest.counted
            && link
                .established
                .outgoing_many(segments.whole(), longest, all, now)
                .is_err()
        {
            return Ok(());
        }
        rest.counted = true;
        if takes_bundles(link)
            && let Err(outcome) = bundles(link, segments, now)
        {
            link.established.drop_packets(DropReason::ChannelDown, segments.left());
            return Err(outcome);
        }
        let (mut sent, ecn) = (Ok(Carried::Done), Ecn::of(segments.whole()));
        segments.each(|length, write| {
            sent = carry(link, (length, ecn), write, now);
            match sent {
                Ok(Carried::Done) => Step::On,
                Ok(Carried::Later) => Step::Later,
                Err(_) => Step::Enough,
            }
        });
        let left = segments.left();
        match sent {
            Ok(Carried::Done) => Ok(()),
            Ok(Carried::Later) => {
                rest.done += packets - left;
                self.rest = Some(rest);
                Ok(())
            }
            Err(outcome) => {
                link.established.drop_packets(DropReason::ChannelDown, left);
                Err(outcome)
            }
        }
    }

    /// Several packets that do not fit. What may be split is, each of them; else the first is answered, and its sender makes smaller ones
    /// of all.
    fn too_long(&mut self, segments: &mut Segments<'_>, now: Now) -> Result<(), Outcome> {
        let may_split = IpPacket::parse(segments.whole()).is_ok_and(|packet| packet.may_fragment());
        while segments.left() > 0 && (may_split || segments.is_untouched()) {
            if self.first(segments, now)? == Carried::Later {
                self.link.established.drop_packet(DropReason::QueueFull);
            }
        }
        self.link.established.drop_packets(DropReason::TooBig, segments.left());
        Ok(())
    }

    /// The next of these packets by itself, completed.
    fn first(&mut self, segments: &mut Segments<'_>, now: Now) -> Result<Carried, Outcome> {
        let mut packet = std::mem::take(&mut self.scratch);
        packet.resize(segments.next_length().unwrap_or(0), 0);
        segments.write_next(&mut packet);
        let sent = self.packet(&packet, now);
        self.scratch = packet;
        sent
    }

    /// [`Carried::Later`]: it fits as it is, counts as sent, and the socket does not take it.
    fn packet(&mut self, packet: &[u8], now: Now) -> Result<Carried, Outcome> {
        let link = &mut self.link;
        let mtu = link.mtu();
        match self.fitter.fit(packet, mtu, now.awake) {
            Fit::AsIs => return send(link, packet, now),
            Fit::Clamped(packet) => send_or_drop(link, packet, now)?,
            Fit::Pieces(pieces) => pieces.iter().try_for_each(|piece| send_or_drop(link, piece, now))?,
            Fit::Answer(answer) => {
                link.established.drop_packet(DropReason::TooBig);
                // Whoever does not take it sends as much again.
                let _ = self.device.try_send(answer);
            }
            Fit::Dropped(reason) => link.established.drop_packet(reason),
        }
        Ok(Carried::Done)
    }

    /// Drops what could not be sent.
    pub(super) fn forget_stuck(&mut self, reason: DropReason) {
        if reason == DropReason::ChannelDown {
            for read in std::mem::take(&mut self.first) {
                let packets = self.device.segments(&read).map_or(1, |all| all.left());
                self.link.established.drop_packets(reason, packets);
            }
        }
        if let Some(data) = &mut self.link.data {
            data.forget_stuck(reason);
            self.link.established.add_drops(&data.lost());
        }
        if let Some(rest) = self.rest.take() {
            let packets = self.device.segments(&self.buffer[..rest.length]);
            let left = packets.map_or(1, |all| all.left().saturating_sub(rest.done));
            self.link.established.drop_packets(reason, left);
        }
    }

    /// Hands the kernel what was gathered.
    pub(super) fn flush(&mut self, now: Now) {
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
        self.forget_stuck(DropReason::Stale);
        while let Some(length) = take_first(&mut self.first, &mut self.buffer) {
            self.discard(length);
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

/// What became of a packet that was to be carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carried {
    /// It is on its way, or was dropped and counted.
    Done,
    /// The socket takes nothing more for now.
    Later,
}

/// Sends a packet that fits. One that may not go is dropped, and counted.
fn send(link: &mut Link, packet: &[u8], now: Now) -> Result<Carried, Outcome> {
    if link.established.outgoing(packet, now).is_err() {
        return Ok(Carried::Done);
    }
    let marked = (packet.len(), Ecn::of(packet));
    carry(link, marked, |place| place.copy_from_slice(packet), now)
}

/// The same with a packet that is made of another one and kept nowhere: if the socket does not take it, it is dropped.
fn send_or_drop(link: &mut Link, packet: &[u8], now: Now) -> Result<(), Outcome> {
    if send(link, packet, now)? == Carried::Later {
        link.established.drop_packet(DropReason::QueueFull);
    }
    Ok(())
}

/// Whether several packets may go as one: the control channel carries them, and the gateway granted that.
fn takes_bundles(link: &Link) -> bool {
    let on_data = link.data.as_ref().is_some_and(DataPath::is_up);
    link.established.grant().marmot_bundle && !on_data
}

/// Sends as many of these packets, which count as sent, as go in bundles, as far as the control channel has room.
fn bundles(link: &mut Link, segments: &mut Segments<'_>, now: Now) -> Result<(), Outcome> {
    while let Some(channel) = link.channel.as_mut().filter(|channel| channel.takes_more())
        && let Some(bundle) = segments.next_bundle(CSTP_MAX_PAYLOAD)
    {
        link.established.carried(now);
        channel.queue_pieces(Kind::Bundle, bundle.pieces()).map_err(lost)?;
    }
    Ok(())
}

/// Sends a packet that counts as sent over the channel that packets take now. It has `length` bytes, which `write` puts into its place, and this
/// mark.
fn carry(
    link: &mut Link,
    (length, ecn): (usize, Ecn),
    mut write: impl FnMut(&mut [u8]),
    now: Now,
) -> Result<Carried, Outcome> {
    let Link {
        channel,
        established,
        data,
        ..
    } = link;
    let fate = match data {
        Some(data) => data.send((length, ecn), &mut write, now),
        None => Fate::NotHere,
    };
    match (fate, channel) {
        (Fate::Sent, _) => {}
        (Fate::Stuck, _) => return Ok(Carried::Later),
        (Fate::NotHere, Some(channel)) if channel.takes_more() => {
            established.carried(now);
            channel.queue_with(Kind::Data, length, write).map_err(lost)?;
        }
        // Very small segments: more than a whole read of others.
        (Fate::NotHere, Some(_)) => established.drop_packet(DropReason::QueueFull),
        (Fate::NotHere, None) => established.drop_packet(DropReason::ChannelDown),
    }
    Ok(Carried::Done)
}
