//! Packets of the gateway on their way to the host: gathered while a batch of records is opened, put together, and written.

use std::io;

use bytes::BytesMut;
use packet::{Bundle, Coalescer, DropReason, Ecn, Place};
use session::Received;
use session::client::Established;

use crate::device::Device;

/// What is used again and again.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    places: Vec<Place>,
    /// Nothing if the device takes one packet at a time.
    coalescer: Option<Coalescer>,
    /// One that was cut.
    packet: Vec<u8>,
}

/// What came in a frame.
#[derive(Debug)]
pub(crate) enum Parcel {
    /// A packet.
    Packet(BytesMut),
    /// Several of one flow.
    Bundle(Bundle, BytesMut),
}

impl AsRef<[u8]> for Parcel {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Packet(bytes) | Self::Bundle(_, bytes) => bytes,
        }
    }
}

impl Gathering {
    /// For packets to this device.
    pub(crate) fn new(device: &Device) -> Self {
        Self {
            places: Vec::new(),
            coalescer: device.offloads().map(|offloads| Coalescer::new(offloads.udp)),
            packet: Vec::new(),
        }
    }
}

/// The way to the host, for one turn.
pub(crate) struct ToHost<'a> {
    device: &'a Device,
    established: &'a mut Established,
    gathering: &'a mut Gathering,
    /// Packets that came.
    pub(crate) packets: usize,
    /// The device is gone, and why.
    pub(crate) gone: Option<io::Error>,
}

/// A buffer in which packets are found, out of datagrams with one mark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    index: usize,
    outer: Ecn,
    start: usize,
    length: usize,
}

impl<'a> ToHost<'a> {
    pub(crate) fn new(device: &'a Device, established: &'a mut Established, gathering: &'a mut Gathering) -> Self {
        Self {
            device,
            established,
            gathering,
            packets: 0,
            gone: None,
        }
    }

    /// The buffer with this index of those that [`ToHost::write`] gets, and the mark of its datagrams.
    pub(crate) fn origin(&self, (index, outer): (usize, Ecn), buffer: &[u8]) -> Origin {
        Origin {
            index,
            outer,
            start: buffer.as_ptr().addr(),
            length: buffer.len(),
        }
    }

    /// Takes a packet out of a record. One that does not stand in the buffer of `origin` is written at once: it waited elsewhere, and is
    /// older than those.
    pub(crate) fn take(&mut self, packet: &mut [u8], origin: Origin) {
        match self.established.incoming_in(origin.outer, packet) {
            Received::Packet => self.packets += 1,
            // Counted by the session. A bundle comes in frames only.
            Received::Nothing | Received::Bundle(_) | Received::Dropped(_) => return,
        }
        let start = packet.as_ptr().addr().wrapping_sub(origin.start);
        let inside = start.checked_add(packet.len()).is_some_and(|end| end <= origin.length);
        if inside && self.gathering.coalescer.is_some() {
            self.gathering.places.push(Place {
                buffer: origin.index,
                range: start..start + packet.len(),
            });
        } else {
            self.write_one(packet);
        }
    }

    /// Writes what came in frames, and has been counted.
    pub(crate) fn write_frames(&mut self, frames: &[Parcel]) {
        for (buffer, parcel) in frames.iter().enumerate() {
            match (parcel, &mut self.gathering.coalescer) {
                (Parcel::Packet(packet), Some(coalescer)) => {
                    let range = 0..packet.len();
                    coalescer.push(frames, Place { buffer, range });
                }
                (Parcel::Bundle(bundle, _), Some(coalescer)) if coalescer.takes(bundle) => {
                    let range = bundle.range();
                    coalescer.push_bundle(frames, Place { buffer, range }, bundle);
                }
                (Parcel::Packet(packet), None) => self.write_one(packet),
                (Parcel::Bundle(bundle, bytes), _) => {
                    // In order: what came before it goes first.
                    self.write(frames);
                    self.write_cut(bundle, bytes);
                }
            }
        }
        self.write(frames);
    }

    /// Writes the packets of a bundle one by one.
    fn write_cut(&mut self, bundle: &Bundle, bytes: &[u8]) {
        let Ok(mut segments) = bundle.segments(bytes) else {
            return;
        };
        let mut packet = std::mem::take(&mut self.gathering.packet);
        while let Some(length) = segments.next_length() {
            packet.resize(length, 0);
            segments.write_next(&mut packet);
            self.write_one(&packet);
        }
        self.gathering.packet = packet;
    }

    /// Writes what was gathered out of these buffers.
    pub(crate) fn write<B: AsRef<[u8]>>(&mut self, buffers: &[B]) {
        let Self {
            device,
            established,
            gathering,
            gone,
            ..
        } = self;
        let Some(coalescer) = &mut gathering.coalescer else {
            return;
        };
        for place in gathering.places.drain(..) {
            coalescer.push(buffers, place);
        }
        coalescer.write(buffers, |pieces, packets| {
            let sent = device.try_send_pieces(pieces);
            settle(sent, packets, established, gone);
        });
    }

    fn write_one(&mut self, packet: &[u8]) {
        let sent = self.device.try_send(packet);
        settle(sent, 1, self.established, &mut self.gone);
    }
}

/// Counts what the device did not take.
fn settle(sent: io::Result<()>, packets: usize, established: &mut Established, gone: &mut Option<io::Error>) {
    match sent {
        Ok(()) => {}
        Err(error) if Device::is_gone(&error) => *gone = Some(error),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            established.drop_packets(DropReason::QueueFull, packets);
        }
        Err(_) => established.drop_packets(DropReason::DeviceRefused, packets),
    }
}
