//! One connected client: frames from its channel to the switch, packets from the switch to its channel.
//!
//! Nothing here judges silence. A client that says nothing may sleep; its kernel answers the keepalive probes of ours, and
//! when it stops doing so the socket ends and the session waits for the client to come back.

use std::future::pending;
use std::net::Shutdown;
use std::time::Duration;

use bytes::Bytes;
use channel::{Channel, Closed};
use now::Now;
use session::gateway::Established;
use session::{EndReason, Output, Received};
use socket2::SockRef;
use tokio::task::yield_now;
use tokio::time::{sleep_until, timeout};
use wire::cstp::{Frame, Kind};

use crate::clock::instant;
use crate::sessions::{Left, Order, STOPPING, Seat};
use crate::shell::Shared;

/// Frames or packets handled before the other direction, and after as many frames the other tasks, get their turn.
const BATCH: usize = 64;

/// How long a last frame may take to reach the kernel's send buffer.
const FAREWELL: Duration = Duration::from_millis(100);

/// How long the client may take to read its last frame and close. Closing at once would reset the connection if packets of
/// the client are on their way, and the reset overtakes the frame.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Carries a client's packets until its connection or its session ends, and reports it to the session room.
pub(crate) async fn carry(shared: &Shared, mut seat: Seat, mut channel: Channel) {
    let settings = shared.settings();
    let (id, epoch, lease) = (seat.connected.id, seat.connected.epoch, seat.connected.lease);
    let idle = settings.config.session.idle_timeout;
    let mut established = Established::new(lease, settings.config.network.mtu, idle, shared.clock.now());
    let (left, last_word) = match run(shared, &mut seat, &mut channel, &mut established).await {
        Over::Detached(why) => (Left::Detached(why), LastWord::None),
        Over::Ended(EndReason::UserStop) => (Left::Ended(EndReason::UserStop), LastWord::Close),
        Over::Ended(reason) => (Left::Ended(reason.clone()), LastWord::Reason(reason)),
        Over::Ordered(Order::GiveWay) => (Left::Ordered, LastWord::Close),
        Over::Ordered(Order::End(reason)) => (Left::Ordered, LastWord::Reason(reason)),
        Over::Stopping => (Left::Ended(EndReason::Admin(STOPPING.to_owned())), LastWord::Close),
    };
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
    /// Somebody else said so.
    Ordered(Order),
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
    Order(Order),
    Timer,
    Stop,
}

async fn run(shared: &Shared, seat: &mut Seat, channel: &mut Channel, established: &mut Established) -> Over {
    let mut stopping = shared.stopping.clone();
    let mut missed = shared.clock.missed();
    loop {
        if let Err(closed) = channel.send_some() {
            return Over::Detached(closed.to_string());
        }
        let room = channel.has_room();
        let deadline = established.deadline();
        let timer = async {
            match deadline {
                Some(deadline) => sleep_until(instant(deadline.at, platform::clock::now())).await,
                None => pending().await,
            }
        };
        let event = tokio::select! {
            frame = channel.next() => Event::Frame(frame),
            packet = seat.packets.recv(), if room => Event::Packet(packet),
            order = &mut seat.orders => Event::Order(order.unwrap_or(Order::GiveWay)),
            () = timer => Event::Timer,
            _ = stopping.wait_for(|stopping| *stopping) => Event::Stop,
        };
        let now = shared.clock.now();
        if let Some(gap) = shared.clock.gap_since(&mut missed) {
            established.rebase(&gap);
        }
        let handled = match event {
            Event::Frame(Ok(frame)) => {
                let taken = take_frames(shared, channel, established, frame, now);
                if let Ok(BATCH) = taken {
                    // There are likely more: a client that sends without end must not have the only thread to itself.
                    yield_now().await;
                }
                taken.map(drop)
            }
            Event::Frame(Err(closed)) => Err(closed),
            Event::Packet(Some(packet)) => send_packets(seat, channel, established, packet),
            // The switch has let go of this tunnel; with that comes the order that says why.
            Event::Packet(None) => return Over::Ordered((&mut seat.orders).await.unwrap_or(Order::GiveWay)),
            Event::Order(order) => return Over::Ordered(order),
            Event::Timer => {
                established.handle_timeout(now);
                Ok(())
            }
            Event::Stop => return Over::Stopping,
        };
        if let Some(over) = handled.map_or_else(|closed| Some(detached(&closed)), |()| outputs(channel, established)) {
            return over;
        }
    }
}

/// Takes this frame and those that have arrived with it, at most [`BATCH`], and says how many.
fn take_frames(
    shared: &Shared,
    channel: &mut Channel,
    established: &mut Established,
    first: Frame,
    now: Now,
) -> Result<usize, Closed> {
    let mut take = |frame: Frame| {
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

/// Queues this packet and those behind it, as long as TCP keeps up.
fn send_packets(
    seat: &mut Seat,
    channel: &mut Channel,
    established: &mut Established,
    first: Bytes,
) -> Result<(), Closed> {
    let mut send = |packet: &[u8], channel: &mut Channel| match established.outgoing(packet) {
        Ok(()) => channel.queue(Kind::Data, packet),
        // Counted by the session.
        Err(_) => Ok(()),
    };
    send(&first, channel)?;
    for _ in 1..BATCH {
        if !channel.has_room() {
            break;
        }
        match seat.packets.try_recv() {
            Ok(packet) => send(&packet, channel)?,
            Err(_) => break,
        }
    }
    Ok(())
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
