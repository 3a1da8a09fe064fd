//! Listening sockets: opened here, or handed over by the service manager.

use std::net::{TcpListener, UdpSocket};

pub use crate::os::listen::{inherited, listen};

/// The sockets that the service manager handed over, non-blocking.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Those that listen for TCP connections.
    pub tcp: Vec<TcpListener>,
    /// Those that take UDP from anybody, for [`crate::udp::UdpListener::adopt`].
    pub udp: Vec<UdpSocket>,
}
