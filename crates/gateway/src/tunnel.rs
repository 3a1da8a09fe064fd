//! One connected client: frames from its channel to the switch, packets from the switch to its channel.
//!
//! ```text
//!   control connection --frames--+                        +-- downlink --> data channel, control connection, or nowhere
//!   data channel ------records---+--> run(): one at a time +-- presence --> attendance, session room, what may be said
//!   switch ------------packets---+                        +-- lost() ---> goes on with the data channel alone, or ends
//! ```
//! Silence ends nothing here. A client that says nothing may sleep: it is parked, nothing is queued for it, and its keys stay
//! in memory. The tunnel of a client that can park outlives its control connection for as long as it has a data channel; its
//! place among the connections is free again at once.

mod downlink;
mod presence;

use std::collections::VecDeque;
use std::future::pending;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use channel::{Channel, Closed};
use config::gateway::GatewayConfig;
use now::{Awake, Deadline, Now};
use packet::DropReason;
use platform::tcp::limit_unsent;
use session::gateway::Established;
use session::park::Attendance;
use session::{EndReason, Fitter, Output, Received};
use socket2::SockRef;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{sleep_until, timeout};
use wire::cstp::{Frame, Kind};

use crate::access::Access;
use crate::clock::instant;
use crate::datagrams::{Arrival, Granted, Inheritance};
use crate::datapath::{DataPath, Inlet};
use crate::desk::{News, Pen};
use crate::listener::{Guest, Lone};
use crate::load::Load;
use crate::outlet::Outlet;
use crate::queue::Receiver;
use crate::refusal::Refusal;
use crate::sessions::{Left, Report};
use crate::worker::{Order, Seat, Worker};

/// Frames handled before the other direction and the other tasks get their turn.
const BATCH: usize = 64;

/// How long a last frame may take to reach the kernel's send buffer.
const FAREWELL: Duration = Duration::from_millis(100);

/// How long the client may take to read its last frame and close. Closing at once would reset the connection if packets of
/// the client are on their way, and the reset overtakes the frame.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Bytes of TLS records waiting for TCP above which a packet stays where it is. What is sealed cannot be dropped any more
/// when the client is parked, and a parked session is to keep no more than 16 KiB beside one frame.
const SEALED_MAX: usize = 12 * 1024;

/// The same for an active client whose TCP takes what it is given: one read of the device, in one write. One that stops right then leaves as much
/// here, once.
const SEALED_FLOWING: usize = 64 * 1024;

/// Between two reports for status. A tunnel in which nothing happens has nothing to report.
const REPORTS: Duration = Duration::from_secs(15);

/// Bytes that the kernel may hold unsent for a client, so that one that does not read costs no more, and a control frame does
/// not wait behind seconds of data. A smaller send buffer beside it saves nothing (measured: 10 KiB queued for a client that
/// was stopped, 30 KiB for one whose path was cut, with 64 KiB of buffer as with 4 MiB).
const UNSENT_MAX: u32 = 16 * 1024;

/// A control connection, and its place among the connections.
pub(crate) struct Line {
    pub(crate) channel: Channel,
    pub(crate) guest: Guest,
}

/// What the client was granted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// The largest packet, in bytes.
    pub(crate) mtu: u16,
    /// It may park.
    pub(crate) parks: bool,
    /// Frames may hold several packets.
    pub(crate) bundles: bool,
}

/// What the configuration at the beginning of a tunnel says about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    idle: Option<Duration>,
    /// A client that is quiet for so long is asked.
    quiet: Duration,
    /// How long TCP is silent before it asks, and between the first two times.
    keepalive: Duration,
    mss_clamp: bool,
}

impl Manners {
    /// Those of this configuration.
    pub(crate) fn of(config: &GatewayConfig) -> Self {
        let keepalive = config.tcp.keepalive;
        Self {
            idle: config.session.idle_timeout,
            quiet: config.park.quiet,
            keepalive: keepalive.idle + keepalive.interval,
            mss_clamp: config.dtls.mss_clamp,
        }
    }
}

