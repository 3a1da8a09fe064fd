//! Listening sockets: opened as on every Unix, or handed over by systemd (sd_listen_fds(3)).

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use socket2::{Domain, SockRef, Type};

use crate::PlatformError;

pub use crate::unix::listen::listen;

/// Takes the listening sockets that the service manager passed to this process (`LISTEN_PID`, `LISTEN_FDS`); none if it
/// passed none. They come non-blocking and are closed in our children. Only the first call gets them, here or of
/// [`crate::service::taken`].
pub fn inherited() -> Result<Vec<TcpListener>, PlatformError> {
    let taken = super::service::take()
        .map_err(|source| PlatformError::io("use the descriptors of the service manager", source))?;
    taken
        .into_iter()
        .map(|(name, descriptor)| {
            let number = descriptor.as_raw_fd();
            adopt(descriptor)
                .map_err(|source| PlatformError::io(format!("use inherited descriptor {number} ({name})"), source))
        })
        .collect()
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
    fn a_descriptor_that_does_not_listen_is_refused() {
        let stream = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        adopt(stream.into()).expect_err("refused");
        let listening = listen("127.0.0.1:0".parse().expect("address"), 8, false).expect("listen");
        adopt(listening.into()).expect("adopted");
    }
}
