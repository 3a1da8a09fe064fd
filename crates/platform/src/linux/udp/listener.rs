//! The socket that hears all clients: each datagram with the address that it came to, in ancillary data (ip(7), ipv6(7)), and so do its answers.

use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};

use packet::Ecn;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use super::message::{Control, as_v6, send};
use super::{configure, fault, passing_over_reports, send_at_once, send_many, set_option, steer};
use crate::PlatformError;
use crate::udp::batch::{Batches, Told};
use crate::udp::{Endpoint, Inbox, SEGMENTS_MAX, SendFault, Unsent};

/// An unconnected socket that answers from the address it was asked at, never fragmenting.
#[derive(Debug)]
pub struct UdpListener {
    socket: UdpSocket,
    batches: Batches,
    v6: bool,
}

impl UdpListener {
    /// Opens a socket on `address`. `dual_stack` makes an IPv6 wildcard take IPv4 too, as [`crate::listen::listen`] does. The
    /// port is ours alone. Needs a tokio runtime with I/O.
    pub fn bind(address: SocketAddr, dual_stack: bool) -> Result<Self, PlatformError> {
        open(address, dual_stack)
            .and_then(Self::adopt)
            .map_err(|source| PlatformError::io(format!("take UDP on {address}"), source))
    }

    /// Opens `count` sockets on one address, one for each worker, between which the kernel chooses as [`super::steer`] says. Each is for the
    /// thread that is to [`UdpListener::adopt`] it. The port is ours alone.
    pub fn bind_group(
        address: SocketAddr,
        dual_stack: bool,
        count: usize,
    ) -> Result<Vec<std::net::UdpSocket>, PlatformError> {
        open_group(address, dual_stack, count)
            .map_err(|source| PlatformError::io(format!("take UDP on {address}"), source))
    }

    /// Goes on with a bound socket of the service manager ([`crate::listen::inherited`]). Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// It is connected, or not of the internet.
    pub fn adopt(socket: std::net::UdpSocket) -> io::Result<Self> {
        let refuse = |reason| Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        let reference = SockRef::from(&socket);
        let v6 = match reference.domain()? {
            Domain::IPV4 => false,
            Domain::IPV6 => true,
            _ => return refuse("not a socket of the internet"),
        };
        if reference.peer_addr().is_ok() {
            return refuse("the socket is connected to one peer");
        }
        configure(&reference, v6)?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        Ok(Self {
            batches: Batches::new(&socket, Told::Address)?,
            socket,
            v6,
        })
    }

    /// The socket, for another runtime or process to [`UdpListener::adopt`].
    pub fn into_std(self) -> io::Result<std::net::UdpSocket> {
        self.socket.into_std()
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Takes what is waiting, [`io::ErrorKind::WouldBlock`] if nothing is.
    pub fn try_recv(&self, inbox: &mut Inbox) -> io::Result<()> {
        passing_over_reports(|| self.batches.receive(&self.socket, inbox))
    }

    /// Sends many datagrams to the peer of `to`, from the address it came to; otherwise as [`super::Udp::try_send_many`].
    ///
    /// # Errors
    /// Where it stopped, and why.
    pub fn try_send_many(&self, datagrams: &[u8], segment: usize, ecn: Ecn, to: Endpoint) -> Result<(), Unsent> {
        let peer = if self.v6 { mapped(to.peer) } else { to.peer };
        let local = (!to.local.is_unspecified()).then_some(to.local);
        let local = if self.v6 {
            local.map(|local| as_v6(local).into())
        } else {
            local
        };
        // What is sent at once cannot name an interface.
        let most = if to.interface == 0 { SEGMENTS_MAX } else { 1 };
        send_many((&self.batches, &self.socket), datagrams, (segment, most), |part| {
            if part.len() <= segment {
                return self.send_one(part, ecn, to);
            }
            let sent = send_at_once(&self.socket, || {
                self.batches
                    .send(&self.socket, (peer, local), part, (segment, ecn))
                    .map(|()| part.len())
            });
            sent.map(drop).map_err(|error| fault(error, || Ok(to.local)))
        })
    }

    /// Sends one datagram to the peer of `to`, from the address it came to, if the kernel takes it at once. It cannot be marked.
    ///
    /// # Errors
    /// See [`SendFault`]; [`SendFault::SourceGone`] concerns this endpoint only.
    pub fn try_send(&self, datagram: &[u8], to: Endpoint) -> Result<(), SendFault> {
        self.send_one(datagram, Ecn::NotEct, to)
    }

    fn send_one(&self, datagram: &[u8], ecn: Ecn, to: Endpoint) -> Result<(), SendFault> {
        let peer = SockAddr::from(if self.v6 { mapped(to.peer) } else { to.peer });
        let mut control = Control::default();
        if !to.local.is_unspecified() {
            control.from(to.local, to.interface, self.v6);
        }
        if ecn != Ecn::NotEct {
            control.marked(ecn, to.peer.is_ipv4());
        }
        let number = self.socket.as_raw_fd();
        let sent = send_at_once(&self.socket, || send(number, datagram, Some(&peer), &mut control));
        let length = sent.map_err(|error| fault(error, || Ok(to.local)))?;
        debug_assert_eq!(length, datagram.len(), "a datagram is sent whole");
        Ok(())
    }

    /// Waits until there may be a datagram. Cancel safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Waits until there may be room after [`SendFault::Full`]. Cancel safe.
    pub async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }
}

/// Without `SO_REUSEADDR`, which lets others take the port here.
fn open(address: SocketAddr, dual_stack: bool) -> io::Result<std::net::UdpSocket> {
    let socket = new_socket(address, dual_stack)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// The first is bound as one alone is, so that a port that somebody else of this user shares is refused, and is opened to the others afterwards.
fn open_group(address: SocketAddr, dual_stack: bool, count: usize) -> io::Result<Vec<std::net::UdpSocket>> {
    let first = open(address, dual_stack)?;
    if count < 2 {
        return Ok(vec![first]);
    }
    let address = first.local_addr()?;
    share_port(first.as_raw_fd())?;
    let mut sockets = vec![first];
    while sockets.len() < count {
        let socket = new_socket(address, dual_stack)?;
        share_port(socket.as_raw_fd())?;
        socket.bind(&address.into())?;
        sockets.push(socket.into());
    }
    steer::attach(sockets[0].as_raw_fd(), count)?;
    Ok(sockets)
}

fn share_port(number: RawFd) -> io::Result<()> {
    set_option(number, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
}

fn new_socket(address: SocketAddr, dual_stack: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!(dual_stack && address.ip().is_unspecified()))?;
    }
    Ok(socket)
}

/// As an IPv6 socket wants it.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
        SocketAddr::V6(_) => address,
    }
}
