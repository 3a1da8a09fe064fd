//! The lookout of an armed tunnel: it reads the device while there is no connection, holds what programs send, and says so.
//!
//! ```text
//!   device --recv--> does a program ask for the tunnel? --no--> dropped, counted
//!                               | yes
//!                               v
//!                      Held: oldest ... newest --> Demand, at once and then once a second
//!                        |                 |
//!     older than 10 s: ICMP unreachable    +--> to the pump, first and in order, when a connection stands
//! ```
//! A task of its own that owns the device. After a gap all that waited is old, here as in a pump.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use lifecycle::Mode;
use now::{Awake, Gap, GapDetector, Now};
use packet::{DropCounters, DropReason, IpPacket, TooBigLimit, unreachable};
use platform::udp;
use session::client::asks_for_tunnel;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::clock;
use crate::device::Device;

/// No packet is held for longer: by then a TCP handshake has been tried four times, and a person has looked up.
pub(crate) const HOLD_FOR: Duration = Duration::from_secs(10);

/// As long as something is held, the shell is told again after this.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// With nothing held there is nothing to do but to look at the clocks.
const IDLE_TICK: Duration = Duration::from_secs(5);

/// Packets thrown away at once after a gap. The queue of a TUN device holds 500.
const MAX_STALE: usize = 4096;

/// Reads taken until the shell gets its turn.
const BATCH: usize = 64;

/// News that the shell has not taken yet. More of them say nothing new.
const MAX_NEWS: usize = 8;

/// How much is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) packets: usize,
    pub(crate) bytes: usize,
    /// A gap of this length makes old what waited.
    pub(crate) stale: Duration,
}

/// What programs sent while there was no connection.
#[derive(Debug)]
pub(crate) struct Held {
    reads: VecDeque<Read>,
    packets: usize,
    bytes: usize,
    limits: Limits,
    /// What was dropped since the watch began.
    pub(crate) dropped: DropCounters,
}

#[derive(Debug)]
struct Read {
    at: Awake,
    /// As the device gave it.
    bytes: Box<[u8]>,
    packets: usize,
}

