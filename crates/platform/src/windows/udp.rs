//! UDP without fragments: not supported yet. Never run on this system yet.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use packet::Ecn;
use tokio::net::UdpSocket;

use crate::PlatformError;
use crate::udp::batch::Told;
use crate::udp::{Endpoint, Inbox, SendFault, Unsent};

/// There is no socket to be told anything.
pub(crate) fn tell_only(_socket: &UdpSocket, _told: Told) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// There is none on this system: [`Udp::connect`] says so.
#[derive(Debug)]
pub struct Udp(Infallible);

impl Udp {
    /// Not supported.
    pub fn connect(_peer: SocketAddr, _mark: Option<u32>) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// See [`Udp::connect`].
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.0 {}
    }

    /// See [`Udp::connect`].
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self.0 {}
    }

    /// See [`Udp::connect`].
    pub fn try_send(&self, _datagram: &[u8]) -> Result<(), SendFault> {
        match self.0 {}
    }

    /// See [`Udp::connect`].
    pub fn try_send_many(&self, _datagrams: &[u8], _segment: usize, _ecn: Ecn) -> Result<(), Unsent> {
        match self.0 {}
    }

    /// See [`Udp::connect`].
    pub fn try_recv(&self, _inbox: &mut Inbox) -> io::Result<()> {
        match self.0 {}
    }

    /// See [`Udp::connect`].
    pub async fn recv(&self, _inbox: &mut Inbox) -> io::Result<()> {
        match self.0 {}
    }

    /// See [`Udp::connect`].
    pub fn poll_readable(&self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }

    /// See [`Udp::connect`].
    pub async fn readable(&self) -> io::Result<()> {
        match self.0 {}
    }

    /// See [`Udp::connect`].
    pub async fn writable(&self) -> io::Result<()> {
        match self.0 {}
    }
}

/// There is none on this system: [`UdpListener::bind`] says so.
#[derive(Debug)]
pub struct UdpListener(Infallible);

impl UdpListener {
    /// Not supported.
    pub fn bind(_address: SocketAddr, _dual_stack: bool) -> Result<Self, PlatformError> {
        Err(PlatformError::Unsupported("taking UDP from clients"))
    }

    /// Not supported.
    pub fn bind_group(
        _address: SocketAddr,
        _dual_stack: bool,
        _count: usize,
    ) -> Result<Vec<std::net::UdpSocket>, PlatformError> {
        Err(PlatformError::Unsupported("taking UDP from clients"))
    }

    /// Not supported.
    pub fn adopt(_socket: std::net::UdpSocket) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// See [`UdpListener::bind`].
    pub fn into_std(self) -> io::Result<std::net::UdpSocket> {
        match self.0 {}
    }

    /// See [`UdpListener::bind`].
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.0 {}
    }

    /// See [`UdpListener::bind`].
    pub fn try_recv(&self, _inbox: &mut Inbox) -> io::Result<()> {
        match self.0 {}
    }

    /// See [`UdpListener::bind`].
    pub fn try_send_many(&self, _datagrams: &[u8], _segment: usize, _ecn: Ecn, _to: Endpoint) -> Result<(), Unsent> {
        match self.0 {}
    }

    /// See [`UdpListener::bind`].
    pub fn try_send(&self, _datagram: &[u8], _to: Endpoint) -> Result<(), SendFault> {
        match self.0 {}
    }

    /// See [`UdpListener::bind`].
    pub async fn readable(&self) -> io::Result<()> {
        match self.0 {}
    }

    /// See [`UdpListener::bind`].
    pub async fn writable(&self) -> io::Result<()> {
        match self.0 {}
    }
}
