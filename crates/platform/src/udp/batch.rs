//! Many datagrams in one call, through quinn-udp, and what is to be known of it.
//!
//! ```text
//!   send    | datagram | datagram | datagram | end |    equal lengths but for the last: one call, cut by the kernel or the card (UDP_SEGMENT)
//!   receive | datagram | datagram | datagram | end |    one of BUFFERS buffers, put together by the kernel (UDP_GRO)
//! ```
//! A kernel or a card without segmentation says so when it is asked to do it, with EIO or EINVAL; quinn-udp then gives it up for the life of
//! its state. EINVAL is also what a `blackhole` route says, so the state is made anew after [`AGAIN`], or at once if one datagram alone fails as well.
//!
//! quinn-udp has room for 96 bytes of what the kernel tells of an arrival, and what is cut off first are the marks of ECN. So a socket is told what
//! it has use for, and no more ([`Told`]): behind the length of each datagram (24 bytes) and the marks (24) either the time (32) or the address (40).

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use packet::Ecn;
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::{Endpoint, canonical};

/// Datagrams that one call sends at most: `UDP_MAX_SEGMENTS` of Linux before 6.9.
pub const SEGMENTS_MAX: usize = 64;

/// Bytes that one call sends at most: what an IPv4 header can announce, without it and the UDP header. It is less than IPv6 could.
pub const BYTES_MAX: usize = 65_507;

/// Buffers filled by one call. A prototype with 2 MiB of them was 10 % slower than with 256 KiB: more than the second-level cache holds.
const BUFFERS: usize = 4;

/// Bytes of a buffer: the kernel puts together at most 64 KiB. The rest lets it take a read of a TUN device as well, which is a whole
/// packet of 65,535 bytes behind a header.
const BUFFER: usize = (1 << 16) + 64;

/// How long after a failure segmentation is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// What a socket is told of an arrival, beside the length of each datagram and their mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// When it came. Where it came to is known, because the socket is connected.
    Time,
    /// Where it came to.
    Address,
}

/// Datagrams that arrived together: equal lengths but for the last, from one sender to one of our addresses, with one mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Bytes of all.
    length: usize,
    stride: usize,
    /// Both ends.
    pub from: Endpoint,
    /// The mark that each has. Kernels before 6.9, unless mended, put datagrams with different ones together; then it is that of the first.
    pub ecn: Ecn,
    /// When the kernel got them, in time since the epoch, where it says so: on connected sockets.
    pub at: Option<Duration>,
}

impl Arrival {
    /// Where the datagrams stand in their buffer.
    pub fn datagrams(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let Self { length, stride, .. } = *self;
        // A datagram without bytes is one.
        let count = length.div_ceil(stride.max(1)).max(1);
        (0..count).map(move |index| index * stride..length.min((index + 1) * stride))
    }

    /// Bytes of the buffer that are of use.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Bytes of each datagram but the last.
    pub fn each(&self) -> usize {
        self.stride
    }
}

/// Room for what one call brings, used again and again.
pub struct Inbox {
    buffers: [Box<[u8]>; BUFFERS],
    arrivals: Vec<Arrival>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            buffers: std::array::from_fn(|_| Self::buffer()),
            arrivals: Vec::with_capacity(BUFFERS),
        }
    }
}

impl Inbox {
    /// Bytes of a buffer.
    pub const BUFFER: usize = BUFFER;

    /// A buffer as it has them.
    pub fn buffer() -> Box<[u8]> {
        vec![0; BUFFER].into_boxed_slice()
    }

    /// What the last call brought: each in the buffer of its place.
    pub fn arrivals(&self) -> &[Arrival] {
        &self.arrivals
    }

    /// The buffers.
    pub fn buffers(&self) -> &[Box<[u8]>] {
        &self.buffers
    }

    /// The buffer of one arrival: to be opened in place, or to be given away for another one ([`Inbox::buffer`]).
    pub fn buffer_mut(&mut self, arrival: usize) -> &mut Box<[u8]> {
        &mut self.buffers[arrival]
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox")
            .field("arrivals", &self.arrivals)
            .finish_non_exhaustive()
    }
}

/// What quinn-udp knows of a socket. Only one task uses a socket, so that nobody waits for the lock, which is taken once a call.
#[derive(Debug)]
pub(crate) struct Batches {
    state: Mutex<State>,
    told: Told,
}