/// Carries a client's packets until its session ends or has to wait, and reports that to the session room.
pub(crate) async fn carry(
    worker: &Worker,
    (mut seat, group): (Seat, Option<String>),
    line: Line,
    granted: Option<Granted>,
    (terms, manners): (Terms, Manners),
) {
    let (id, epoch, lease) = (seat.session, seat.epoch, seat.lease);
    let now = worker.clock.now();
    let _ = limit_unsent(line.channel.socket(), UNSENT_MAX);
    let access = worker.access();
    let mut established = Established::new(lease, terms.mtu, manners.idle, now).with_bundles(terms.bundles);
    established.set_access(access.of(group.as_deref()));
    let mut tunnel = Tunnel {
        worker,
        group,
        access,
        refusal: Refusal::default(),
        pen: Pen::new(worker.desk.clone(), id, epoch),
        parks: terms.parks,
        line: Some(line),
        lone: None,
        established,
        data: granted.map(|granted| DataPath::new(&worker.datagrams, granted, id)),
        attendance: Attendance::new(manners.quiet, manners.keepalive, now),
        flows: false,
        reported: now.awake,
        question: false,
        rest: None,
        scratch: Vec::new(),
        unsaid: VecDeque::new(),
    };
    let mut fitter = Fitter::new(manners.mss_clamp);
    tunnel.inherit(&mut seat).await;
    let over = tunnel.run(&mut seat, &mut fitter).await;
    // A client that connected anew closes the connection before: who sees that first must not miss the order.
    let over = match over {
        Over::Detached(why) => seat
            .orders
            .try_recv()
            .map_or(Over::Detached(why), |order| ordered(Some(order))),
        over @ (Over::Ended(_) | Over::GivenWay(_) | Over::EndedFromOutside(_) | Over::Stopping) => over,
    };
    tunnel.end(over).await;
}

/// Why a tunnel is over.
enum Over {
    /// The connection is of no use any more.
    Detached(String),
    /// The session is over.
    Ended(EndReason),
    /// Another connection of the session took over, and wants the data channel.
    GivenWay(Option<oneshot::Sender<Inheritance>>),
    /// Somebody else ended the session.
    EndedFromOutside(EndReason),
    /// The gateway stops. Clients are not told, so that they come back when it runs again.
    Stopping,
}

/// What the client still hears.
enum LastWord {
    /// Nothing: the connection is broken.
    None,
    /// The TLS farewell.
    Close,
    /// Why its session is over, and the TLS farewell. A stock client does not come back after this.
    Reason(EndReason),
}

/// What woke a tunnel.
enum Event {
    Frame(Result<Frame, Closed>),
    /// TCP has taken what stood in the way of packets.
    Room,
    Packet(Option<Load>),
    Arrival(Arrival),
    Order(Over),
    Timer,
    Stop,
}

struct Tunnel<'a> {
    worker: &'a Worker,
    /// What it tells the session room with.
    pen: Pen,
    /// Logged in to which group.
    group: Option<String>,
    /// What it goes by.
    access: Arc<Access>,
    /// What the client is told of packets that are not allowed.
    refusal: Refusal,
    parks: bool,
    /// The control connection, until it is lost.
    line: Option<Line>,
    /// Counts the tunnel among those without a connection.
    lone: Option<Lone>,
    established: Established,
    data: Option<DataPath<'a>>,
    attendance: Attendance,
    /// TCP took all it was given last.
    flows: bool,
    /// When the session room heard last what was carried, for status.
    reported: Awake,
    /// The client is to be asked for a word over the control connection, as soon as that may be.
    question: bool,
    /// What is left of a load, when its channel has room again.
    rest: Option<Load>,
    /// A packet that had to be completed.
    scratch: Vec<u8>,
    /// Control frames for a client that is not active, until the one before has been acknowledged.
    unsaid: VecDeque<(Kind, Vec<u8>)>,
}

