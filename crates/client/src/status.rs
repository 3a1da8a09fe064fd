//! What an observer in the same process can watch.

use ipnet::IpNet;
use session::Traffic;

/// The tunnel as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The word of the state: idle, starting, up, reasserting, stopping, failed.
    pub state: &'static str,
    /// What the gateway granted, while device and routes are there.
    pub tunnel: Option<TunnelStatus>,
    /// Sessions begun.
    pub sessions: u64,
    /// Control connections lost. None of them ends a session.
    pub path_losses: u64,
    /// Gaps in which this process did not run.
    pub clock_gaps: u64,
    /// Packets and bytes of the sessions that are over.
    pub traffic: Traffic,
    /// Time from the last stop to its acknowledgement, in microseconds.
    pub stop_ack_us: Option<u64>,
}

/// What a grant came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelStatus {
    /// Addresses of this end.
    pub addresses: Vec<IpNet>,
    /// MTU in bytes.
    pub mtu: u16,
    /// Routes into the tunnel.
    pub routes: Vec<IpNet>,
    /// Session and epoch, if the gateway is one of ours.
    pub session: Option<(String, u64)>,
}
