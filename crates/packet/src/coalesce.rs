//! Packets of one flow put together again, so that the device takes them in one write.
//!
//! ```text
//!   arena:  ...| IP TCP | payload |...| IP TCP | payload |...| IP TCP | payload |...     opened where they were received: buffers
//!   write:     | virtio | IP'TCP' | payload | payload | payload |                        headers new, payloads where they are
//! ```
//! Only what [`crate::segment`] would take apart into the very same packets is put together (the identification of packets that may
//! not be fragmented, which nobody reads, aside): same headers, sequences in a row, equal sizes, right checksums. A checksum that is wrong
//! stays wrong: the kernel makes new ones for what is cut again, so it must not get such a packet. Everything in doubt is handed on
//! untouched. Packets of one flow stay in order; those of different flows may change places within a batch.

mod candidate;

use std::io::IoSlice;
use std::ops::Range;

use self::candidate::{Candidate, Payload};
use crate::Bundle;
use crate::bundle::{PACKETS_MAX as DATAGRAMS_MAX, SIZE_MIN};
use crate::virtio::{self, Checksum, Gso, GsoKind, Offload};

/// Slices of payload in one write, each a packet or a bundle. The kernel takes 1,024; 64 KiB of the usual size are 47 packets.
const SLICES_MAX: usize = 128;

/// The longest packet an IP header can announce. IPv6 could carry 40 bytes more.
const LENGTH_MAX: usize = 65_535;

/// Flows that grow at the same time. With more, the one that began first is done: packets of a batch are likely to be of few.
const OPEN_MAX: usize = 16;

/// Runs whose memory is kept for the next batch: four buffers of usual packets, none of which belongs to another.
const RUNS_KEPT: usize = 256;

/// IP and upper headers of whatever is put together: 60 bytes of TCP behind 40 of IPv6.
const HEADERS_MAX: usize = 100;

/// Where a packet stands in an arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The index of the buffer.
    pub buffer: usize,
    /// Where in it.
    pub range: Range<usize>,
}

impl Place {
    fn of<'a, B: AsRef<[u8]>>(&self, arena: &'a [B]) -> &'a [u8] {
        &arena[self.buffer].as_ref()[self.range.clone()]
    }

    /// A part of it, from `start` on.
    fn from(&self, start: usize) -> Self {
        Self {
            buffer: self.buffer,
            range: self.range.start + start..self.range.end,
        }
    }
}

/// What is written at once.
#[derive(Debug)]
struct Run {
    /// The first packet, with its headers.
    first: Place,
    /// What of it is known, if it may be put together with others at all.
    candidate: Option<Candidate>,
    /// What a device gets to know of the first, if that is a bundle.
    bundle: Option<[u8; virtio::LENGTH]>,
    /// The payloads of the others.
    others: Vec<Place>,
    /// Packets in all.
    packets: u16,
    /// Bytes of all payloads.
    payload: usize,
    /// The last packet wants to be pushed.
    push: bool,
}

/// Puts packets of a batch together. Its buffers are used again and again.
#[derive(Debug, Default)]
pub struct Coalescer {
    /// Those before `used` are of this batch.
    runs: Vec<Run>,
    used: usize,
    /// Runs that may grow, the oldest first.
    open: Vec<usize>,
    /// The device takes several UDP datagrams at once.
    udp: bool,
}

impl Coalescer {
    /// One for a device that takes several TCP segments at once and, if `udp` is true, several UDP datagrams, too.
    pub fn new(udp: bool) -> Self {
        Self { udp, ..Self::default() }
    }

    /// Takes the packet at `place` of `arena`. Until the next [`Coalescer::write`] every packet has to come from the same arena.
    pub fn push<B: AsRef<[u8]>>(&mut self, arena: &[B], place: Place) {
        let candidate = Candidate::parse(place.of(arena), self.udp);
        self.take(arena, place, candidate, None);
    }

    /// Whether the device takes such a bundle. Another one is to be cut.
    pub fn takes(&self, bundle: &Bundle) -> bool {
        match bundle.kind() {
            GsoKind::TcpV4 | GsoKind::TcpV6 => true,
            GsoKind::Udp => self.udp,
        }
    }

    /// As [`Coalescer::push`], with the packet of a bundle that [`Coalescer::takes`].
    pub fn push_bundle<B: AsRef<[u8]>>(&mut self, arena: &[B], place: Place, bundle: &Bundle) {
        let candidate = Candidate::of_bundle(place.of(arena), bundle, self.udp);
        self.take(arena, place, candidate, Some(bundle));
    }

    fn take<B: AsRef<[u8]>>(
        &mut self,
        arena: &[B],
        mut place: Place,
        candidate: Option<Candidate>,
        bundle: Option<&Bundle>,
    ) {
        let Some(candidate) = candidate else {
            self.close_flow_of(arena, &place);
            self.start(place, None, bundle);
            return;
        };
        place.range.end = place.range.start + candidate.length();
        let packet = place.of(arena);
        let is_flow = |run: &usize| candidate.is_flow_of(packet, self.runs[*run].first.of(arena));
        let Some(found) = self.open.iter().position(is_flow) else {
            return self.open(place, candidate, bundle);
        };
        let run = &mut self.runs[self.open[found]];
        if !run.takes(arena, packet, &candidate) {
            self.open.remove(found);
            return self.open(place, candidate, bundle);
        }
        run.others.push(place.from(candidate.headers));
        run.packets += candidate.packets;
        run.payload += candidate.payload_length();
        run.push |= candidate.push;
        if run.is_full(&candidate) {
            self.open.remove(found);
        }
    }

