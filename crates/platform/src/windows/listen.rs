//! Listening TCP sockets. Never run on this system yet.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::PlatformError;
use crate::listen::Inherited;

/// Opens a non-blocking listening socket on `addr`; `dual_stack` makes an IPv6 wildcard accept IPv4 too.
pub fn listen(addr: SocketAddr, backlog: u32, dual_stack: bool) -> Result<TcpListener, PlatformError> {
    open(addr, backlog, dual_stack).map_err(|source| PlatformError::io(format!("listen on {addr}"), source))
}

/// Without `SO_REUSEADDR`, which lets others take the port here.
fn open(addr: SocketAddr, backlog: u32, dual_stack: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(!(dual_stack && addr.ip().is_unspecified()))?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// No service manager hands over sockets here.
pub fn inherited() -> Result<Inherited, PlatformError> {
    Ok(Inherited::default())
}
