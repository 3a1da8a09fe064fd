//! A program of the client's host that tries to get out, every 10 ms and by every way there is; and a count of what did.
//!
//! ```text
//!   prober (client's host) -- TCP, UDP, DNS, ICMP over IPv4 and IPv6 --> outside      eth0 ---- cable ---- router
//!                                                                                                  tcpdump: what is neither
//!                                                                                                  to the gateway's port nor DHCP nor ND
//! ```
//! Its sockets for UDP and ICMP are there from the beginning, so what they send is part of flows from before the lockdown.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use platform::netns::Namespace;
use socket2::{Domain, Protocol, Socket, Type};

use crate::ping::echo_request;
use crate::{Capture, Lab, PATIENCE, until};

/// Between two rounds.
const INTERVAL: Duration = Duration::from_millis(10);

/// Connections that are under way at a time.
const CONNECTING: usize = 8;

/// What a name server is asked for: the address of `a.`
const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";

/// The ways out, in the words of [`Clear::tally`].
pub const WAYS: [&str; 8] = [
    "tcp over IPv4",
    "udp over IPv4",
    "dns over IPv4",
    "icmp over IPv4",
    "tcp over IPv6",
    "udp over IPv6",
    "dns over IPv6",
    "icmp over IPv6",
];

/// Tries to reach somebody until it is dropped or ended.
#[derive(Debug)]
pub struct Prober {
    over: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Prober {
    /// Starts it on a host, towards these hosts.
    ///
    /// # Errors
    /// If it gets no sockets.
    pub fn start(from: &Namespace, targets: &[IpAddr]) -> Result<Self> {
        let from = from.try_clone().context("cannot hold a namespace")?;
        let (over, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (bell, count, targets) = (Arc::clone(&over), Arc::clone(&rounds), targets.to_vec());
        let thread = thread::Builder::new().name("prober".into()).spawn(move || {
            let probed = from.run(|| probe(&targets, &bell, &count));
            probed.map_err(|e| anyhow!("{e}"))?
        });
        let prober = Self {
            over,
            rounds,
            thread: Some(thread.context("cannot start a thread")?),
        };
        prober.wait_rounds(1)?;
        Ok(prober)
    }

    /// How often it has tried every way.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Waits until it has tried so many times more.
    ///
    /// # Errors
    /// If it does not.
    pub fn wait_rounds(&self, more: u64) -> Result<()> {
        let enough = self.rounds() + more;
        until("rounds of the prober", PATIENCE, || Ok(self.rounds() >= enough))
    }

    /// Ends it, and says how many rounds there were.
    ///
    /// # Errors
    /// If it could not go on.
    pub fn end(mut self) -> Result<u64> {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it ends once")?;
        thread.join().map_err(|_| anyhow!("the prober panicked"))??;
        Ok(self.rounds())
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn probe(targets: &[IpAddr], over: &AtomicBool, rounds: &AtomicU64) -> Result<()> {
    let socket = |domain, kind, protocol| -> Result<Socket> {
        let socket = Socket::new(domain, kind, Some(protocol)).context("cannot make a socket")?;
        socket.set_nonblocking(true).context("cannot have a socket not block")?;
        Ok(socket)
    };
    let udp = [
        socket(Domain::IPV4, Type::DGRAM, Protocol::UDP)?,
        socket(Domain::IPV6, Type::DGRAM, Protocol::UDP)?,
    ];
    let icmp = [
        socket(Domain::IPV4, Type::RAW, Protocol::ICMPV4)?,
        socket(Domain::IPV6, Type::RAW, Protocol::ICMPV6)?,
    ];
    let mut connecting = Vec::new();
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        for target in targets {
            let at = |port| SocketAddr::new(*target, port).into();
            let of = usize::from(target.is_ipv6());
            // Whatever the host says to it: refused, no route, not permitted. What counts is what is on the cable.
            let _ = udp[of].send_to(b"probe", &at(9));
            let _ = udp[of].send_to(QUERY, &at(53));
            let number = rounds.load(Ordering::Relaxed) as u16;
            let _ = icmp[of].send_to(&echo_request(target.is_ipv4(), number, 8), &at(0));
            let domain = if target.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
            let tcp = socket(domain, Type::STREAM, Protocol::TCP)?;
            let _ = tcp.connect(&at(80));
            connecting.push(tcp);
        }
        let old = connecting.len().saturating_sub(CONNECTING * targets.len());
        connecting.drain(..old);
        rounds.fetch_add(1, Ordering::Relaxed);
        next = (next + INTERVAL).max(Instant::now());
        while let Some(wait) = next
            .checked_duration_since(Instant::now())
            .filter(|wait| !wait.is_zero())
        {
            thread::park_timeout(wait);
        }
    }
    Ok(())
}

/// What came out of the client's host in the clear, as the router next to it sees it.
#[derive(Debug)]
pub struct Clear {
    capture: Capture,
    gateways: Vec<SocketAddr>,
}

impl Clear {
    /// Counts from now on; packets to `gateways`, over TCP and UDP, are no clear ones.
    ///
    /// # Errors
    /// If tcpdump does not begin.
    pub fn watch(lab: &Lab, name: &str, gateways: &[SocketAddr]) -> Result<Self> {
        // Left out here too, or the file would grow with whatever goes through the tunnel.
        let ours = gateways
            .iter()
            .map(|at| format!(" and not (host {} and port {})", at.ip(), at.port()));
        let matches = format!("(ip or ip6){}", ours.collect::<String>());
        Ok(Self {
            capture: Capture::incoming(lab, lab.internet(), "client", &matches, name)?,
            gateways: gateways.to_vec(),
        })
    }

    /// How many clear packets there were, by what they are.
    ///
    /// # Errors
    /// If the capture cannot be read.
    pub fn tally(&self) -> Result<BTreeMap<String, usize>> {
        let mut tally = BTreeMap::new();
        for packet in self.capture.packets()? {
            if let Some(what) = self.judge(&packet) {
                *tally.entry(what).or_default() += 1;
            }
        }
        Ok(tally)
    }

    /// Waits until packets of all [`WAYS`] have come out.
    ///
    /// # Errors
    /// If they do not.
    pub fn wait_for_all(&self) -> Result<()> {
        until("a packet by every way", PATIENCE, || {
            let tally = self.tally()?;
            Ok(WAYS.iter().all(|way| tally.keys().any(|what| what.starts_with(way))))
        })
    }

    /// What a packet is, unless it may leave.
    fn judge(&self, ip: &[u8]) -> Option<String> {
        let (v4, protocol, header, to): (bool, u8, usize, IpAddr) = match ip.first()? >> 4 {
            4 => {
                let to: [u8; 4] = ip.get(16..20)?.try_into().ok()?;
                (true, *ip.get(9)?, usize::from(ip.first()? & 15) * 4, to.into())
            }
            _ => {
                let to: [u8; 16] = ip.get(24..40)?.try_into().ok()?;
                (false, *ip.get(6)?, 40, to.into())
            }
        };
        let ports = |at: usize| Some(u16::from_be_bytes([*ip.get(header + at)?, *ip.get(header + at + 1)?]));
        let family = if v4 { "IPv4" } else { "IPv6" };
        let (from_port, port) = (ports(0)?, ports(2)?);
        let word = match protocol {
            6 | 17 if self.gateways.contains(&SocketAddr::new(to, port)) => return None,
            17 if (from_port, port) == (68, 67) || (from_port, port) == (546, 547) => return None,
            // Neighbour discovery, and membership of the groups that it uses, behind a hop-by-hop header.
            58 if matches!(ip.get(header)?, 133 | 135 | 136) => return None,
            0 if !v4 && ip.get(48) == Some(&143) => return None,
            6 => "tcp",
            17 if port == 53 => "dns",
            17 => "udp",
            1 | 58 => "icmp",
            _ => "something else",
        };
        Some(format!("{word} over {family} to {to}"))
    }
}
