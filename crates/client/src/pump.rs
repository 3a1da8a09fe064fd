//! The pump: packets between the device and the control channel, in a task of its own.
//!
//! ```text
//!   device --recv--> Segments --Established::outgoing--+--> DataPath::send --> DTLS records --> UDP
//!                                                      +--> Channel::queue --> TLS records --> TCP  (while there is no data channel)
//!   device <--ToHost-- Established::incoming <--+-- DataPath::receive <-- UDP
//!                                               +-- Channel::next <-- TCP
//! ```
//! A control channel that is lost while a gateway of ours keeps the session does not end it: the data channel goes on alone, and
//! the shell makes another connection.
//!
//! It owns the device and both channels alone. Each wake-up looks at the clocks first: after a gap nothing old is forwarded, and no
//! deadline counts the time. It never waits for the device or the peer anywhere but in its one `select!`.

mod control;
mod idle;
mod mail;
mod packets;
mod sleep;

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use channel::{Channel, Closed};
use lifecycle::{LossKind, Mode};
use now::{Awake, Boot, Gap, GapDetector, Now};
use packet::DropReason;
use platform::clock::Ticker;
use platform::tcp::limit_unsent;
use platform::udp;
use session::client::{PathId, Word};
use session::park::Via;
use session::{EndReason, Fitter, Traffic};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep};
use wire::cstp::Frame;

use crate::attempt::Link;
use crate::clock;
use crate::datapath::{DataPath, News};
use crate::device::Device;
use crate::route::{Change, RouteWatch};
use crate::to_host::{Gathering, Parcel};

pub(crate) use control::say_goodbye;
use control::{lost, next_frame};
use idle::Use;
use mail::{Inbox, Outbox, Wanted, mail};
use packets::Rest;
pub(crate) use sleep::{Command, LONG_FREEZE};

/// Packets or frames handled before the other direction gets its turn and the socket is written: at 1,400 bytes about
/// 90 kB, a few milliseconds at 100 Mbit/s. What the device gives at once may be more.
const BATCH: usize = 64;

/// Bytes that the kernel may hold unsent on the control channel: two reads of the device. More waits in the device, and a word to the gateway
/// not behind megabytes.
const UNSENT_MAX: u32 = 128 * 1024;

/// Turns after which the shell gets its turn, whatever waits here: signals are read on the same thread. A full batch counts
/// as that many.
const TURNS: usize = 16;

/// Look at the clocks this often while there is traffic (lifecycle.md section 3).
const ACTIVE_TICK: Duration = Duration::from_millis(500);

/// And this often when there is none.
const IDLE_TICK: Duration = Duration::from_secs(5);

/// A deadline that is missed by this much is not looked at before what has arrived: a busy host is late by a few milliseconds.
const LATE: Duration = Duration::from_millis(250);

/// Traffic counts for this long.
const ACTIVE_FOR: Duration = Duration::from_secs(10);

/// Packets thrown away at once after a gap. The queue of a TUN device holds 500.
const MAX_STALE: usize = 4096;

/// Why the pump stopped.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was told to.
    Stopped,
    /// The control channel is gone; the session may live.
    Lost(LossKind, String),
    /// The session is over.
    Ended(EndReason),
    /// The device is gone.
    DeviceGone(io::Error),
}

/// What is left of a pump.
pub(crate) struct Finished {
    pub(crate) outcome: Outcome,
    pub(crate) device: Device,
    /// Kept open, so that a goodbye is not overtaken by a reset.
    pub(crate) link: Link,
    /// A stretch in which the process did not run, and the shell has not heard of it.
    pub(crate) gap: Option<Gap>,
    /// What else it has not heard.
    pub(crate) news: Vec<News>,
}

/// The shell's hold on a running pump.
pub(crate) struct Pump {
    stop: Option<oneshot::Sender<Stop>>,
    wanted: watch::Sender<Wanted>,
    inbox: Inbox,
    traffic: watch::Receiver<Traffic>,
    task: JoinHandle<Box<Finished>>,
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Without a word: the session goes on over another connection.
    Silently,
    /// With a goodbye that ends the session at the gateway, if the socket takes it at once.
    WithGoodbye,
    /// With a word that nobody is to be expected here for a while, if the socket takes it at once; the gateway keeps the session.
    Parking,
}

