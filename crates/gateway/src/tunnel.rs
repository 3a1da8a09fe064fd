//! One connected client: frames from its channel to the switch, packets from the switch to its channel.
//!
//! Nothing here judges silence. A client that says nothing may sleep; its kernel answers the keepalive probes of ours, and
//! when it stops doing so the socket ends and the session waits for the client to come back.

use std::future::pending;
use std::net::Shutdown;
use std::time::Duration;

use bytes::Bytes;
use channel::{Channel, Closed};
use now::{Deadline, Now};
use packet::DropReason;
use session::gateway::Established;
use session::{EndReason, Fit, Fitter, Output, Received};
use socket2::SockRef;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{sleep_until, timeout};
use wire::cstp::{Frame, Kind};

use crate::clock::instant;
use crate::datagrams::{Arrival, Granted, Inheritance};
use crate::datapath::{DataPath, Fate};
use crate::sessions::{Left, Order, Seat};
use crate::shell::Shared;

/// Frames or packets handled before the other direction, and after as many frames the other tasks, get their turn.
const BATCH: usize = 64;

/// How long a last frame may take to reach the kernel's send buffer.
const FAREWELL: Duration = Duration::from_millis(100);

/// How long the client may take to read its last frame and close. Closing at once would reset the connection if packets of
/// the client are on their way, and the reset overtakes the frame.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Carries a client's packets, which the grant limits to `mtu` bytes, until its connection or its session ends, and reports it
/// to the session room.
pub(crate) async fn carry(shared: &Shared, mut seat: Seat, mut channel: Channel, granted: Option<Granted>, mtu: u16) {
    let settings = shared.settings();
    let (id, epoch, lease) = (seat.connected.id, seat.connected.epoch, seat.connected.lease);
    let idle = settings.config.session.idle_timeout;
    let mut established = Established::new(lease, mtu, idle, shared.clock.now());
    let mut data = granted.map(|granted| DataPath::new(&shared.datagrams, granted, id));
    if let (Some(data), Some(estate)) = (&mut data, seat.estate.take()) {
        let now = shared.clock.now();
        data.inherit(estate, now, &mut |packet| uplink(shared, &mut established, packet, now))
            .await;
    }
    let over = run(shared, &mut seat, &mut channel, &mut established, &mut data).await;
    // A client that connected anew closes the connection before: who sees that first must not miss the order.
    let over = match over {
        Over::Detached(why) => seat
            .orders
            .try_recv()
            .map_or(Over::Detached(why), |order| ordered(Some(order))),
        over @ (Over::Ended(_) | Over::GivenWay(_) | Over::EndedFromOutside(_) | Over::Stopping) => over,
    };
    let (left, last_word) = match over {
        Over::Detached(why) => (Left::Detached(why), LastWord::None),
        Over::Ended(EndReason::UserStop) => (Left::Ended(EndReason::UserStop), LastWord::Close),
        Over::Ended(reason) => (Left::Ended(reason.clone()), LastWord::Reason(reason)),
        Over::GivenWay(heir) => {
            if let (Some(data), Some(heir)) = (data.take(), heir) {
                data.leave(heir);
            }
            (Left::Ordered, LastWord::Close)
        }
        Over::EndedFromOutside(reason) => (Left::Ordered, LastWord::Reason(reason)),
        Over::Stopping => (Left::Stopping, LastWord::Close),
    };
    if let Some(data) = data {
        data.close();
    }
    shared
        .sessions
        .left(id, epoch, established.traffic(), left, shared.clock.now());
    say(last_word, channel).await;
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
    Packet(Option<Bytes>),
    Arrival(Arrival),
    Order(Over),
    Timer,
    Stop,
}

