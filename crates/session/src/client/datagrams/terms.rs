//! What a data channel is begun with, and what it wants done.

use std::time::Duration;

use dtls::{Psk, Suite};

use crate::park::Via;

/// A socket of its own to the gateway's UDP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathId(pub(super) u32);

/// When new keys are due, and how one gets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// This long after the start of this epoch, in waking time.
    pub after: Duration,
    /// By which means.
    pub by: RenewalBy,
}

/// How keys are renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalBy {
    /// Another handshake on the same key: fresh keys, no forward secrecy. What a stock gateway means by `ssl`.
    Handshake,
    /// A CONNECT in the background, which takes the session over: forward secrecy.
    Connect,
}

/// What one CONNECT agreed on.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Exported from the TLS connection of the CONNECT.
    pub psk: Psk,
    /// `X-DTLS-App-ID`.
    pub app_id: Vec<u8>,
    /// In order of preference.
    pub suites: Vec<Suite>,
    /// The gateway is one of ours: connection ids, and old keys stay good over a take-over.
    pub ours: bool,
    /// The gateway takes over to packets what is marked on their datagrams.
    pub ecn: bool,
    /// The gateway granted parking: it may be told of a sleep and of a wake.
    pub parks: bool,
    /// Ask a silent path after this long.
    pub dpd: Option<Duration>,
    /// Send a keepalive after this long without sending.
    pub keepalive: Option<Duration>,
    /// The largest packet of the tunnel, in bytes.
    pub mtu: u16,
    /// The least that every path carries: 1280 with IPv6 in the tunnel, else 576.
    pub floor: u16,
    /// Find out what the path really carries.
    pub path_mtu_discovery: bool,
    /// When to renew keys.
    pub renewals: Vec<Renewal>,
}

/// What is to be done next.
#[derive(Debug)]
pub enum DataOutput {
    /// Open a socket for this path, then [`super::Datagrams::opened`] or [`super::Datagrams::not_opened`].
    Open(PathId),
    /// Open a socket for this path at once: what follows goes over it. There is nothing to answer.
    Rebind(PathId),
    /// Close it.
    Close(PathId),
    /// Send this datagram.
    Send(PathId, Vec<u8>),
    /// Packets take the data channel from now on.
    Up {
        /// What it is sealed with.
        suite: Suite,
        /// Whether its keys are bound to the whole handshake (RFC 7627).
        extended_master_secret: bool,
        /// Whether records carry a connection id.
        roams: bool,
    },
    /// Packets take the control channel from now on.
    Down(&'static str),
    /// The largest packet that the data channel carries has become this, in bytes.
    Mtu(u16),
    /// The session is to be connected anew, in the background.
    Renew(&'static str),
    /// The gateway knows that this host sleeps.
    Parked,
    /// The gateway knows that this host is awake again.
    Unparked(Via),
    /// It was heard: the first time since a gap, or since it was silent.
    Alive,
    /// It was asked and did not answer in time; once until it is heard again.
    Silent,
}
