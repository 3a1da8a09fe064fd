//! UDP sockets through socket2 and tokio, and the few options that only libc knows.

mod listener;
mod message;
mod steer;

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::task::{Context, Poll};

use packet::Ecn;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use self::message::Control;
use crate::udp::batch::{Batches, Told};
use crate::udp::{BUFFER, BYTES_MAX, Inbox, SEGMENTS_MAX, SendFault, Unsent, canonical};

pub use self::listener::UdpListener;

/// Reports about earlier datagrams that one call passes over before it gives up; each needs an ICMP message of its own.
const REPORTS: usize = 4;

/// A connected socket on a port of its own, never fragmenting. Dropping it closes the port.
#[derive(Debug)]
pub struct Udp {
    socket: UdpSocket,
    batches: Batches,
    peer: SocketAddr,
}

impl Udp {
    /// Opens a socket to `peer` on a fresh port, with the mark of the tunnel's slot if there is one. The source address is the
    /// one that the routes say now, and stays. Sends nothing. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// There is no way to `peer` (`ENETUNREACH`), or no permission for the mark (`EPERM`).
    pub fn connect(peer: SocketAddr, mark: Option<u32>) -> io::Result<Self> {
        let peer = canonical(peer);
        let socket = Socket::new(
            Domain::for_address(peer),
            Type::DGRAM.nonblocking(),
            Some(Protocol::UDP),
        )?;
        if let Some(mark) = mark {
            socket.set_mark(mark)?;
        }
        configure(&socket, peer.is_ipv6())?;
        socket.connect(&peer.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self {
            batches: Batches::new(&socket, Told::Time)?,
            socket,
            peer,
        })
    }

    /// The source address and the port.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The peer.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }

    /// Sends one datagram if the kernel takes it at once. It cannot be marked.
    ///
    /// # Errors
    /// See [`SendFault`]; but for [`SendFault::TooBig`] it may be the fault of an earlier datagram. This one was not sent.
    pub fn try_send(&self, datagram: &[u8]) -> Result<(), SendFault> {
        self.send_one(datagram, Ecn::NotEct)
    }

    fn send_one(&self, datagram: &[u8], ecn: Ecn) -> Result<(), SendFault> {
        let mut control = Control::default();
        if ecn != Ecn::NotEct {
            control.marked(ecn, self.peer.is_ipv4());
        }
        let number = self.socket.as_raw_fd();
        let sent = send_at_once(&self.socket, || message::send(number, datagram, None, &mut control));
        let length = sent.map_err(|error| fault(error, || Ok(self.local_addr()?.ip())))?;
        debug_assert_eq!(length, datagram.len(), "a datagram is sent whole");
        Ok(())
    }

    /// Sends many datagrams with this mark, each of `segment` bytes but the last, which may be shorter; as far as the kernel takes them at once.
    ///
    /// # Errors
    /// Where it stopped, and why; see [`Udp::try_send`].
    pub fn try_send_many(&self, datagrams: &[u8], segment: usize, ecn: Ecn) -> Result<(), Unsent> {
        let at_once = |part: &[u8]| {
            let mut send = || {
                self.batches
                    .send(&self.socket, (self.peer, None), part, (segment, ecn))
                    .map(|()| part.len())
            };
            match send_at_once(&self.socket, &mut send) {
                // That was said of an earlier datagram, and is said once.
                Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => send_at_once(&self.socket, send),
                outcome => outcome,
            }
        };
        send_many(
            (&self.batches, &self.socket),
            datagrams,
            (segment, SEGMENTS_MAX),
            |part| {
                if part.len() <= segment {
                    return self.send_one(part, ecn);
                }
                at_once(part)
                    .map(drop)
                    .map_err(|error| fault(error, || Ok(self.local_addr()?.ip())))
            },
        )
    }

    /// Takes what is waiting, [`io::ErrorKind::WouldBlock`] if nothing is. Other errors are about datagrams sent before, as in
    /// [`Udp::try_send`], and do not end the socket.
    pub fn try_recv(&self, inbox: &mut Inbox) -> io::Result<()> {
        passing_over_reports(|| self.batches.receive(&self.socket, inbox))
    }

    /// Waits for datagrams; otherwise as [`Udp::try_recv`]. Cancel safe.
    pub async fn recv(&self, inbox: &mut Inbox) -> io::Result<()> {
        loop {
            self.readable().await?;
            match self.try_recv(inbox) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
        }
    }

    /// Whether a datagram may be waiting; if not, the task is woken when one may be. For a task that looks at several sockets.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_recv_ready(context)
    }

    /// Waits until there may be a datagram; reports about datagrams sent before wake nobody. Cancel safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Waits until there may be room after [`SendFault::Full`]. Cancel safe.
    pub async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }
}