impl Pump {
    /// Starts pumping. `discard` throws away what waits in the device: it is old. `first` was read of it before, and goes first.
    pub(crate) fn start(device: Device, link: Link, mode: Mode, discard: bool, first: VecDeque<Box<[u8]>>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (wanted, orders) = watch::channel(Wanted::new(mode));
        let (outbox, inbox) = mail();
        let (traffic_now, traffic) = watch::channel(Traffic::default());
        let mut worker = Worker::new(device, link, outbox, traffic_now, mode);
        worker.first = first;
        Self {
            stop: Some(stop),
            wanted,
            inbox,
            traffic,
            task: tokio::spawn(worker.run((stopped, orders), discard)),
        }
    }

    /// Stops it; [`Pump::finished`] follows at once. A pump that has stopped already stays as it is.
    pub(crate) fn stop(&mut self, how: Stop) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(how);
        }
    }

    /// Tells it what the host does. It takes that before anything else.
    pub(crate) fn tell(&self, command: Command) {
        self.wanted.send_modify(|wanted| wanted.take(command));
    }

    /// What it has to say. Cancel safe; not to be called again after its end.
    pub(crate) async fn next(&mut self) -> PumpEvent {
        tokio::select! {
            biased;
            Some(gap) = self.inbox.gaps.recv() => PumpEvent::Gap(gap),
            Some(news) = self.inbox.news.recv() => PumpEvent::Told(news),
            finished = &mut self.task => PumpEvent::Finished(finished.ok()),
            Ok(()) = self.traffic.changed() => PumpEvent::Traffic(*self.traffic.borrow_and_update()),
        }
    }

    /// Waits for its end. `None` if it broke an invariant.
    pub(crate) async fn finished(self) -> Option<Box<Finished>> {
        let Self { task, inbox, .. } = self;
        let mut finished = task.await.ok()?;
        let rest = (finished.gap.take(), std::mem::take(&mut finished.news));
        (finished.gap, finished.news) = inbox.rest(rest);
        Some(finished)
    }
}

/// What a pump has to say.
pub(crate) enum PumpEvent {
    /// The process did not run for a while.
    Gap(Gap),
    /// Something about its channels.
    Told(News),
    /// What went through this connection so far.
    Traffic(Traffic),
    /// It stopped. `None` if it broke an invariant; then the device is lost.
    Finished(Option<Box<Finished>>),
}

struct Worker {
    device: Device,
    link: Link,
    outbox: Outbox,
    traffic: watch::Sender<Traffic>,
    /// The way that the control connection was made on.
    route: Option<RouteWatch>,
    detector: GapDetector,
    timer: Pin<Box<Sleep>>,
    /// Rings when the next look at the clocks is due, on the clock that runs through sleep; nothing where there is none.
    ticker: Option<Ticker>,
    /// When it rings.
    rings: Boot,
    last_traffic: Awake,
    fitter: Fitter,
    /// What the device was told to be the largest packet; nothing before the first time.
    device_mtu: Option<u16>,
    /// Whether programs use the tunnel.
    used: Use,
    /// What was read of the device before there was a connection.
    first: VecDeque<Box<[u8]>>,
    /// What the device gave.
    buffer: Box<[u8]>,
    /// What of it has not gone yet.
    rest: Option<Rest>,
    /// A packet that had to be completed.
    scratch: Vec<u8>,
    gathering: Gathering,
    /// Packets that came in frames.
    frames: Vec<Parcel>,
    /// Turns since the shell had its own.
    turns: usize,
    /// What may run.
    mode: Mode,
    /// The number of the word that was said last.
    obeyed: u32,
    /// How many looks and detours were taken notice of.
    looks: u32,
    detours: u32,
    /// The shell knows that a packet asks for the tunnel.
    demanded: bool,
}

/// What comes from the shell.
type Orders = (oneshot::Receiver<Stop>, watch::Receiver<Wanted>);