impl Held {
    fn new(limits: Limits) -> Self {
        Self {
            reads: VecDeque::new(),
            packets: 0,
            bytes: 0,
            limits,
            dropped: DropCounters::default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    /// Holds a read; the oldest give way.
    fn hold(&mut self, bytes: &[u8], packets: usize, at: Awake) {
        self.packets += packets;
        self.bytes += bytes.len();
        let bytes = bytes.into();
        self.reads.push_back(Read { at, bytes, packets });
        while self.packets > self.limits.packets || self.bytes > self.limits.bytes {
            let Some(oldest) = self.pop() else { break };
            self.drop_packets(DropReason::QueueFull, oldest.packets);
        }
    }

    fn pop(&mut self) -> Option<Read> {
        let read = self.reads.pop_front()?;
        self.packets -= read.packets;
        self.bytes -= read.bytes.len();
        Some(read)
    }

    /// The oldest, if it is too old.
    fn expired(&mut self, now: Awake) -> Option<Read> {
        let old = self.reads.front().is_some_and(|read| now.since(read.at) >= HOLD_FOR);
        if old { self.pop() } else { None }
    }

    /// There is nobody who would carry it.
    pub(crate) fn give_up(&mut self) {
        self.drop_all(DropReason::ChannelDown);
    }

    fn drop_all(&mut self, reason: DropReason) {
        while let Some(read) = self.pop() {
            self.drop_packets(reason, read.packets);
        }
    }

    fn drop_packets(&mut self, reason: DropReason, packets: usize) {
        self.dropped.count_many(reason, packets as u64);
    }

    /// What is left for a connection with these addresses, oldest first. What comes from another address can have no answer;
    /// its senders are told.
    pub(crate) fn for_addresses(
        mut self,
        device: &Device,
        addresses: &[IpAddr],
    ) -> (VecDeque<Box<[u8]>>, DropCounters) {
        let mut answers = Answers::default();
        let now = clock::now().awake;
        let mut left = VecDeque::new();
        while let Some(read) = self.pop() {
            if source_of(device, &read.bytes).is_some_and(|source| addresses.contains(&source)) {
                left.push_back(read.bytes);
            } else {
                self.drop_packets(DropReason::ForeignSource, read.packets);
                answers.answer(device, &read.bytes, now);
            }
        }
        (left, self.dropped)
    }
}

fn source_of(device: &Device, read: &[u8]) -> Option<IpAddr> {
    let segments = device.segments(read).ok()?;
    Some(IpPacket::parse(segments.whole()).ok()?.source())
}

/// Tells senders that nothing came of their packets, a few times a second.
#[derive(Debug, Default)]
struct Answers {
    limit: TooBigLimit,
    answer: Vec<u8>,
}

impl Answers {
    fn answer(&mut self, device: &Device, read: &[u8], now: Awake) {
        let Ok(segments) = device.segments(read) else { return };
        let Ok(packet) = IpPacket::parse(segments.whole()) else {
            return;
        };
        if self.limit.allow(now.since_origin()) && unreachable(&packet, packet.destination(), &mut self.answer) {
            // Whoever does not take it waits for as long as its own patience lasts.
            let _ = device.try_send(&self.answer);
        }
    }
}

/// What a lookout has to say.
#[derive(Debug)]
pub(crate) enum Sight {
    /// The process did not run for a while.
    Gap(Gap),
    /// Something is held.
    Demand,
    /// What was dropped so far.
    Dropped(DropCounters),
    /// It has ended by itself: the device is gone.
    Gone,
}

/// What is left of a lookout.
pub(crate) struct Watched {
    pub(crate) device: Device,
    pub(crate) held: Held,
    /// Why it ended by itself.
    pub(crate) gone: Option<io::Error>,
}

/// The shell's hold on a lookout.
pub(crate) struct Lookout {
    stop: Option<oneshot::Sender<()>>,
    mode: watch::Sender<Mode>,
    sights: mpsc::Receiver<Sight>,
    task: JoinHandle<Box<Watched>>,
}

impl Lookout {
    /// Watches a device. `own` are the addresses from which programs ask.
    pub(crate) fn start(device: Device, own: Vec<IpAddr>, limits: Limits, mode: Mode) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (mode, modes) = watch::channel(mode);
        let (tell, sights) = mpsc::channel(MAX_NEWS);
        let worker = Worker {
            device,
            own,
            held: Held::new(limits),
            answers: Answers::default(),
            tell,
            told: DropCounters::default(),
            asked: None,
            buffer: udp::Inbox::buffer(),
        };
        Self {
            stop: Some(stop),
            mode,
            sights,
            task: tokio::spawn(worker.run(stopped, modes)),
        }
    }

    /// What may run.
    pub(crate) fn mode(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// What it sees. Cancel safe.
    pub(crate) async fn next(&mut self) -> Sight {
        match self.sights.recv().await {
            Some(sight) => sight,
            None => Sight::Gone,
        }
    }

    /// Ends it; [`Lookout::finished`] follows at once.
    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// What is left of it. `None` if it broke an invariant.
    pub(crate) async fn finished(mut self) -> Option<Box<Watched>> {
        self.stop();
        self.task.await.ok()
    }
}

struct Worker {
    device: Device,
    own: Vec<IpAddr>,
    held: Held,
    answers: Answers,
    tell: mpsc::Sender<Sight>,
    told: DropCounters,
    /// When the shell was told last that something is held.
    asked: Option<Awake>,
    buffer: Box<[u8]>,
}

impl Worker {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>, mut modes: watch::Receiver<Mode>) -> Box<Watched> {
        let mut gone = None;
        let mut detector = GapDetector::new(clock::now(), self.wait());
        loop {
            let wait = self.wait();
            detector.expect(clock::now().awake.plus(wait));
            let read = tokio::select! {
                biased;
                // A shell that is gone wants nothing any more.
                _ = &mut stopped => break,
                Ok(()) = modes.changed() => {
                    // Whoever still waits asks again.
                    self.asked = None;
                    None
                }
                read = self.device.recv(&mut self.buffer) => Some(read),
                () = sleep(wait) => None,
            };
            let now = clock::now();
            let gap = detector.look(now, wait);
            if let Some(gap) = gap {
                self.gap(gap).await;
            }
            let old = gap.is_some_and(|gap| gap.length >= self.held.limits.stale);
            if let Err(error) = self.take(read, old, now) {
                gone = Some(error);
                break;
            }
            self.expire(now.awake);
            let mode = *modes.borrow_and_update();
            self.ask(mode, now.awake);
            self.tell_dropped();
            // What is taken at once never waits.
            tokio::task::yield_now().await;
        }
        let Self { device, held, .. } = self;
        Box::new(Watched { device, held, gone })
    }

    fn wait(&self) -> Duration {
        if self.held.is_empty() { IDLE_TICK } else { ASK_EVERY }
    }

    /// What waited through it is old.
    async fn gap(&mut self, gap: Gap) {
        if gap.length >= self.held.limits.stale {
            self.held.drop_all(DropReason::Stale);
            // Until the runtime has asked again, nothing that waits can be read.
            tokio::task::yield_now().await;
            for _ in 0..MAX_STALE {
                let Ok(length) = self.device.try_recv(&mut self.buffer) else {
                    break;
                };
                self.discard(length);
            }
        }
        // A queue that is full holds one that says as much.
        let _ = self.tell.try_send(Sight::Gap(gap));
    }

    fn discard(&mut self, length: usize) {
        let packets = self.device.segments(&self.buffer[..length]).map_or(1, |all| all.left());
        self.held.drop_packets(DropReason::Stale, packets);
    }

    fn take(&mut self, read: Option<io::Result<usize>>, old: bool, now: Now) -> io::Result<()> {
        let Some(mut read) = read else { return Ok(()) };
        for _ in 0..BATCH {
            match read {
                Ok(length) if old => self.discard(length),
                Ok(length) => self.packet(length, now.awake),
                Err(error) if Device::is_gone(&error) => return Err(error),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => self.held.drop_packets(DropReason::DeviceRefused, 1),
            }
            read = self.device.try_recv(&mut self.buffer);
        }
        Ok(())
    }

    fn packet(&mut self, length: usize, now: Awake) {
        let read = &self.buffer[..length];
        let segments = match self.device.segments(read) {
            Ok(segments) => segments,
            Err(reason) => return self.held.drop_packets(reason, 1),
        };
        let packets = segments.left();
        match IpPacket::parse(segments.whole()) {
            Ok(packet) if asks_for_tunnel(&packet, |address| self.own.contains(&address)) => {
                self.held.hold(read, packets, now);
            }
            Ok(packet) if !self.own.contains(&packet.source()) => {
                self.held.drop_packets(DropReason::ForeignSource, packets);
            }
            // How hosts keep house among themselves is nobody's business here.
            Ok(_) => self.held.drop_packets(DropReason::NotForwardable, packets),
            Err(reason) => self.held.drop_packets(reason, packets),
        }
    }

    fn expire(&mut self, now: Awake) {
        while let Some(read) = self.held.expired(now) {
            self.held.drop_packets(DropReason::ChannelDown, read.packets);
            self.answers.answer(&self.device, &read.bytes, now);
        }
    }

    /// Says that something is held, unless that was said a moment ago or is nothing to act on.
    fn ask(&mut self, mode: Mode, now: Awake) {
        let awake = matches!(mode, Mode::Awake | Mode::Unsure);
        let lately = self.asked.is_some_and(|asked| now.since(asked) < ASK_EVERY);
        if self.held.is_empty() {
            self.asked = None;
        } else if awake && !lately && self.tell.try_send(Sight::Demand).is_ok() {
            self.asked = Some(now);
        }
    }

    fn tell_dropped(&mut self) {
        let dropped = self.held.dropped;
        if dropped != self.told && self.tell.try_send(Sight::Dropped(dropped)).is_ok() {
            self.told = dropped;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::device::{MemoryDevice, MemoryHost};
    use crate::testing::PATIENCE;

    const OWN: [u8; 4] = [10, 78, 0, 2];

    fn segment(source: [u8; 4], to: [u8; 4], number: u8) -> Vec<u8> {
        let mut packet = vec![number; 40];
        packet[..10].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6]);
        packet[12..16].copy_from_slice(&source);
        packet[16..20].copy_from_slice(&to);
        packet
    }

    fn watch(packets: usize) -> (Lookout, MemoryHost) {
        let (device, host) = MemoryDevice::pair(64);
        let limits = Limits {
            packets,
            bytes: 100_000,
            stale: Duration::from_secs(2),
        };
        let own = vec![OWN.into()];
        (Lookout::start(Device::Memory(device), own, limits, Mode::Awake), host)
    }

    async fn sight(lookout: &mut Lookout) -> Sight {
        timeout(PATIENCE, lookout.next()).await.expect("in time")
    }

    #[tokio::test]
    async fn what_programs_send_is_held_in_order_and_the_oldest_give_way() {
        let (mut lookout, host) = watch(4);
        for number in 0..10 {
            let packet = segment(OWN, [10, 77, 0, 1], number);
            host.to_tunnel.send(packet.into()).await.expect("room");
        }
        let (mut asked, mut dropped) = (0, 0);
        while asked == 0 || dropped < 6 {
            match sight(&mut lookout).await {
                Sight::Demand => asked += 1,
                Sight::Dropped(drops) => dropped = drops.of(DropReason::QueueFull),
                other => panic!("{other:?}"),
            }
        }
        let watched = lookout.finished().await.expect("no panic");
        let (left, drops) = watched.held.for_addresses(&watched.device, &[OWN.into()]);
        let numbers: Vec<u8> = left.iter().map(|packet| packet[39]).collect();
        assert_eq!(numbers, [6, 7, 8, 9]);
        assert_eq!(drops.total(), 6);
    }

    #[tokio::test]
    async fn what_hosts_say_among_themselves_asks_for_nothing() {
        let (mut lookout, host) = watch(4);
        let strangers = segment([10, 78, 0, 9], [10, 77, 0, 1], 1);
        let multicast = segment(OWN, [224, 0, 0, 251], 2);
        for packet in [strangers, multicast, b"garbage".to_vec()] {
            host.to_tunnel.send(packet.into()).await.expect("room");
        }
        let mut dropped = 0;
        while dropped < 3 {
            match sight(&mut lookout).await {
                Sight::Dropped(drops) => dropped = drops.total(),
                other => panic!("{other:?}"),
            }
        }
        lookout.mode(Mode::Asleep);
        let watched = lookout.finished().await.expect("no panic");
        assert!(watched.held.is_empty() && watched.gone.is_none());
    }

    #[tokio::test]
    async fn whoever_sent_from_an_address_that_is_gone_is_told() {
        let (mut lookout, mut host) = watch(4);
        let packet = segment(OWN, [10, 77, 0, 1], 1);
        host.to_tunnel.send(packet.clone().into()).await.expect("room");
        assert!(matches!(sight(&mut lookout).await, Sight::Demand));
        let watched = lookout.finished().await.expect("no panic");
        let (left, drops) = watched.held.for_addresses(&watched.device, &[[10, 78, 0, 3].into()]);
        assert!(left.is_empty());
        assert_eq!(drops.of(DropReason::ForeignSource), 1);
        let answer = host.from_tunnel.try_recv().expect("an answer");
        assert_eq!((&answer[20..22], &answer[28..]), (&[3, 1][..], &packet[..]));
    }

    #[tokio::test]
    async fn a_device_that_is_gone_is_told() {
        let (mut lookout, host) = watch(4);
        drop(host);
        assert!(matches!(sight(&mut lookout).await, Sight::Gone));
        assert!(lookout.finished().await.expect("no panic").gone.is_some());
    }
}