/// Sends datagrams of `segment` bytes, at most `most` in a call. One call takes all or nothing. One that is refused for anything but want of room
/// is made again one by one: a card may not cut, and then quinn-udp has given that up; memory for one datagram is found where there is none for many.
fn send_many(
    (batches, socket): (&Batches, &UdpSocket),
    datagrams: &[u8],
    (segment, most): (usize, usize),
    mut send: impl FnMut(&[u8]) -> Result<(), SendFault>,
) -> Result<(), Unsent> {
    let (mut from, mut singly, mut doubted) = (0, false, false);
    while from < datagrams.len() {
        let at_once = match singly {
            true => 1,
            false => batches
                .segments(socket)
                .min(most)
                .min(BYTES_MAX / segment.max(1))
                .max(1),
        };
        let part = &datagrams[from..datagrams.len().min(from + at_once * segment)];
        match send(part) {
            Ok(()) => {
                from += part.len();
                doubted = false;
            }
            Err(SendFault::Full) => {
                let fault = SendFault::Full;
                return Err(Unsent { from, fault });
            }
            Err(_) if part.len() > segment => {
                singly = true;
                doubted = batches.segments(socket) == 1;
            }
            Err(fault) => {
                // One alone fails as well: cutting was not to blame.
                if doubted {
                    batches.resume(socket);
                }
                return Err(Unsent { from, fault });
            }
        }
    }
    Ok(())
}

/// Tries to send without asking tokio first, which believes that a new socket takes nothing; and tells tokio if the socket
/// really takes nothing, so that waiting for it works.
fn send_at_once(socket: &UdpSocket, mut send: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    match passing_over_reports(&mut send) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.try_io(Interest::WRITABLE, send),
        outcome => outcome,
    }
}

/// Repeats what failed because an ICMP message said that an earlier datagram was too large (the option to probe does not
/// keep the kernel from reporting that). After this only a datagram that is too large itself fails so.
fn passing_over_reports<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..REPORTS {
        match attempt() {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {}
            outcome => return outcome,
        }
    }
    attempt()
}

/// Buffers, and no fragments: the "don't fragment" bit on IPv4, no fragmenting by this host on IPv6, and in both the MTU of
/// the link instead of the kernel's cache (`PROBE` in ip(7) and ipv6(7)). IPv4 goes through an IPv6 socket, too.
fn configure(socket: &Socket, v6: bool) -> io::Result<()> {
    enlarge(socket, libc::SO_RCVBUFFORCE).or_else(|_| socket.set_recv_buffer_size(BUFFER))?;
    enlarge(socket, libc::SO_SNDBUFFORCE).or_else(|_| socket.set_send_buffer_size(BUFFER))?;
    let number = socket.as_raw_fd();
    if v6 {
        set_option(
            number,
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_PROBE,
        )?;
        set_option(number, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)?;
    }
    set_option(number, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
}

/// Takes back what quinn-udp asked for and nobody uses. Time and address of IPv6 together would leave no room for the mark.
pub(crate) fn tell_only(socket: &UdpSocket, told: Told) -> io::Result<()> {
    let number = socket.as_raw_fd();
    match told {
        Told::Address => set_option(number, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 0),
        Told::Time => match SockRef::from(socket).domain()? {
            Domain::IPV6 => set_option(number, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 0),
            _ => set_option(number, libc::IPPROTO_IP, libc::IP_PKTINFO, 0),
        },
    }
}

/// Beyond the limit for everybody, if we are privileged.
fn enlarge(socket: &Socket, option: libc::c_int) -> io::Result<()> {
    let bytes = libc::c_int::try_from(BUFFER).unwrap_or(libc::c_int::MAX);
    set_option(socket.as_raw_fd(), libc::SOL_SOCKET, option, bytes)
}

fn set_option(number: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads one integer, which lives for the duration of the call.
    match unsafe { libc::setsockopt(number, level, option, (&raw const value).cast(), size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What an error of sending from `local` means. Without the source address the kernel says the same as without a way or with
/// a route into nowhere (and that changed between its versions), so we look.
fn fault(error: io::Error, local: impl FnOnce() -> io::Result<IpAddr>) -> SendFault {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => SendFault::Full,
        Some(libc::EMSGSIZE) => SendFault::TooBig,
        Some(libc::ENETUNREACH | libc::EINVAL | libc::EADDRNOTAVAIL) => match local() {
            Ok(local) if !is_ours(local) => SendFault::SourceGone(error),
            Ok(_) | Err(_) => SendFault::Unreachable(error),
        },
        // From routes and neighbours, from ICMP (net/ipv4/icmp.c, icmp_err_convert), and from firewalls of this host.
        Some(
            libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::ENOPROTOOPT
            | libc::EPROTO
            | libc::EACCES
            | libc::EPERM,
        ) => SendFault::Unreachable(error),
        Some(libc::ENETDOWN | libc::ENODEV | libc::ENXIO) => SendFault::SourceGone(error),
        // tokio's own "would block" has no number.
        _ if error.kind() == io::ErrorKind::WouldBlock => SendFault::Full,
        _ => SendFault::Other(error),
    }
}

/// Whether this host has the address.
fn is_ours(address: IpAddr) -> bool {
    let bind = || {
        let address = SocketAddr::new(address, 0);
        Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?.bind(&address.into())
    };
    match bind() {
        Err(error) => error.raw_os_error() != Some(libc::EADDRNOTAVAIL),
        Ok(()) => true,
    }
}
