//! Listening sockets: opened as on every Unix, or handed over by systemd (sd_listen_fds(3)).

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, SockRef, Type};

use crate::PlatformError;

pub use crate::unix::listen::listen;

/// The first descriptor that a service manager hands over (`SD_LISTEN_FDS_START`).
const FIRST_INHERITED: RawFd = 3;

/// The most descriptors taken over. A gateway listens on a handful of addresses.
const MAX_INHERITED: RawFd = 64;

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
    let internet = matches!(socket.domain()?, Domain::IPV4 | Domain::IPV6);
    if !internet || socket.r#type()? != Type::STREAM || !socket.is_listener()? {
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
    use socket2::Socket;

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