async fn run(
    shared: &Shared,
    seat: &mut Seat,
    channel: &mut Channel,
    established: &mut Established,
    data: &mut Option<DataPath<'_>>,
) -> Over {
    let mut stopping = shared.stopping.clone();
    let mut fitter = Fitter::new(shared.settings().config.dtls.mss_clamp);
    let mut missed = shared.clock.missed();
    loop {
        if let Err(closed) = channel.send_some() {
            return Over::Detached(closed.to_string());
        }
        let room = has_room(channel, data);
        let of_data = data.as_ref().and_then(DataPath::deadline);
        let deadline = Deadline::earliest(established.deadline(), of_data);
        let timer = async {
            match deadline {
                Some(deadline) => sleep_until(instant(deadline.at, platform::clock::now())).await,
                None => pending().await,
            }
        };
        let event = tokio::select! {
            frame = channel.next() => Event::Frame(frame),
            packet = seat.packets.recv(), if room => Event::Packet(packet),
            arrival = arrival(data) => Event::Arrival(arrival),
            order = &mut seat.orders => Event::Order(ordered(order.ok())),
            () = timer => Event::Timer,
            _ = stopping.wait_for(|stopping| *stopping) => Event::Stop,
        };
        let now = shared.clock.now();
        if let Some(gap) = shared.clock.gap_since(&mut missed) {
            established.rebase(&gap);
            if let Some(data) = data {
                data.rebase(&gap);
            }
        }
        let handled = match event {
            Event::Frame(Ok(frame)) => {
                let taken = take_frames(shared, channel, established, data, frame, now);
                if let Ok(BATCH) = taken {
                    // There are likely more: a client that sends without end must not have the only thread to itself.
                    yield_now().await;
                }
                taken.map(drop)
            }
            Event::Frame(Err(closed)) => Err(closed),
            Event::Arrival(arrival) => {
                if take_arrivals(shared, established, data, arrival, now) == BATCH {
                    yield_now().await;
                }
                Ok(())
            }
            Event::Packet(Some(packet)) => {
                let mut downlink = Downlink {
                    shared,
                    fitter: &mut fitter,
                    channel,
                    established,
                    data,
                    now,
                };
                downlink.packets(packet, &mut seat.packets)
            }
            // The switch has let go of this tunnel; with that comes the order that says why.
            Event::Packet(None) => return ordered((&mut seat.orders).await.ok()),
            Event::Order(over) => {
                if let Over::GivenWay(_) = &over {
                    let mut downlink = Downlink {
                        shared,
                        fitter: &mut fitter,
                        channel,
                        established,
                        data,
                        now,
                    };
                    downlink.rest(&mut seat.packets);
                }
                return over;
            }
            Event::Timer => {
                established.handle_timeout(now);
                if let Some(data) = data {
                    data.handle_timeout(now);
                }
                Ok(())
            }
            Event::Stop => return Over::Stopping,
        };
        if let Some(over) = handled.map_or_else(|closed| Some(detached(&closed)), |()| outputs(channel, established)) {
            return over;
        }
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

/// Takes this datagram and those behind it, at most [`BATCH`], and says how many.
fn take_arrivals(
    shared: &Shared,
    established: &mut Established,
    data: &mut Option<DataPath<'_>>,
    first: Arrival,
    now: Now,
) -> usize {
    let Some(data) = data else { return 0 };
    data.take(first, now, &mut |packet| uplink(shared, established, packet, now))
}

/// Hands a packet of the data channel to the switch.
fn uplink(shared: &Shared, established: &mut Established, packet: &[u8], now: Now) {
    if established.incoming(packet, now) == Received::Packet
        && let Err(reason) = shared.switch.uplink(Bytes::copy_from_slice(packet))
    {
        established.drop_packet(reason);
    }
}

/// Takes this frame and those that have arrived with it, at most [`BATCH`], and says how many.
fn take_frames(
    shared: &Shared,
    channel: &mut Channel,
    established: &mut Established,
    data: &mut Option<DataPath<'_>>,
    first: Frame,
    now: Now,
) -> Result<usize, Closed> {
    let mut take = |frame: Frame| {
        if let Some(data) = data.as_mut().filter(|_| frame.kind == Kind::Data) {
            data.client_uses_control(now);
        }
        let forwarded = match established.received(&frame, now) {
            Received::Packet => shared.switch.uplink(frame.payload.freeze()),
            // Counted by the session.
            Received::Nothing | Received::Dropped(_) => Ok(()),
        };
        if let Err(reason) = forwarded {
            established.drop_packet(reason);
        }
    };
    take(first);
    for taken in 1..BATCH {
        match channel.try_next()? {
            Some(frame) => take(frame),
            None => return Ok(taken),
        }
    }
    Ok(BATCH)
}

/// The way of packets to the client.
struct Downlink<'a, 'b> {
    shared: &'a Shared,
    fitter: &'a mut Fitter,
    channel: &'a mut Channel,
    established: &'a mut Established,
    data: &'a mut Option<DataPath<'b>>,
    now: Now,
}

impl Downlink<'_, '_> {
    /// Sends this packet and those behind it, as long as the channel that they take keeps up.
    fn packets(&mut self, first: Bytes, queue: &mut mpsc::Receiver<Bytes>) -> Result<(), Closed> {
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(packet) = next else { break };
            self.packet(&packet)?;
            if !has_room(self.channel, self.data) {
                break;
            }
            next = queue.try_recv().ok();
        }
        Ok(())
    }

    /// Sends what has come for the client before it connected anew. Nothing comes behind it.
    fn rest(&mut self, queue: &mut mpsc::Receiver<Bytes>) {
        while let Ok(packet) = queue.try_recv() {
            if self.packets(packet, queue).is_err() {
                return;
            }
        }
    }

    /// Makes a packet fit, and sends it.
    fn packet(&mut self, packet: &[u8]) -> Result<(), Closed> {
        let Self {
            shared,
            fitter,
            channel,
            established,
            data,
            now,
        } = self;
        let carried = data.as_ref().and_then(DataPath::mtu);
        let mtu = carried.unwrap_or(u16::MAX).min(established.mtu());
        match fitter.fit(packet, mtu, now.awake) {
            Fit::AsIs => send(channel, established, data, packet, *now),
            Fit::Clamped(packet) => send(channel, established, data, packet, *now),
            Fit::Pieces(pieces) => pieces
                .iter()
                .try_for_each(|piece| send(channel, established, data, piece, *now)),
            Fit::Answer(answer) => {
                established.drop_packet(DropReason::TooBig);
                shared.switch.answer(Bytes::copy_from_slice(answer));
                Ok(())
            }
            Fit::Dropped(reason) => {
                established.drop_packet(reason);
                Ok(())
            }
        }
    }
}

/// Whether a packet for the client can go anywhere.
fn has_room(channel: &Channel, data: &Option<DataPath<'_>>) -> bool {
    channel.has_room() || data.as_ref().is_some_and(DataPath::is_up)
}

/// Sends a packet that fits over the channel that packets take now.
fn send(
    channel: &mut Channel,
    established: &mut Established,
    data: &mut Option<DataPath<'_>>,
    packet: &[u8],
    now: Now,
) -> Result<(), Closed> {
    if established.outgoing(packet).is_err() {
        // Counted by the session.
        return Ok(());
    }
    match data.as_mut().map_or(Fate::NotHere, |data| data.send(packet, now)) {
        Fate::Sent => Ok(()),
        Fate::NotHere => channel.queue(Kind::Data, packet),
        Fate::Refused => {
            established.drop_packet(DropReason::QueueFull);
            Ok(())
        }
    }
}

/// Does what the session wants done.
fn outputs(channel: &mut Channel, established: &mut Established) -> Option<Over> {
    while let Some(output) = established.poll() {
        match output {
            Output::Send(kind, payload) => {
                if let Err(closed) = channel.queue(kind, &payload) {
                    return Some(detached(&closed));
                }
            }
            Output::Dead(why) => return Some(Over::Detached(why.to_owned())),
            Output::Ended(reason) => return Some(Over::Ended(reason)),
        }
    }
    None
}

fn detached(closed: &Closed) -> Over {
    Over::Detached(closed.to_string())
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
    let _ = channel.queue_farewell();
    if timeout(FAREWELL, channel.flush()).await.is_err() {
        return;
    }
    if let LastWord::Reason(_) = last_word {
        let _ = SockRef::from(channel.socket()).shutdown(Shutdown::Write);
        let drained = async { while channel.next().await.is_ok() {} };
        let _ = timeout(LAST_WORD, drained).await;
    }
}