enum Woken {
    Stop(Stop),
    Wanted(Wanted),
    Room,
    Frame(Result<Frame, Closed>),
    Datagram(PathId),
    Writable,
    Packet(io::Result<usize>),
    Timer,
}

impl Worker {
    fn new(device: Device, link: Link, outbox: Outbox, traffic: watch::Sender<Traffic>, mode: Mode) -> Self {
        let now = clock::now();
        let fitter = Fitter::new(link.clamp_mss);
        let gathering = Gathering::new(&device);
        let route = link.route();
        let link_idle = link.idle;
        if let Some(channel) = &link.channel {
            // Where the system has no such limit its buffer is one.
            let _ = limit_unsent(channel.socket(), UNSENT_MAX);
        }
        Self {
            device,
            link,
            outbox,
            traffic,
            route,
            detector: GapDetector::new(now, ACTIVE_TICK),
            timer: Box::pin(sleep(ACTIVE_TICK)),
            ticker: Ticker::new().ok(),
            rings: Boot::default(),
            last_traffic: now.awake,
            fitter,
            device_mtu: None,
            used: Use::new(link_idle, now),
            first: VecDeque::new(),
            buffer: udp::Inbox::buffer(),
            rest: None,
            scratch: Vec::new(),
            gathering,
            frames: Vec::new(),
            turns: 0,
            mode,
            obeyed: 0,
            looks: 0,
            detours: 0,
            demanded: false,
        }
    }

    async fn run(mut self, mut orders: Orders, discard: bool) -> Box<Finished> {
        if discard {
            self.discard_waiting();
        }
        let outcome = loop {
            if let Err(outcome) = self.turn(&mut orders).await {
                break outcome;
            }
            self.turns += 1;
            if self.turns >= TURNS {
                self.turns = 0;
                tokio::task::yield_now().await;
            }
        };
        self.forget_stuck(DropReason::ChannelDown);
        let (gap, news) = self.outbox.rest();
        Box::new(Finished {
            outcome,
            device: self.device,
            link: self.link,
            gap,
            news,
        })
    }

    /// Sends what is to be sent, waits for one thing to happen, and handles it.
    async fn turn(&mut self, (stopped, wanted): &mut Orders) -> Result<(), Outcome> {
        if let Err(outcome) = self.send() {
            self.control_lost(outcome)?;
        }
        self.arm();
        let room = self.has_room() && !self.holds();
        let Self {
            timer,
            ticker,
            link,
            device,
            first,
            buffer,
            outbox,
            ..
        } = self;
        let Link { channel, data, .. } = link;
        let woken = tokio::select! {
            // A shell that is gone wants nothing any more.
            how = stopped => Woken::Stop(how.unwrap_or(Stop::Silently)),
            Ok(()) = wanted.changed() => Woken::Wanted(*wanted.borrow_and_update()),
            () = outbox.room() => Woken::Room,
            frame = next_frame(channel) => Woken::Frame(frame),
            path = readable(data) => Woken::Datagram(path),
            () = unstuck(data) => Woken::Writable,
            packet = next_packet(first, device, buffer), if room => Woken::Packet(packet),
            () = timer => Woken::Timer,
            () = ringing(ticker) => Woken::Timer,
        };
        let now = clock::now();
        let seen = self.look_at_clocks(now);
        let gap = seen.is_some_and(|gap| gap.length >= self.link.sleep.stale);
        match woken {
            Woken::Stop(how) => {
                if gap {
                    // As below: what waits is old, also on a link that is about to be replaced.
                    tokio::task::yield_now().await;
                    let _ = self.discard_late(now);
                }
                if let Some(seen) = seen {
                    self.outbox.tell_gap(seen);
                }
                return Err(self.stop(how, now));
            }
            Woken::Wanted(wanted) => self.obey(wanted, now),
            Woken::Room => self.outbox.flush(),
            Woken::Frame(frame) => {
                if let Err(outcome) = self.frames(frame, gap, now) {
                    self.control_lost(outcome)?;
                }
            }
            // What waits there is taken below.
            Woken::Datagram(_) if gap => {}
            Woken::Datagram(path) => self.datagrams(path, now)?,
            // What is stuck is sent below.
            Woken::Writable => {}
            Woken::Packet(Ok(length)) if gap => self.discard(length),
            Woken::Packet(packet) => {
                if let Err(outcome) = self.packets(packet, now) {
                    self.control_lost(outcome)?;
                }
            }
            Woken::Timer => {
                self.tell_traffic();
                self.look_at_use(now);
                self.look_at_route(now);
            }
        }
        if gap {
            // A process that was frozen in its wait comes out of it without having heard what is ready (EINTR). Until the runtime
            // has asked again, nothing that waits can be read.
            tokio::task::yield_now().await;
            self.discard_late(now)?;
        }
        if let Some(seen) = seen {
            // Whoever hears of it may count on being carried from now on.
            self.outbox.tell_gap(seen);
        }
        if !gap && let Err(outcome) = self.go_on(now) {
            self.control_lost(outcome)?;
        }
        if !gap && self.is_late(now) {
            // The answer that a deadline is about may wait to be read. As above, the runtime has to ask first.
            tokio::task::yield_now().await;
            self.take_waiting(now)?;
        }
        self.link.established.handle_timeout(now);
        if let Some(data) = &mut self.link.data {
            data.handle_timeout(now);
        }
        self.tell_news();
        self.tell_mtu();
        Ok(())
    }

