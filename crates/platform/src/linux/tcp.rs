//! TCP socket options through socket2, and the few it does not know through libc.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::AsRawFd;
use std::time::Duration;

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

/// `TCP_RTO_MAX_MS` of linux/tcp.h, since 6.15.
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// Keeps the pause between two repetitions of a segment at or below `longest`, 1 to 120 s, so that what was in flight when
/// the path went arrives soon after it is back. The kernel counts repetitions too and would give up early (measured: after
/// 15 s with 1 s), but for a user timeout, which replaces the count: without one this is refused (`InvalidInput`). Kernels
/// before 6.15 answer `ENOPROTOOPT`.
pub fn limit_retransmission_timeout(socket: &impl AsHandle, longest: Duration) -> io::Result<()> {
    if SockRef::from(socket)
        .tcp_user_timeout()?
        .is_none_or(|time| time.is_zero())
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let ms = libc::c_int::try_from(longest.as_millis()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `ms` is readable for the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_RTO_MAX_MS,
            (&raw const ms).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Switches keepalive on or off; its figures stay as they were set.
pub fn switch_keepalive(socket: &impl AsHandle, on: bool) -> io::Result<()> {
    SockRef::from(socket).set_keepalive(on)
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
    use crate::tcp::RETRANSMISSION_TIMEOUT_MAX;
    use std::net::{TcpListener, TcpStream};

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
    fn keepalive_is_switched_off_and_on_with_its_figures() {
        let (near, _far) = pair();
        configure_client(&near, &ClientTcp::default()).expect("client");
        for on in [false, true] {
            switch_keepalive(&near, on).expect("switch");
            let near = SockRef::from(&near);
            assert_eq!(near.keepalive().expect("keepalive"), on);
            assert_eq!(near.tcp_keepalive_time().expect("time"), Duration::from_secs(45));
        }
    }

    #[test]
    fn repetitions_are_limited_only_beside_a_user_timeout() {
        let (near, _far) = pair();
        let alone = limit_retransmission_timeout(&near, RETRANSMISSION_TIMEOUT_MAX);
        assert_eq!(alone.expect_err("alone").kind(), io::ErrorKind::InvalidInput);
        configure_gateway(&near, &GatewayTcp::default()).expect("gateway");
        match limit_retransmission_timeout(&near, RETRANSMISSION_TIMEOUT_MAX) {
            Ok(()) => assert!(limit_retransmission_timeout(&near, Duration::from_millis(1)).is_err()),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT)),
        }
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