    /// Hands everything to `write`, in the order in which the first packet of each came, and forgets it. The first slice is the header
    /// of the device ([`virtio`]); the second argument is the number of packets.
    pub fn write<B: AsRef<[u8]>>(&mut self, arena: &[B], mut write: impl FnMut(&[IoSlice<'_>], usize)) {
        for run in &self.runs[..self.used] {
            run.write(arena, &mut write);
        }
        self.used = 0;
        self.open.clear();
        // What one batch of very small packets needed is not kept for ever.
        self.runs.truncate(RUNS_KEPT);
        self.runs.shrink_to(RUNS_KEPT);
    }

    /// Writes to be made.
    pub fn writes(&self) -> usize {
        self.used
    }

    fn open(&mut self, place: Place, candidate: Candidate, bundle: Option<&Bundle>) {
        // Seen by the test `packets_put_together_come_out_of_the_kernel_as_they_were`.
        let grows = candidate.grows() && candidate.size >= SIZE_MIN;
        self.start(place, Some(candidate), bundle);
        if !grows {
            return;
        }
        if self.open.len() == OPEN_MAX {
            self.open.remove(0);
        }
        self.open.push(self.used - 1);
    }

    fn start(&mut self, first: Place, candidate: Option<Candidate>, bundle: Option<&Bundle>) {
        let payload = candidate.as_ref().map_or(0, Candidate::payload_length);
        let push = candidate.as_ref().is_some_and(|candidate| candidate.push);
        if self.used == self.runs.len() {
            self.runs.push(Run {
                first: first.clone(),
                candidate: None,
                bundle: None,
                others: Vec::new(),
                packets: 0,
                payload: 0,
                push: false,
            });
        }
        let run = &mut self.runs[self.used];
        self.used += 1;
        run.others.clear();
        run.first = first;
        run.candidate = candidate;
        run.bundle = bundle.map(Bundle::header);
        // At most PACKETS_MAX of a bundle.
        run.packets = bundle.map_or(1, |bundle| bundle.packets() as u16);
        run.payload = payload;
        run.push = push;
    }

    /// A packet that cannot be put together with others must not be overtaken by later ones of its flow.
    fn close_flow_of<B: AsRef<[u8]>>(&mut self, arena: &[B], place: &Place) {
        let runs = &self.runs;
        let packet = place.of(arena);
        self.open
            .retain(|run| !candidate::may_be_one_flow(packet, runs[*run].first.of(arena)));
    }
}

impl Run {
    fn takes<B: AsRef<[u8]>>(&self, arena: &[B], packet: &[u8], next: &Candidate) -> bool {
        let Some(first) = &self.candidate else { return false };
        let fits = match next.payload {
            Payload::Tcp(_) => true,
            Payload::Udp(_) => usize::from(self.packets + next.packets) <= DATAGRAMS_MAX,
        };
        fits && first.headers + self.payload + next.payload_length() <= LENGTH_MAX
            && next.is_of_size(first.size)
            && next.follows(packet, first, self.first.of(arena), self.packets, self.payload)
    }

    /// Whether nothing may come behind `last`.
    fn is_full(&self, last: &Candidate) -> bool {
        let size = self.candidate.as_ref().map_or(0, |first| first.size);
        let full = match last.payload {
            Payload::Tcp(_) => self.others.len() + 1 == SLICES_MAX,
            Payload::Udp(_) => usize::from(self.packets) == DATAGRAMS_MAX,
        };
        last.push || full || !last.payload_length().is_multiple_of(size)
    }

    fn write<B: AsRef<[u8]>>(&self, arena: &[B], write: &mut impl FnMut(&[IoSlice<'_>], usize)) {
        let first = self.first.of(arena);
        let candidate = match &self.candidate {
            Some(candidate) if !self.others.is_empty() => candidate,
            candidate => {
                if let Some(header) = &self.bundle {
                    return write(&[IoSlice::new(header), IoSlice::new(first)], self.packets.into());
                }
                let checksum = match candidate {
                    Some(_) => Checksum::Verified,
                    None => Checksum::AsIs,
                };
                let header = Offload {
                    checksum,
                    segments: None,
                }
                .header(0);
                return write(&[IoSlice::new(&header), IoSlice::new(first)], 1);
            }
        };
        let mut headers = [0; HEADERS_MAX];
        let headers = &mut headers[..candidate.headers];
        headers.copy_from_slice(&first[..candidate.headers]);
        candidate.head_of_many(headers, self.payload, self.push);
        let virtio = self.virtio(candidate);
        let empty = IoSlice::new(&[]);
        let mut slices = [empty; SLICES_MAX + 2];
        slices[0] = IoSlice::new(&virtio);
        slices[1] = IoSlice::new(headers);
        slices[2] = IoSlice::new(&first[candidate.headers..]);
        for (slice, other) in slices[3..].iter_mut().zip(&self.others) {
            *slice = IoSlice::new(other.of(arena));
        }
        write(&slices[..3 + self.others.len()], self.packets.into());
    }

    fn virtio(&self, candidate: &Candidate) -> [u8; virtio::LENGTH] {
        let headers = u16::try_from(candidate.headers).expect("at most HEADERS_MAX");
        Offload {
            checksum: Checksum::Partial {
                start: u16::try_from(candidate.upper).expect("at most HEADERS_MAX"),
                field: match candidate.payload {
                    Payload::Tcp(_) => 16,
                    Payload::Udp(_) => 6,
                },
            },
            segments: Some(Gso {
                kind: candidate.gso_kind(),
                size: u16::try_from(candidate.size).expect("a packet is shorter than 64 KiB"),
            }),
        }
        .header(headers)
    }
}

#[cfg(test)]
mod tests;