    /// The next deadline of the channels.
    fn due(&self) -> Option<Awake> {
        let data = self.link.data.as_ref().and_then(DataPath::deadline);
        let all = self.link.established.deadline().into_iter().chain(data);
        all.map(|deadline| deadline.at).min()
    }

    /// Whether a deadline has been missed by long: this process had no processor, or not much of it.
    fn is_late(&self, now: Now) -> bool {
        self.due().is_some_and(|due| now.awake.since(due) >= LATE)
    }

    /// Takes what has arrived over both channels.
    fn take_waiting(&mut self, now: Now) -> Result<(), Outcome> {
        let paths: Vec<PathId> = self.link.data.iter().flat_map(DataPath::paths).collect();
        for path in paths {
            self.datagrams(path, now)?;
        }
        let first = self.link.channel.as_mut().map(Channel::try_next);
        let taken = match first.transpose().map(Option::flatten) {
            Ok(Some(frame)) => self.frames(Ok(frame), false, now),
            Ok(None) => Ok(()),
            Err(closed) => Err(lost(closed)),
        };
        taken.or_else(|outcome| self.control_lost(outcome))
    }

    /// Sets the timer if it fired, or would fire too late.
    fn arm(&mut self) {
        let mut next = self.detector.due();
        if let Some(due) = self.due() {
            next = next.min(due);
        }
        let (instant, awake) = (Instant::now(), clock::now().awake);
        let at = instant + next.since(awake);
        if self.timer.is_elapsed() || at < self.timer.deadline() {
            self.timer.as_mut().reset(at);
        }
        let armed = self.timer.deadline().saturating_duration_since(instant);
        self.detector.expect(awake.plus(armed));
        self.arm_ticker();
    }

    /// The timer of the runtime stands still while the host sleeps, and would see the end of a sleep up to a tick late.
    fn arm_ticker(&mut self) {
        let Some(ticker) = &mut self.ticker else { return };
        let now = clock::now();
        // Behind the timer of the runtime, which counts whole milliseconds: while the host is awake that one comes first.
        let wait = self.detector.due().since(now.awake) + Duration::from_millis(2);
        let at = now.boot.plus(wait);
        if (self.rings <= now.boot || at < self.rings) && ticker.set_in(wait).is_ok() {
            self.rings = at;
        }
    }

    /// The stretch in which the process did not run, if there was one.
    fn look_at_clocks(&mut self, now: Now) -> Option<Gap> {
        let active = now.awake.since(self.last_traffic) < ACTIVE_FOR;
        let gap = self.detector.look(now, if active { ACTIVE_TICK } else { IDLE_TICK })?;
        self.after(&gap, now);
        Some(gap)
    }

