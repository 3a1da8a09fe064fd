//! Listening sockets, and UDP sockets of the same kind: opened as on every Unix, or handed over by systemd (sd_listen_fds(3)).

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use socket2::{Domain, SockRef, Type};

use crate::PlatformError;
use crate::listen::Inherited;

pub use crate::unix::listen::listen;

/// Takes the sockets that the service manager passed to this process (`LISTEN_PID`, `LISTEN_FDS`); none if it passed none. They come non-blocking and are closed in our children. Only the first call gets them, here or of
/// [`crate::service::taken`].
pub fn inherited() -> Result<Inherited, PlatformError> {
    let taken = super::service::take()
        .map_err(|source| PlatformError::io("use the descriptors of the service manager", source))?;
    let mut sockets = Inherited::default();
    for (name, descriptor) in taken {
        let number = descriptor.as_raw_fd();
        let adopted = adopt(descriptor, &mut sockets);
        adopted.map_err(|source| PlatformError::io(format!("use inherited descriptor {number} ({name})"), source))?;
    }
    Ok(sockets)
}

fn adopt(descriptor: OwnedFd, sockets: &mut Inherited) -> io::Result<()> {
    let fd = descriptor.as_fd();
    let socket = SockRef::from(&fd);
    socket.set_cloexec(true)?;
    let internet = matches!(socket.domain()?, Domain::IPV4 | Domain::IPV6);
    let listens = socket.r#type()? == Type::STREAM && socket.is_listener()?;
    let hears = socket.r#type()? == Type::DGRAM && socket.peer_addr().is_err();
    if !internet || !(listens || hears) {
        let reason = "neither a listening TCP socket nor a UDP socket without a peer";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    socket.set_nonblocking(true)?;
    match listens {
        true => sockets.tcp.push(TcpListener::from(descriptor)),
        false => sockets.udp.push(UdpSocket::from(descriptor)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::Socket;

    #[test]
    fn a_descriptor_that_does_not_listen_is_refused() {
        let mut sockets = Inherited::default();
        let stream = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        adopt(stream.into(), &mut sockets).expect_err("refused");
        let listening = listen("127.0.0.1:0".parse().expect("address"), 8, false).expect("listen");
        adopt(listening.into(), &mut sockets).expect("adopted");

        let hearing = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let talking = UdpSocket::bind("127.0.0.1:0").expect("bind");
        talking
            .connect(hearing.local_addr().expect("address"))
            .expect("connect");
        adopt(talking.into(), &mut sockets).expect_err("refused");
        adopt(hearing.into(), &mut sockets).expect("adopted");
        assert_eq!((sockets.tcp.len(), sockets.udp.len()), (1, 1));
    }
}