#[derive(Debug)]
struct State {
    quinn: UdpSocketState,
    /// Since when segmentation is given up.
    halted: Option<Instant>,
}

impl Batches {
    /// Sets the options of the socket that belong to it: no fragments, datagrams put together, what is told of them.
    pub(crate) fn new(socket: &UdpSocket, told: Told) -> io::Result<Self> {
        Ok(Self {
            state: Mutex::new(fresh(socket, told)?),
            told,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what waits, [`io::ErrorKind::WouldBlock`] if nothing does. After any error the inbox is empty.
    pub(crate) fn receive(&self, socket: &UdpSocket, inbox: &mut Inbox) -> io::Result<()> {
        inbox.arrivals.clear();
        let mut metas = [RecvMeta::default(); BUFFERS];
        let received = {
            let mut buffers = inbox.buffers.each_mut().map(|buffer| IoSliceMut::new(buffer));
            let state = self.state();
            socket.try_io(Interest::READABLE, || {
                state.quinn.recv(UdpSockRef::from(socket), &mut buffers, &mut metas)
            })?
        };
        for meta in &metas[..received] {
            let local = meta.dst_ip.map_or(IpAddr::from([0; 16]), |ip| ip.to_canonical());
            inbox.arrivals.push(Arrival {
                length: meta.len,
                stride: if meta.stride == 0 { meta.len } else { meta.stride },
                from: Endpoint {
                    peer: canonical(meta.addr),
                    local,
                    interface: meta.interface_index.filter(|_| is_link_local(local)).unwrap_or(0),
                },
                ecn: meta.ecn.map_or(Ecn::NotEct, |ecn| Ecn::from_bits(ecn as u8)),
                at: meta.timestamp,
            });
        }
        Ok(())
    }

    /// Datagrams that one call may send now.
    pub(crate) fn segments(&self, socket: &UdpSocket) -> usize {
        let mut state = self.state();
        if state.halted.is_some_and(|since| since.elapsed() >= AGAIN)
            && let Ok(fresh) = fresh(socket, self.told)
        {
            *state = fresh;
        }
        state.quinn.max_gso_segments().min(SEGMENTS_MAX)
    }

    /// Goes on cutting.
    pub(crate) fn resume(&self, socket: &UdpSocket) {
        if let Ok(fresh) = fresh(socket, self.told) {
            *self.state() = fresh;
        }
    }

    /// One call: all datagrams or none.
    pub(crate) fn send(
        &self,
        socket: &UdpSocket,
        (peer, local): (SocketAddr, Option<IpAddr>),
        datagrams: &[u8],
        (segment, ecn): (usize, Ecn),
    ) -> io::Result<()> {
        let transmit = Transmit {
            destination: peer,
            ecn: EcnCodepoint::from_bits(ecn.bits()),
            contents: datagrams,
            segment_size: (segment < datagrams.len()).then_some(segment),
            src_ip: local,
        };
        let mut state = self.state();
        let before = state.quinn.max_gso_segments();
        let sent = state.quinn.try_send(UdpSockRef::from(socket), &transmit);
        if state.quinn.max_gso_segments() < before {
            state.halted = Some(Instant::now());
        }
        sent
    }
}

/// The state of a socket whose options are as they are to be. quinn-udp asks the kernel for all that it can read, each time.
fn fresh(socket: &UdpSocket, told: Told) -> io::Result<State> {
    let quinn = UdpSocketState::new(UdpSockRef::from(socket))?;
    crate::os::udp::tell_only(socket, told)?;
    Ok(State { quinn, halted: None })
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(length: usize, stride: usize) -> Vec<Range<usize>> {
        let arrival = Arrival {
            length,
            stride,
            from: Endpoint {
                peer: SocketAddr::from(([127, 0, 0, 1], 1)),
                local: IpAddr::from([127, 0, 0, 1]),
                interface: 0,
            },
            ecn: Ecn::NotEct,
            at: None,
        };
        arrival.datagrams().collect()
    }

    #[test]
    fn datagrams_stand_one_behind_the_other_and_the_last_may_be_shorter() {
        assert_eq!(ranges(30, 10), [0..10, 10..20, 20..30]);
        assert_eq!(ranges(25, 10), [0..10, 10..20, 20..25]);
        assert_eq!(ranges(12, 10), [0..10, 10..12]);
        assert_eq!(ranges(10, 10).len(), 1);
        assert_eq!(ranges(0, 0).len(), 1, "a datagram without bytes is one");
    }
}