    /// Tells the device what the path carries, so that most packets fit before they come here. While packets take the control
    /// channel, which carries any, the device stays as it is.
    fn tell_mtu(&mut self) {
        let Some(mtu) = self.link.data.as_ref().and_then(DataPath::mtu) else {
            return;
        };
        let mtu = mtu.min(self.link.established.grant().mtu);
        if self.device_mtu.replace(mtu) == Some(mtu) {
            return;
        }
        match self.device.set_mtu(mtu) {
            Ok(()) => tracing::debug!(mtu, "the device takes packets as large as the path"),
            Err(error) => tracing::debug!(%error, mtu, "the device keeps its mtu"),
        }
    }

    /// Tells the shell what it is to know of the channels.
    fn tell_news(&mut self) {
        while let Some(word) = self.link.established.word() {
            self.tell(match word {
                Word::Parked => News::Parked,
                Word::Unparked => News::Unparked(Via::SamePath),
                Word::Alive => News::Alive,
                Word::Silent if self.link.data.as_ref().is_some_and(DataPath::is_up) => continue,
                Word::Silent => News::Silent,
                Word::Renew(why) => News::Renew(why),
            });
        }
        while let Some(news) = self.link.data.as_mut().and_then(DataPath::news) {
            self.tell(news);
        }
    }

    fn tell(&mut self, news: News) {
        self.outbox.tell(news);
    }

    /// Notices that packets to the gateway would take another way than they did, or have one again.
    fn look_at_route(&mut self, now: Now) {
        if let Some(data) = &mut self.link.data {
            data.look_at_address(now);
        }
        let quiet = matches!(self.mode, Mode::Asleep | Mode::Maintenance);
        let Some(change) = self.route.as_mut().filter(|_| !quiet).and_then(RouteWatch::look) else {
            return;
        };
        tracing::debug!(?change, "the way to the gateway has changed");
        self.tell(News::PathChange);
        // In a wake of unknown kind the news is what asks for the tunnel.
        if self.mode != Mode::Awake {
            return;
        }
        match (&mut self.link.data, change) {
            (Some(data), Change::Moved) if data.is_up() => {}
            (Some(data), Change::Back) if data.is_up() => data.ask_anew(now),
            (Some(_) | None, Change::Moved) => {
                // The connection leaves from an address that leads elsewhere now, or nowhere.
                self.tell(News::Renew("the address changed"));
                self.ask_control(now);
            }
            (Some(_) | None, Change::Back) => self.ask_control(now),
        }
    }

    fn ask_control(&mut self, now: Now) {
        if self.link.channel.is_some() {
            self.link.established.ask(now);
        }
    }

    /// Says what went through, if that is news.
    fn tell_traffic(&self) {
        let now = *self.link.established.traffic();
        self.traffic
            .send_if_modified(|told| std::mem::replace(told, now) != now);
    }
}

/// What was read before goes first. Cancel safe.
async fn next_packet(first: &mut VecDeque<Box<[u8]>>, device: &mut Device, buffer: &mut [u8]) -> io::Result<usize> {
    match take_first(first, buffer) {
        Some(length) => Ok(length),
        None => device.recv(buffer).await,
    }
}

fn take_first(first: &mut VecDeque<Box<[u8]>>, buffer: &mut [u8]) -> Option<usize> {
    let read = first.pop_front()?;
    buffer[..read.len()].copy_from_slice(&read);
    Some(read.len())
}

/// Waits for the ticker, for ever where there is none.
async fn ringing(ticker: &mut Option<Ticker>) {
    if let Some(ticker) = ticker
        && ticker.tick().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Waits until the data channel takes more, for ever where it does already.
async fn unstuck(data: &Option<DataPath>) {
    match data {
        Some(data) => data.unstuck().await,
        None => std::future::pending().await,
    }
}

/// Waits for a datagram of the data channel, for ever where there is none.
async fn readable(data: &Option<DataPath>) -> PathId {
    match data {
        Some(data) => data.readable().await,
        None => std::future::pending().await,
    }
}