impl Tunnel<'_> {
    /// Goes on with the data channel of the tunnel before.
    async fn inherit(&mut self, seat: &mut Seat) {
        let Self {
            worker,
            established,
            data,
            refusal,
            ..
        } = self;
        if let (Some(data), Some(estate)) = (data, seat.estate.take()) {
            let now = worker.clock.now();
            // What waits there is opened behind an await, during which others use the common outlet.
            let mut outlet = Outlet::new(None);
            let inlet = &mut Inlet {
                established,
                outlet: &mut outlet,
                refusal,
            };
            data.inherit(estate, now, inlet).await;
            worker.switch.outlet().take_over(outlet);
            self.send_out();
        }
    }

    async fn run(&mut self, seat: &mut Seat, fitter: &mut Fitter) -> Over {
        let mut stopping = self.worker.stopping.clone();
        let mut missed = self.worker.clock.missed();
        loop {
            self.pen.settle().await;
            if let Err(closed) = self.send_some()
                && let Some(over) = self.lost(&closed, self.worker.clock.now())
            {
                return over;
            }
            let room = self.takes_packets();
            let deadline = self.deadline();
            let timer = async {
                match deadline {
                    Some(deadline) => sleep_until(instant(deadline.at, platform::clock::now())).await,
                    None => pending().await,
                }
            };
            let event = tokio::select! {
                frame = frame(&mut self.line, room) => frame.transpose().map_or(Event::Room, Event::Frame),
                load = load(&mut self.rest, &mut seat.packets), if room => Event::Packet(load),
                arrival = arrival(&mut self.data) => Event::Arrival(arrival),
                order = &mut seat.orders => Event::Order(ordered(order.ok())),
                () = timer => Event::Timer,
                _ = stopping.wait_for(|stopping| *stopping) => Event::Stop,
            };
            let now = self.worker.clock.now();
            if let Some(gap) = self.worker.clock.gap_since(&mut missed) {
                self.established.rebase(&gap);
                self.attendance.rebase(&gap, now);
                if let Some(data) = &mut self.data {
                    data.rebase(&gap);
                }
            }
            if let Some(over) = self.handle(event, seat, fitter, now).await {
                return over;
            }
            if now.awake.since(self.reported) >= REPORTS {
                self.report(now);
            }
        }
    }

    fn report(&mut self, now: Now) {
        self.reported = now.awake;
        let report = Report {
            traffic: *self.established.traffic(),
            data_channel: self.data.as_ref().is_some_and(DataPath::is_up),
            quiet: !self.attendance.is_active() && self.attendance.parked().is_none(),
        };
        self.pen.say(News::Report(report));
    }

    async fn handle(&mut self, event: Event, seat: &mut Seat, fitter: &mut Fitter, now: Now) -> Option<Over> {
        if let Some(access) = self.worker.other_access(&self.access) {
            self.established.set_access(access.of(self.group.as_deref()));
            self.access = access;
        }
        let handled = match event {
            Event::Frame(Ok(frame)) => {
                let taken = self.take_frames(frame, now);
                if let Ok(BATCH) = taken {
                    // There are likely more: a client that sends without end must not have the only thread to itself.
                    yield_now().await;
                }
                taken.map(drop)
            }
            Event::Frame(Err(closed)) => Err(closed),
            Event::Room => Ok(()),
            Event::Arrival(arrival) => {
                let taken = self.take_arrivals(arrival, now);
                if let Ok(true) = taken {
                    yield_now().await;
                }
                taken.map(drop)
            }
            Event::Packet(Some(packet)) => self.packets(packet, &mut seat.packets, fitter, now),
            // The switch has let go of this tunnel; with that comes the order that says why.
            Event::Packet(None) => return Some(ordered((&mut seat.orders).await.ok())),
            Event::Order(over) => {
                if let Over::GivenWay(_) = &over {
                    self.rest_of_packets(&mut seat.packets, fitter, now);
                }
                return Some(over);
            }
            Event::Timer => {
                self.established.handle_timeout(now);
                self.attendance.handle_timeout(now);
                if let Some(data) = &mut self.data {
                    data.handle_timeout(now);
                }
                Ok(())
            }
            Event::Stop => return Some(Over::Stopping),
        };
        let done = handled.and_then(|()| self.attend(now));
        match done.and_then(|()| self.outputs()) {
            Ok(over) => over,
            Err(closed) => self.lost(&closed, now),
        }
    }

    /// The control connection is gone. `None`: the tunnel goes on without it.
    fn lost(&mut self, closed: &Closed, now: Now) -> Option<Over> {
        let why = closed.to_string();
        let broken = match closed {
            // Anybody on the way can spoil a record of TLS.
            Closed::Eof { .. } | Closed::Broken(_) | Closed::Backlog(_) | Closed::Tls(_) => true,
            Closed::Cstp(_) => false,
        };
        let has_link = self.data.as_ref().is_some_and(DataPath::has_link);
        if !(broken && self.parks && has_link) {
            return Some(Over::Detached(why));
        }
        self.lone = self.line.take().map(|line| line.guest.leave_tunnel());
        self.question = false;
        self.unsaid.clear();
        self.pen.say(News::ControlLost(why));
        self.attendance.control_gone(now);
        match self.attend(now) {
            Ok(()) => None,
            Err(closed) => Some(Over::Detached(closed.to_string())),
        }
    }

    /// Tells the room, and the client as far as it is to know.
    async fn end(mut self, over: Over) {
        let (left, last_word) = match over {
            Over::Detached(why) => (Left::Detached(why), LastWord::None),
            Over::Ended(EndReason::UserStop) => (Left::Ended(EndReason::UserStop), LastWord::Close),
            Over::Ended(reason) => (Left::Ended(reason.clone()), LastWord::Reason(reason)),
            Over::GivenWay(heir) => {
                if let (Some(data), Some(heir)) = (self.data.take(), heir) {
                    data.leave(heir);
                }
                (Left::Ordered, LastWord::Close)
            }
            Over::EndedFromOutside(reason) => (Left::Ordered, LastWord::Reason(reason)),
            Over::Stopping => (Left::Stopping, LastWord::Close),
        };
        if let Some(data) = self.data.take() {
            data.close();
        }
        if let Some(rest) = self.rest.take() {
            self.established.drop_packets(DropReason::ChannelDown, rest.count());
        }
        self.pen.say(News::Left(*self.established.traffic(), left));
        self.pen.settle().await;
        if let Some(Line { channel, guest }) = self.line {
            say(last_word, channel).await;
            drop(guest);
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        [
            self.established.deadline(),
            self.attendance.deadline(),
            self.data.as_ref().and_then(DataPath::deadline),
        ]
        .into_iter()
        .fold(None, Deadline::earliest)
    }

    fn channel(&mut self) -> Option<&mut Channel> {
        self.line.as_mut().map(|line| &mut line.channel)
    }

    /// Sends what is queued, and what has waited for that, before more packets go behind it.
    fn send_some(&mut self) -> Result<(), Closed> {
        if let Some(channel) = self.channel() {
            self.flows = channel.send_some()?;
            self.say_what_may_be_said()?;
            self.ask()?;
        }
        Ok(())
    }

    /// Takes these datagrams and those behind them, and says whether there are likely more.
    fn take_arrivals(&mut self, first: Arrival, now: Now) -> Result<bool, Closed> {
        let Self {
            worker,
            established,
            data,
            refusal,
            ..
        } = self;
        let Some(data) = data else { return Ok(false) };
        let mut outlet = worker.switch.outlet();
        outlet.begin();
        let inlet = &mut Inlet {
            established,
            outlet: &mut outlet,
            refusal,
        };
        let more = data.take(first, now, inlet);
        drop(outlet);
        self.send_out();
        self.refuse(now).map(|()| more)
    }

    /// Tells the client of a packet that is not allowed.
    fn refuse(&mut self, now: Now) -> Result<(), Closed> {
        let Some(answer) = self.refusal.take() else {
            return Ok(());
        };
        let told = self.say_packet(&answer, now);
        self.refusal.told(answer);
        told
    }

    /// Forwards the packets that were gathered.
    fn send_out(&mut self) {
        let Self {
            worker, established, ..
        } = self;
        worker
            .switch
            .send_out(|reason, packets| established.drop_packets(reason, packets));
    }

    /// Takes this frame and those that have arrived with it, at most [`BATCH`], and says how many.
    fn take_frames(&mut self, first: Frame, now: Now) -> Result<usize, Closed> {
        let taken = self.gather_frames(first, now);
        self.send_out();
        self.refuse(now)?;
        taken
    }

    fn gather_frames(&mut self, first: Frame, now: Now) -> Result<usize, Closed> {
        self.worker.switch.outlet().begin();
        self.take_frame(first, now)?;
        for taken in 1..BATCH {
            let next = match self.channel() {
                Some(channel) => channel.try_next()?,
                None => None,
            };
            match next {
                Some(frame) => self.take_frame(frame, now)?,
                None => return Ok(taken),
            }
        }
        Ok(BATCH)
    }

    fn take_frame(&mut self, frame: Frame, now: Now) -> Result<(), Closed> {
        self.said(&frame, now)?;
        match self.established.received(&frame, now) {
            Received::Packet => self.worker.switch.outlet().frame(frame.payload),
            Received::Bundle(bundle) => self.worker.switch.outlet().bundle(frame.payload, bundle),
            Received::Dropped(DropReason::Access) if frame.kind == Kind::Data => self.refusal.of(&frame.payload, now),
            // Counted by the session.
            Received::Nothing | Received::Dropped(_) => {}
        }
        Ok(())
    }

    /// Does what the session wants done.
    fn outputs(&mut self) -> Result<Option<Over>, Closed> {
        while let Some(output) = self.established.poll() {
            match output {
                Output::Send(kind, payload) => self.tell(kind, payload)?,
                Output::Dead(why) => return Ok(Some(Over::Detached(why.to_owned()))),
                Output::Ended(reason) => return Ok(Some(Over::Ended(reason))),
            }
        }
        self.say_what_may_be_said()?;
        Ok(None)
    }
}

