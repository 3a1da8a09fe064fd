//! Numbered datagrams from one host to another: how many arrive, in which order, and how late each is.
//!
//! ```text
//!   sender --| number | time | filler |--> tunnel --> receiver: received, overtaken, delays
//! ```
//! Both ends are threads of this program, so that they have one clock.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use packet::Ecn;
use platform::netns::Namespace;
use platform::udp::Udp;
use socket2::SockRef;

use crate::{Times, ms};

/// Number and time.
const HEADER: usize = 16;

/// What may still be under way when the sender has stopped.
const LAST: Duration = Duration::from_millis(500);

/// Delays that are kept; every so many datagrams one, if there are more.
const DELAYS: u64 = 100_000;

/// Room for datagrams that arrive while the receiver has no processor, in bytes. Without privileges the kernel gives less.
const ROOM: usize = 4 << 20;

/// Datagrams under way until asked how they fared.
#[derive(Debug)]
pub struct Numbered {
    over: Arc<AtomicBool>,
    counts: Arc<Counts>,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<Fared>>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
}

/// How datagrams fared.
#[derive(Clone, Debug, Default)]
pub struct Fared {
    /// Handed to the kernel.
    pub sent: u64,
    /// Arrived.
    pub received: u64,
    /// Of these, those with a lower number than one before.
    pub overtaken: u64,
    /// From sender to receiver.
    pub delays: Times,
}

impl Fared {
    /// The share that arrived.
    pub fn share(&self) -> f64 {
        self.received as f64 / self.sent.max(1) as f64
    }
}

impl std::fmt::Display for Fared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} of {} arrived, {} overtaken, delay median {} ms, p99 {} ms",
            self.received,
            self.sent,
            self.overtaken,
            ms(self.delays.median()),
            ms(self.delays.p99())
        )
    }
}

impl Numbered {
    /// Starts datagrams of `bytes` (the UDP payload) from one host to another, at `to` for the first and any port there: one in each
    /// `pace`, or as many as it takes.
    ///
    /// # Errors
    /// If a socket cannot be made.
    pub fn start(
        (from, into): (&Namespace, &Namespace),
        to: impl Into<IpAddr>,
        bytes: usize,
        pace: Option<Duration>,
    ) -> Result<Self> {
        let receiver = into.run(|| UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))))?;
        let receiver = receiver.context("cannot listen in the lab")?;
        let _ = SockRef::from(&receiver).set_recv_buffer_size(ROOM);
        receiver.set_read_timeout(Some(LAST)).context("cannot set a deadline")?;
        let to = SocketAddr::new(to.into(), receiver.local_addr()?.port());
        let sender = from.run(|| {
            let socket = match to {
                SocketAddr::V4(_) => UdpSocket::bind("0.0.0.0:0"),
                SocketAddr::V6(_) => UdpSocket::bind("[::]:0"),
            }?;
            socket.connect(to)?;
            Ok::<_, std::io::Error>(socket)
        })?;
        let sender = sender.context("cannot send in the lab")?;
        let (over, counts, began) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(Counts::default()),
            Instant::now(),
        );
        let (bell, sent) = (Arc::clone(&over), Arc::clone(&counts));
        let (told, received) = (Arc::clone(&over), Arc::clone(&counts));
        let bytes = bytes.max(HEADER);
        Ok(Self {
            over,
            counts,
            sender: Some(thread::spawn(move || {
                send(&sender, (bytes, pace, began), &bell, &sent.sent)
            })),
            receiver: Some(thread::spawn(move || {
                receive(&receiver, began, &told, &received.received)
            })),
        })
    }

    /// How many have been sent so far.
    pub fn sent(&self) -> u64 {
        self.counts.sent.load(Ordering::Relaxed)
    }

    /// How many have arrived so far.
    pub fn received(&self) -> u64 {
        self.counts.received.load(Ordering::Relaxed)
    }

    /// Ends them, and says how they fared.
    ///
    /// # Errors
    /// If a thread panicked.
    pub fn end(mut self) -> Result<Fared> {
        self.over.store(true, Ordering::Relaxed);
        let sender = self.sender.take().context("they end once")?;
        sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        let receiver = self.receiver.take().context("they end once")?;
        let mut fared = receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        fared.sent = self.sent();
        Ok(fared)
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn send(
    socket: &UdpSocket,
    (bytes, pace, began): (usize, Option<Duration>, Instant),
    over: &AtomicBool,
    sent: &AtomicU64,
) {
    let mut datagram = vec![0x5a; bytes];
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        if let Some(pace) = pace {
            let now = Instant::now();
            if let Some(wait) = next.checked_duration_since(now) {
                thread::park_timeout(wait);
                continue;
            }
            // One that comes late is not made up for by two at once.
            next = now + pace;
        }
        let number = sent.load(Ordering::Relaxed);
        datagram[..8].copy_from_slice(&number.to_be_bytes());
        let time = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        datagram[8..HEADER].copy_from_slice(&time.to_be_bytes());
        // What cannot be sent is lost, too.
        let _ = socket.send(&datagram);
        sent.store(number + 1, Ordering::Relaxed);
    }
}

fn receive(socket: &UdpSocket, began: Instant, over: &AtomicBool, received: &AtomicU64) -> Fared {
    let mut fared = Fared::default();
    let mut newest = None;
    let mut datagram = [0; 1 << 16];
    loop {
        match socket.recv(&mut datagram) {
            Ok(length) if length >= HEADER => {
                let word = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| datagram[at + i]));
                let (number, sent) = (word(0), Duration::from_nanos(word(8)));
                fared.received += 1;
                if newest > Some(number) {
                    fared.overtaken += 1;
                }
                newest = newest.max(Some(number));
                if fared.received < DELAYS || fared.received.is_multiple_of(64) {
                    fared.delays.push(began.elapsed().saturating_sub(sent));
                }
                received.store(fared.received, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if over.load(Ordering::Relaxed) {
                    return fared;
                }
            }
            // A report about something else.
            Err(_) => {}
        }
    }
}

/// Sends `count` datagrams of `bytes` (the UDP payload) from a host in one call, which the kernel hands on as one packet where all links between let
/// it (`UDP_SEGMENT`): for a gateway's device that is one read.
///
/// # Errors
/// If they cannot be sent.
pub fn burst(from: &Namespace, (to, port): (IpAddr, u16), count: usize, bytes: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.context("cannot make a runtime")?;
    let sent = from.run(|| {
        let _inside = runtime.enter();
        let socket = Udp::connect(SocketAddr::new(to, port), None)?;
        socket
            .try_send_many(&vec![0x5a; count * bytes], bytes, Ecn::default())
            .map_err(|unsent| std::io::Error::other(unsent.fault))
    })?;
    sent.context("cannot send many datagrams")
}
