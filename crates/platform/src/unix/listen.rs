//! Listening TCP sockets, and those that systemd hands over (sd_listen_fds(3)).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::PlatformError;

/// The first descriptor that a service manager hands over (`SD_LISTEN_FDS_START`).
const FIRST_INHERITED: RawFd = 3;

/// The most descriptors taken over. A gateway listens on a handful of addresses.
const MAX_INHERITED: RawFd = 64;

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

/// Takes the listening sockets that the service manager passed to this process (`LISTEN_PID`, `LISTEN_FDS`); none if it
/// passed none. They come non-blocking and are closed in our children. Only the first call gets them.
pub fn inherited() -> Result<Vec<TcpListener>, PlatformError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let variable = |name| std::env::var(name).ok();
    let count = announced(variable("LISTEN_PID"), variable("LISTEN_FDS"), std::process::id());
    if count == 0 || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    (FIRST_INHERITED..FIRST_INHERITED + count)
        .map(|number| {
            // SAFETY: the service manager opened these descriptors for this process (LISTEN_PID is ours) and nobody else in
            // it owns them; `TAKEN` keeps a second caller from owning them again.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            adopt(descriptor).map_err(|source| PlatformError::io(format!("use inherited descriptor {number}"), source))
        })
        .collect()
}

/// How many descriptors the service manager announced to the process `pid`.
fn announced(listen_pid: Option<String>, listen_fds: Option<String>, pid: u32) -> RawFd {
    if listen_pid.and_then(|text| text.parse().ok()) != Some(pid) {
        return 0;
    }
    listen_fds
        .and_then(|text| text.parse::<RawFd>().ok())
        .map_or(0, |count| count.clamp(0, MAX_INHERITED))
}

fn adopt(descriptor: OwnedFd) -> io::Result<TcpListener> {
    let fd = descriptor.as_fd();
    let socket = SockRef::from(&fd);
    socket.set_cloexec(true)?;
    if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a listening TCP socket",
        ));
    }
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from(descriptor))
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

    #[test]
    fn descriptors_meant_for_another_process_are_left_alone() {
        assert_eq!(announced(Some("7".into()), Some("2".into()), 7), 2);
        assert_eq!(announced(Some("8".into()), Some("2".into()), 7), 0);
        assert_eq!(announced(None, Some("2".into()), 7), 0);
        assert_eq!(announced(Some("7".into()), Some("-1".into()), 7), 0);
        assert_eq!(announced(Some("7".into()), Some("100000".into()), 7), MAX_INHERITED);
    }

    #[test]
    fn a_descriptor_that_does_not_listen_is_refused() {
        let stream = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        adopt(stream.into()).expect_err("refused");
        let listening = listen("127.0.0.1:0".parse().expect("address"), 8, false).expect("listen");
        adopt(listening.into()).expect("adopted");
    }
}
