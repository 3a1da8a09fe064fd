//! Packets of clients on their way to the device: gathered while a batch of records is opened, put together, and written.
//!
//! ```text
//!   buffers   | record | packet | record | packet |...   opened where they arrived, and kept until the batch is done
//!   places         ----------        ----------          where the packets stand
//! ```

use bytes::BytesMut;
use packet::{Bundle, Coalescer, Place};
use platform::tun::Offloads;

use crate::buffer::Buffer;

/// See the module. One for all sessions: each leaves it empty.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) places: Vec<Place>,
    /// Which of them are bundles, in order: the index of the place, and what stands there.
    pub(crate) bundles: Vec<(usize, Bundle)>,
    /// Nothing if the device takes one packet at a time.
    pub(crate) coalescer: Option<Coalescer>,
}

/// Where a buffer lies that packets are found in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    start: usize,
    length: usize,
}

impl Origin {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self {
            start: bytes.as_ptr().addr(),
            length: bytes.len(),
        }
    }
}

impl Outlet {
    /// One for a device with these offloads.
    pub(crate) fn new(offloads: Option<Offloads>) -> Self {
        Self {
            buffers: Vec::new(),
            places: Vec::new(),
            bundles: Vec::new(),
            coalescer: offloads.map(|offloads| Coalescer::new(offloads.udp)),
        }
    }

    /// Forgets what a session has left that ended in the middle of it, by a panic.
    pub(crate) fn begin(&mut self) {
        self.places.clear();
        self.bundles.clear();
        self.buffers.clear();
    }

    /// Notes a packet in the buffer of `origin`, which is kept next; one that stands elsewhere is copied.
    pub(crate) fn note(&mut self, packet: &[u8], origin: Origin) {
        let start = packet.as_ptr().addr().wrapping_sub(origin.start);
        if start.checked_add(packet.len()).is_some_and(|end| end <= origin.length) {
            self.places.push(Place {
                // Those that are copied come before it.
                buffer: usize::MAX,
                range: start..start + packet.len(),
            });
        } else {
            let whole = Buffer::Own(packet.to_vec());
            self.keep_whole(whole);
        }
    }

    /// Keeps the buffer of which packets were noted.
    pub(crate) fn keep(&mut self, buffer: Buffer) {
        let index = self.buffers.len();
        let noted = self.places.iter_mut().rev();
        for place in noted.filter(|place| place.buffer == usize::MAX) {
            place.buffer = index;
        }
        self.buffers.push(buffer);
    }

    /// A packet out of a frame.
    pub(crate) fn frame(&mut self, payload: BytesMut) {
        self.keep_whole(Buffer::Frame(payload));
    }

    /// Several packets out of a frame.
    pub(crate) fn bundle(&mut self, payload: BytesMut, bundle: Bundle) {
        self.bundles.push((self.places.len(), bundle));
        self.keep_whole(Buffer::Frame(payload));
    }

    /// Takes what another one has gathered.
    pub(crate) fn take_over(&mut self, mut other: Self) {
        let places = self.places.len();
        let bundles = other.bundles.drain(..);
        self.bundles.extend(bundles.map(|(at, bundle)| (places + at, bundle)));
        let before = self.buffers.len();
        self.places.extend(other.places.drain(..).map(|place| Place {
            buffer: before + place.buffer,
            range: place.range,
        }));
        self.buffers.append(&mut other.buffers);
    }

    fn keep_whole(&mut self, packet: Buffer) {
        let (buffer, range) = (self.buffers.len(), 0..packet.len());
        self.places.push(Place { buffer, range });
        self.buffers.push(packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_found_where_they_stand_or_copied() {
        let mut outlet = Outlet::new(None);
        for byte in [1, 2] {
            let buffer = Buffer::Own(vec![byte; 100]);
            let origin = Origin::of(&buffer);
            outlet.note(&buffer[10..20], origin);
            outlet.note(b"elsewhere", origin);
            outlet.note(&buffer[90..], origin);
            outlet.keep(buffer);
        }
        let mut other = Outlet::new(None);
        other.frame(BytesMut::from(&b"frame"[..]));
        outlet.take_over(other);
        let found: Vec<&[u8]> = outlet
            .places
            .iter()
            .map(|place| &outlet.buffers[place.buffer][place.range.clone()])
            .collect();
        let expected: [&[u8]; 7] = [
            &[1; 10],
            b"elsewhere",
            &[1; 10],
            &[2; 10],
            b"elsewhere",
            &[2; 10],
            b"frame",
        ];
        assert_eq!(found, expected);
    }
}
