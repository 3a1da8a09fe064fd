//! Options of the control connection's TCP socket, and what the kernel knows about it.
//!
//! Kernel keepalive carries the control channel: a stopped or frozen process still answers probes, because its kernel does
//! (measured: 20 s of SIGSTOP, the peer stays ESTABLISHED with no unanswered probe). The gateway adds a user timeout far
//! beyond keepalive, so that it can watch [`TcpInfo::probes`] grow instead of losing the socket.

use std::time::Duration;

pub use crate::os::tcp::{
    AsHandle, configure_client, configure_gateway, info, limit_retransmission_timeout, limit_unsent, set_mark,
    switch_keepalive,
};

/// The longest pause between two repetitions of a segment towards a peer that may be asleep, for
/// [`limit_retransmission_timeout`]. Measured after an outage of 30 s with one segment in flight: it arrives 1.5 s after the
/// path is back, with the kernel's own 120 s after 24 s.
pub const RETRANSMISSION_TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// Kernel keepalive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe, whole seconds. Default 45 s: below the shortest NAT and load balancer timeouts seen
    /// in the field (AWS 350 s, Azure 4 min) with room for lost probes.
    pub idle: Duration,
    /// Time between probes, whole seconds. Default 15 s.
    pub interval: Duration,
    /// Unanswered probes until the connection is dead. Default 8.
    pub count: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(45),
            interval: Duration::from_secs(15),
            count: 8,
        }
    }
}

/// Options of the client's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientTcp {
    /// Kernel keepalive.
    pub keepalive: Keepalive,
    /// Mark of the tunnel's slot, which keeps the tunnel's own packets out of the tunnel. To be set before connecting.
    pub mark: Option<u32>,
    /// Send buffer in bytes; the kernel's automatic size if not given.
    pub send_buffer: Option<usize>,
}

/// Options of the gateway's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayTcp {
    /// Kernel keepalive.
    pub keepalive: Keepalive,
    /// How long unanswered data or probes may last before the kernel gives up; replaces the keepalive count (measured).
    /// Default 2 h.
    pub user_timeout: Duration,
}

impl Default for GatewayTcp {
    fn default() -> Self {
        Self {
            keepalive: Keepalive::default(),
            user_timeout: Duration::from_secs(7200),
        }
    }
}

/// State of a TCP connection (RFC 9293 section 3.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TcpState {
    /// Data flows.
    Established,
    /// Our SYN is out.
    SynSent,
    /// Their SYN came.
    SynReceived,
    /// We closed first, unacknowledged.
    FinWait1,
    /// We closed first, acknowledged.
    FinWait2,
    /// Closed, waiting for stray segments.
    TimeWait,
    /// No connection.
    Closed,
    /// The peer closed first.
    CloseWait,
    /// Both closed, ours unacknowledged.
    LastAck,
    /// Accepts connections.
    Listen,
    /// Both closed at once.
    Closing,
    /// A number this build does not know.
    Other(u8),
}

/// What the kernel knows about a connection (`TCP_INFO`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// State of the connection.
    pub state: TcpState,
    /// Keepalive or zero-window probes sent and not yet answered. The sensor for a silent peer.
    pub probes: u8,
    /// How often the retransmission timeout was doubled.
    pub backoff: u8,
    /// Retransmissions of the oldest segment in flight.
    pub retransmits: u8,
    /// Retransmission timeout in milliseconds.
    pub rto_ms: u32,
    /// Segments sent and not acknowledged. While this is not 0, keepalive does not probe (measured).
    pub unacked: u32,
    /// Milliseconds since the last data arrived.
    pub last_data_recv_ms: u32,
    /// Milliseconds since the last acknowledgement arrived, answers to probes included.
    pub last_ack_recv_ms: u32,
    /// Path MTU in bytes.
    pub pmtu: u32,
    /// Maximum segment size for sending, in bytes.
    pub snd_mss: u32,
    /// Smoothed round trip time in microseconds.
    pub rtt_us: u32,
}
