//! The socket that hears all clients: each datagram with the address that it came to, in ancillary data (ip(7), ipv6(7)).

use std::ffi::c_void;
use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::{configure, fault, passing_over_reports, send_at_once, set_option};
use crate::PlatformError;
use crate::udp::{Endpoint, SendFault, canonical};

/// An unconnected socket that answers from the address it was asked at, never fragmenting.
#[derive(Debug)]
pub struct UdpListener {
    socket: UdpSocket,
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
        match v6 {
            true => set_option(socket.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?,
            false => set_option(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?,
        }
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        Ok(Self { socket, v6 })
    }

    /// The socket, for another runtime or process to [`UdpListener::adopt`].
    pub fn into_std(self) -> io::Result<std::net::UdpSocket> {
        self.socket.into_std()
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Takes a datagram if one is waiting, [`io::ErrorKind::WouldBlock`] otherwise; what is longer than the buffer is cut off.
    pub fn try_recv(&self, datagram: &mut [u8]) -> io::Result<(usize, Endpoint)> {
        let number = self.socket.as_raw_fd();
        passing_over_reports(|| self.socket.try_io(Interest::READABLE, || receive(number, datagram)))
    }

    /// Sends one datagram to the peer of `to`, from the address it came to, if the kernel takes it at once.
    ///
    /// # Errors
    /// See [`SendFault`]; [`SendFault::SourceGone`] concerns this endpoint only.
    pub fn try_send(&self, datagram: &[u8], to: Endpoint) -> Result<(), SendFault> {
        let number = self.socket.as_raw_fd();
        let sent = send_at_once(&self.socket, || send(number, self.v6, datagram, to));
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
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!(dual_stack && address.ip().is_unspecified()))?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Room for one header with the longer of the two kinds of data (40 bytes), aligned as headers must be.
type Control = [u64; 8];

fn receive(number: RawFd, datagram: &mut [u8]) -> io::Result<(usize, Endpoint)> {
    let mut control: Control = [0; 8];
    let mut part = libc::iovec {
        iov_base: datagram.as_mut_ptr().cast(),
        iov_len: datagram.len(),
    };
    // SAFETY: the kernel writes at most the given lengths into the address, the datagram and the control data, all of which
    // outlive the call, and says how long the address is.
    let ((length, (local, index)), from) = unsafe {
        SockAddr::try_init(|address, size| {
            let mut message = message(address.cast(), *size, &mut part, &mut control);
            let length = libc::recvmsg(number, &mut message, 0);
            let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
            *size = message.msg_namelen;
            Ok((length, arrival(&message)))
        })
    }?;
    let peer = from.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    let interface = if is_link_local(local) { index } else { 0 };
    let endpoint = Endpoint {
        peer: canonical(peer),
        local,
        interface,
    };
    Ok((length, endpoint))
}

fn send(number: RawFd, v6: bool, datagram: &[u8], to: Endpoint) -> io::Result<usize> {
    let mut control: Control = [0; 8];
    let mut part = libc::iovec {
        // The kernel does not write there.
        iov_base: datagram.as_ptr().cast_mut().cast(),
        iov_len: datagram.len(),
    };
    let peer = SockAddr::from(if v6 { mapped(to.peer) } else { to.peer });
    let name = peer.as_ptr().cast_mut().cast();
    let mut message = message(name, peer.len(), &mut part, &mut control);
    let interface = to.interface;
    match to.local {
        local if local.is_unspecified() => message.msg_controllen = 0,
        // SAFETY: `control` has room for one header with this data, and `message` describes it.
        IpAddr::V4(local) if !v6 => unsafe {
            let data = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from_ne_bytes(local.octets()),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            add(&mut message, libc::IPPROTO_IP, libc::IP_PKTINFO, data);
        },
        // SAFETY: as above.
        local => unsafe {
            let data = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: mapped_ip(local).octets(),
                },
                ipi6_ifindex: interface,
            };
            add(&mut message, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, data);
        },
    }
    // SAFETY: all that `message` points to outlives the call, in the lengths it says; the kernel only reads.
    let length = unsafe { libc::sendmsg(number, &message, 0) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// A message with one part, an address and control data.
fn message(name: *mut c_void, length: libc::socklen_t, part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: integers and pointers, for which zero is valid; some systems have padding between them.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = name;
    message.msg_namelen = length;
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_controllen = size_of_val(control) as _;
    message.msg_control = control.as_mut_ptr().cast();
    message
}

/// Makes `data` the only control data of a message.
///
/// # Safety
/// The control buffer of `message` is aligned for a header and has room for one and `data`.
unsafe fn add<T>(message: &mut libc::msghdr, level: libc::c_int, kind: libc::c_int, data: T) {
    let size = size_of::<T>() as libc::c_uint;
    // SAFETY: the caller vouches for the room; the header lies within it, its data behind it.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(size) as _;
        let header = libc::CMSG_FIRSTHDR(message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(size) as _;
        ptr::write_unaligned(libc::CMSG_DATA(header).cast(), data);
    }
}

/// Our address that a received message was sent to, and the index of the interface it came in by.
///
/// # Safety
/// The kernel has just filled in the control data of `message`, which is still there.
unsafe fn arrival(message: &libc::msghdr) -> (IpAddr, u32) {
    // SAFETY: the headers lie within the control data; each is as long as its kind says.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(kind) = header.as_ref() {
            let data = libc::CMSG_DATA(header);
            match (kind.cmsg_level, kind.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let data: libc::in_pktinfo = ptr::read_unaligned(data.cast());
                    let local = Ipv4Addr::from(data.ipi_spec_dst.s_addr.to_ne_bytes());
                    return (local.into(), u32::try_from(data.ipi_ifindex).unwrap_or(0));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let data: libc::in6_pktinfo = ptr::read_unaligned(data.cast());
                    let local = Ipv6Addr::from(data.ipi6_addr.s6_addr);
                    return (IpAddr::from(local).to_canonical(), data.ipi6_ifindex);
                }
                _ => header = libc::CMSG_NXTHDR(message, header),
            }
        }
    }
    (Ipv6Addr::UNSPECIFIED.into(), 0)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// As an IPv6 socket wants it.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
        SocketAddr::V6(_) => address,
    }
}

fn mapped_ip(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
