//! TCP options as far as socket2 knows them here. Never run on this system yet.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::tcp::{ClientTcp, GatewayTcp, Keepalive, TcpInfo};

/// Anything with a socket handle.
pub use std::os::windows::io::AsSocket as AsHandle;

/// Sets the options of the client's end. Marks are not supported.
pub fn configure_client(socket: &impl AsHandle, options: &ClientTcp) -> io::Result<()> {
    let socket_ref = SockRef::from(socket);
    set_common(&socket_ref, &options.keepalive)?;
    if let Some(bytes) = options.send_buffer {
        socket_ref.set_send_buffer_size(bytes)?;
    }
    match options.mark {
        Some(mark) => set_mark(socket, mark),
        None => Ok(()),
    }
}

/// Sets the options of the gateway's end. There is no user timeout here: the keepalive count decides.
pub fn configure_gateway(socket: &impl AsHandle, options: &GatewayTcp) -> io::Result<()> {
    set_common(&SockRef::from(socket), &options.keepalive)
}

fn set_common(socket: &SockRef<'_>, keepalive: &Keepalive) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(keepalive.idle)
            .with_interval(keepalive.interval)
            .with_retries(keepalive.count),
    )
}

/// Not supported.
pub fn set_mark(_socket: &impl AsHandle, _mark: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not supported.
pub fn limit_unsent(_socket: &impl AsHandle, _bytes: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not supported.
pub fn limit_retransmission_timeout(_socket: &impl AsHandle, _longest: Duration) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Switches keepalive on or off; its figures stay as they were set.
pub fn switch_keepalive(socket: &impl AsHandle, on: bool) -> io::Result<()> {
    SockRef::from(socket).set_keepalive(on)
}

/// Not supported.
pub fn info(_socket: &impl AsHandle) -> io::Result<TcpInfo> {
    Err(io::ErrorKind::Unsupported.into())
}
