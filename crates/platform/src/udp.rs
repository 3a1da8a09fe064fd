//! UDP sockets of the data channel.
//!
//! ```text
//!   client    Udp          one socket a path, connected: the kernel keeps the source address and reports ICMP errors
//!   gateway   UdpListener  one socket for all clients: each datagram tells which of our addresses it came to,
//!                          and its answer leaves from there
//! ```
//! Both send and take many datagrams in a call ([`Inbox`]).
//!
//! No datagram is ever fragmented, here or on the way: one that is too large for the first link is refused
//! ([`SendFault::TooBig`]), one that is too large for a later link is lost there. The kernel's own idea of the path MTU, which
//! anybody can change with a forged ICMP message, is not used: who wants to know it sends probes.

#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "the sockets of other systems are not written yet")
)]
pub(crate) mod batch;

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

pub use self::batch::{Arrival, BYTES_MAX, Inbox, SEGMENTS_MAX};
pub use crate::os::udp::{Udp, UdpListener};

/// Bytes asked for each of a socket's two buffers. The kernel books about 2.3 kB for a datagram of 1.4 kB and doubles what it
/// is asked for, so that some 3,600 datagrams fit: 10 ms at 4 Gbit/s, as long as a loop with other work may be away. A quarter of
/// it lost packets at 1 Gbit/s on two busy cores; the kernel's default takes 92 (both measured). Without privileges it caps
/// this at `net.core.rmem_max`, which is not an error.
pub const BUFFER: usize = 4 << 20;

/// Both ends of a datagram that came to a [`UdpListener`]: whom to answer, and from which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The sender. IPv4 is IPv4 here, also if it came to an IPv6 socket.
    pub peer: SocketAddr,
    /// Our address that it was sent to; unspecified lets the kernel choose.
    pub local: IpAddr,
    /// Index of the interface that `local` is on, where it is link-local and means nothing without; 0 otherwise.
    pub interface: u32,
}

/// Why a datagram was not sent.
///
/// What a connected socket of Linux 6.18 says to each sending after something changed (measured, by the test
/// `what_a_send_says_after_the_network_changed`), and what becomes of it here:
///
/// | what happened | IPv4 | IPv6 |
/// |---|---|---|
/// | its source address was removed, there is another | `ENETUNREACH`: source gone | **nothing**: datagrams leave from an address that is not ours |
/// | the link went down | `ENETUNREACH`: unreachable | `ENETUNREACH`: source gone (the kernel takes IPv6 addresses off) |
/// | the link was removed | `ENETUNREACH`: source gone | `ENETUNREACH`: source gone |
/// | the default route was removed | `ENETUNREACH`: unreachable | `ENETUNREACH`: unreachable |
/// | an `unreachable` route was added | `EHOSTUNREACH`: unreachable | `EHOSTUNREACH`: unreachable |
/// | a `blackhole` route was added | `EINVAL`: unreachable | `EINVAL`: unreachable |
/// | nobody listens at the peer | `ECONNREFUSED`, every other time: unreachable | the same |
///
/// The numbers do not tell a lost address from a lost route, so [`SendFault::SourceGone`] comes from a second look. Because of
/// the IPv6 line, whoever wants to know that the host has moved asks [`route_source`] from time to time.
#[derive(Debug, thiserror::Error)]
pub enum SendFault {
    /// The kernel's buffer is full; wait for writability, or drop it.
    #[error("the send buffer is full")]
    Full,
    /// It is larger than the MTU of the first link.
    #[error("the datagram is larger than the link takes")]
    TooBig,
    /// No way to the peer, nobody listens there, or a firewall refuses: it may pass.
    #[error("the peer cannot be reached: {0}")]
    Unreachable(io::Error),
    /// The address it would come from is not ours any more, or its interface is gone: this socket sends no more.
    #[error("the local address is gone: {0}")]
    SourceGone(io::Error),
    /// Anything else.
    #[error("cannot send: {0}")]
    Other(io::Error),
}

/// Datagrams that were not sent, and why: those before [`Unsent::from`] were.
#[derive(Debug)]
pub struct Unsent {
    /// Bytes before the first datagram that was not sent.
    pub from: usize,
    /// Why it was not. It says nothing about those behind it.
    pub fault: SendFault,
}

/// The address that a new connected socket to `peer` would get now, for sockets with this `mark`. If it is another one than
/// that of a socket in use, the host has moved. Sends nothing.
///
/// # Errors
/// There is no way to `peer` (`ENETUNREACH`), or no permission for the mark (`EPERM`).
pub fn route_source(peer: SocketAddr, mark: Option<u32>) -> io::Result<IpAddr> {
    let peer = canonical(peer);
    let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
    if let Some(mark) = mark {
        crate::tcp::set_mark(&socket, mark)?;
    }
    socket.connect(&peer.into())?;
    let source = socket
        .local_addr()?
        .as_socket()
        .ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(source.ip())
}

/// IPv4 as IPv4, whichever socket it was seen through.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_an_ipv4_address() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("address");
        assert_eq!(canonical(address("[::ffff:192.0.2.1]:443")), address("192.0.2.1:443"));
        assert_eq!(canonical(address("[2001:db8::1]:443")), address("[2001:db8::1]:443"));
    }

    #[test]
    fn the_source_towards_this_host_is_this_host() {
        let source = route_source(SocketAddr::from(([127, 0, 0, 1], 9)), None).expect("loopback");
        assert_eq!(source, IpAddr::from([127, 0, 0, 1]));
    }
}