/// Waits for a frame, or for room if there is none; for ever where there is no control connection.
async fn frame(line: &mut Option<Line>, room: bool) -> Result<Option<Frame>, Closed> {
    match line {
        Some(line) if room => line.channel.next().await.map(Some),
        Some(line) => line.channel.next_or_room(SEALED_MAX).await,
        None => pending().await,
    }
}

/// What is left of a load, or the next one.
async fn load(rest: &mut Option<Load>, packets: &mut Receiver<Load>) -> Option<Load> {
    match rest.take() {
        Some(rest) => Some(rest),
        None => packets.recv().await,
    }
}

/// Waits for a datagram of the data channel, for ever where there is none.
async fn arrival(data: &mut Option<DataPath<'_>>) -> Arrival {
    match data {
        Some(data) => data.arrival().await,
        None => pending().await,
    }
}

/// What an order comes to; one that was dropped came from a room that is gone.
fn ordered(order: Option<Order>) -> Over {
    match order {
        Some(Order::GiveWay(heir)) => Over::GivenWay(Some(heir)),
        Some(Order::End(reason)) => Over::EndedFromOutside(reason),
        None => Over::GivenWay(None),
    }
}

/// Says the last word, as far as the client still reads. Failing at it is no news.
async fn say(last_word: LastWord, mut channel: Channel) {
    if let LastWord::None = &last_word {
        return;
    }
    if let LastWord::Reason(reason) = &last_word {
        let (kind, payload) = Established::farewell(reason);
        let _ = channel.queue(kind, &payload);
    }
    channel.queue_farewell();
    if timeout(FAREWELL, channel.flush()).await.is_err() {
        return;
    }
    if let LastWord::Reason(_) = last_word {
        let _ = SockRef::from(channel.socket()).shutdown(Shutdown::Write);
        let drained = async { while channel.next().await.is_ok() {} };
        let _ = timeout(LAST_WORD, drained).await;
    }
}
