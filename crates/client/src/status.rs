//! What an observer can watch.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use plan::Dns;
use platform::dns::Way;
use session::Traffic;

use crate::flows::Told;

/// The tunnel as it is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// The word of the state: idle, starting, stay_down, armed, up, reasserting, stopping, failed; of a tunnel that is up without proof of life
    /// asleep, parked or unverified.
    pub state: &'static str,
    /// When it began, in wall-clock milliseconds.
    pub since_unix_ms: u64,
    /// Which instance of the tunnel this is, or was; 0 before the first.
    pub generation: u64,
    /// Whether the tunnel is wanted up.
    pub wanted: bool,
    /// Host and port of the gateway.
    pub gateway: String,
    /// Login name, if it is configured.
    pub user: Option<String>,
    /// Why the tunnel failed, or why its last attempt to connect did.
    pub problem: Option<api::Problem>,
    /// What the gateway granted, while device and routes are there.
    pub tunnel: Option<TunnelStatus>,
    /// Sessions begun.
    pub sessions: u64,
    /// Control connections lost. None of them ends a session.
    pub path_losses: u64,
    /// Gaps in which this process did not run.
    pub clock_gaps: u64,
    /// What is counted by a word.
    pub totals: Totals,
    /// Packets and bytes of the sessions that are over.
    pub traffic: Traffic,
    /// Packets and bytes of this session, as of half a second ago, or of the last one.
    pub session_traffic: Traffic,
    /// Time from the last stop to its acknowledgement, in microseconds.
    pub stop_ack_us: Option<u64>,
    /// The last stop, as it was acknowledged.
    pub last_stop: Option<api::Down>,
    /// What is owed, as far as it was known last.
    pub owed: api::Housekeeping,
    /// Flow rules that are in the kernel.
    pub(crate) steered: Option<Arc<Told>>,
}

/// What is counted since the daemon started, by the words of logs and metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Ends of sessions that nobody here asked for, by reason.
    pub disconnects: Tally,
    /// Silences of this host, by kind.
    pub parks: Tally,
    /// Ends of them, by the way back.
    pub unparks: Tally,
    /// Wakes of this host, by kind.
    pub wakes: Tally,
    /// Attempts to connect, by trigger.
    pub attempts: Tally,
    /// Attempts that were put off, by cause.
    pub suppressed: Tally,
    /// Time in which this process did not run.
    pub clock_gap: Duration,
}

/// A number for each of a few words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// Counts one.
    pub fn add(&mut self, word: &'static str) {
        *self.0.entry(word).or_default() += 1;
    }

    /// How many there were of `word`.
    pub fn of(&self, word: &str) -> u64 {
        self.0.get(word).copied().unwrap_or(0)
    }

    /// All words that were counted.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(word, count)| (*word, *count))
    }
}

/// The name servers of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsStatus {
    /// Their addresses.
    pub servers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// The domains for which they are asked; none is every name.
    pub split: Vec<String>,
    /// Who on this host was told: resolved, resolvconf or file.
    pub way: Option<&'static str>,
    /// Why they are not in use, if they are not.
    pub problem: Option<String>,
}

impl DnsStatus {
    pub(crate) fn new(dns: &Dns, way: Option<Way>, problem: Option<String>) -> Self {
        Self {
            servers: dns.servers.clone(),
            search: dns.search.clone(),
            split: match way {
                // The others know no domains.
                Some(Way::Resolvconf | Way::File) => Vec::new(),
                Some(Way::Resolved) | None => dns.split.clone(),
            },
            way: way.map(Way::word),
            problem,
        }
    }
}

/// What a grant came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelStatus {
    /// Name of the device; `None` if it is in memory.
    pub interface: Option<String>,
    /// Addresses of this end.
    pub addresses: Vec<IpNet>,
    /// MTU in bytes.
    pub mtu: u16,
    /// The DTLS cipher suite that packets are sealed with; `None` while they take the control channel.
    pub data_channel: Option<&'static str>,
    /// Routes into the tunnel.
    pub routes: Vec<IpNet>,
    /// Name servers, if the gateway granted some and they are taken.
    pub dns: Option<DnsStatus>,
    /// Session and epoch, if the gateway is one of ours.
    pub session: Option<(String, u64)>,
    /// When the session began, in wall-clock milliseconds.
    pub started_unix_ms: u64,
}
