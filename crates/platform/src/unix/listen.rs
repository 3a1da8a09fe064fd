//! Listening TCP sockets.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::PlatformError;

/// Opens a non-blocking listening socket on `addr`.
///
/// `dual_stack` makes an IPv6 wildcard accept IPv4 too; leave it off when an IPv4 socket takes the same port. A port that is
/// in use says so by name.
pub fn listen(addr: SocketAddr, backlog: u32, dual_stack: bool) -> Result<TcpListener, PlatformError> {
    open(addr, backlog, dual_stack).map_err(|source| PlatformError::io(format!("listen on {addr}"), source))
}

fn open(addr: SocketAddr, backlog: u32, dual_stack: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(!(dual_stack && addr.ip().is_unspecified()))?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn an_ipv6_wildcard_takes_ipv4_only_if_asked() {
        let both = listen("[::]:0".parse().expect("address"), 8, true).expect("listen");
        let port = both.local_addr().expect("address").port();
        TcpStream::connect(("127.0.0.1", port)).expect("dual stack");
        let single = listen("[::]:0".parse().expect("address"), 8, false).expect("listen");
        let port = single.local_addr().expect("address").port();
        TcpStream::connect(("::1", port)).expect("IPv6");
        TcpStream::connect(("127.0.0.1", port)).expect_err("no IPv4");
    }

    #[test]
    fn a_port_in_use_is_named() {
        let first = listen("127.0.0.1:0".parse().expect("address"), 8, false).expect("listen");
        let addr = first.local_addr().expect("address");
        let error = listen(addr, 8, false).expect_err("in use");
        assert!(
            error.to_string().starts_with(&format!("cannot listen on {addr}: ")),
            "{error}"
        );
    }
}
