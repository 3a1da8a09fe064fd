//! TCP socket options through socket2, and the few it does not know through libc.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::AsRawFd;

use socket2::{SockRef, TcpKeepalive};

use crate::tcp::{ClientTcp, GatewayTcp, Keepalive, TcpInfo, TcpState};

/// Anything with a socket descriptor.
pub use std::os::fd::AsFd as AsHandle;

/// Sets the options of the client's end. Call before connecting: the mark decides over the route of the first segment. A
/// mark that is refused for lack of privilege (EPERM) is an error here; see [`set_mark`] to treat it on its own.
pub fn configure_client(socket: &impl AsHandle, options: &ClientTcp) -> io::Result<()> {
    let socket_ref = SockRef::from(socket);
    set_common(&socket_ref, &options.keepalive)?;
    if let Some(bytes) = options.send_buffer {
        socket_ref.set_send_buffer_size(bytes)?;
    }
    match options.mark {
        Some(mark) => socket_ref.set_mark(mark),
        None => Ok(()),
    }
}

/// Sets the options of the gateway's end.
pub fn configure_gateway(socket: &impl AsHandle, options: &GatewayTcp) -> io::Result<()> {
    let socket_ref = SockRef::from(socket);
    set_common(&socket_ref, &options.keepalive)?;
    socket_ref.set_tcp_user_timeout(Some(options.user_timeout))
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

/// Marks a socket of any kind, so that routing rules can tell the tunnel's own packets. Needs CAP_NET_ADMIN or CAP_NET_RAW.
pub fn set_mark(socket: &impl AsHandle, mark: u32) -> io::Result<()> {
    SockRef::from(socket).set_mark(mark)
}

/// Lets the socket become writable only while less than `bytes` wait unsent in the kernel, so that a control frame does not
/// queue behind seconds of data (`TCP_NOTSENT_LOWAT`).
pub fn limit_unsent(socket: &impl AsHandle, bytes: u32) -> io::Result<()> {
    SockRef::from(socket).set_tcp_notsent_lowat(bytes)
}

/// Asks the kernel about the connection.
pub fn info(socket: &impl AsHandle) -> io::Result<TcpInfo> {
    let mut raw = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `raw` is writable for `length` bytes and the kernel writes at most that many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            raw.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: tcp_info is made of integers only, for which zero is valid where the kernel wrote nothing.
    let raw = unsafe { raw.assume_init() };
    Ok(TcpInfo {
        state: state(raw.tcpi_state),
        probes: raw.tcpi_probes,
        backoff: raw.tcpi_backoff,
        retransmits: raw.tcpi_retransmits,
        rto_ms: raw.tcpi_rto / 1000,
        unacked: raw.tcpi_unacked,
        last_data_recv_ms: raw.tcpi_last_data_recv,
        last_ack_recv_ms: raw.tcpi_last_ack_recv,
        pmtu: raw.tcpi_pmtu,
        snd_mss: raw.tcpi_snd_mss,
        rtt_us: raw.tcpi_rtt,
    })
}

/// The numbers of include/net/tcp_states.h.
fn state(number: u8) -> TcpState {
    match number {
        1 => TcpState::Established,
        2 => TcpState::SynSent,
        3 | 12 => TcpState::SynReceived,
        4 => TcpState::FinWait1,
        5 => TcpState::FinWait2,
        6 => TcpState::TimeWait,
        7 => TcpState::Closed,
        8 => TcpState::CloseWait,
        9 => TcpState::LastAck,
        10 => TcpState::Listen,
        11 => TcpState::Closing,
        other => TcpState::Other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (far, _) = listener.accept().expect("accept");
        (near, far)
    }

    #[test]
    fn keepalive_reads_back_as_set() {
        let (near, far) = pair();
        configure_client(&near, &ClientTcp::default()).expect("client");
        let gateway = GatewayTcp {
            keepalive: Keepalive {
                idle: Duration::from_secs(20),
                interval: Duration::from_secs(5),
                count: 3,
            },
            user_timeout: Duration::from_secs(7200),
        };
        configure_gateway(&far, &gateway).expect("gateway");

        let near = SockRef::from(&near);
        assert!(near.keepalive().expect("keepalive") && near.tcp_nodelay().expect("nodelay"));
        assert_eq!(near.tcp_keepalive_time().expect("time"), Duration::from_secs(45));
        assert_eq!(
            near.tcp_keepalive_interval().expect("interval"),
            Duration::from_secs(15)
        );
        assert_eq!(near.tcp_keepalive_retries().expect("retries"), 8);
        let far = SockRef::from(&far);
        assert_eq!(far.tcp_keepalive_time().expect("time"), Duration::from_secs(20));
        assert_eq!(far.tcp_keepalive_retries().expect("retries"), 3);
        assert_eq!(
            far.tcp_user_timeout().expect("timeout"),
            Some(Duration::from_secs(7200))
        );
    }

    #[test]
    fn the_kernel_tells_the_state_of_both_ends() {
        let (near, far) = pair();
        let before = info(&near).expect("info");
        assert_eq!(before.state, TcpState::Established);
        assert!(before.pmtu >= 1280 && before.snd_mss > 500 && before.rto_ms > 0);
        assert_eq!((before.probes, before.unacked), (0, 0));
        drop(far);
        assert_eq!(info(&near).expect("info").state, TcpState::CloseWait);
    }
}
