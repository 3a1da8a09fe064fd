//! What is known of the client's presence, what may be said to it, and what the session room is told.
//!
//! A process that is stopped reads nothing, and what TCP took for it stays in two kernels until it does; a host that is away
//! acknowledges nothing, and one segment in flight delays the next by seconds when it is back (measured). So a client that is
//! not active is sent one control record at a time, and only when there is nothing else on its way.

use std::time::Duration;

use channel::{Channel, Closed};
use now::Now;
use platform::tcp::{TcpInfo, TcpState, info, switch_keepalive};
use session::park::{Attend, ParkKind, Sample, Via};
use wire::cstp::{Frame, Kind};

use super::{SEALED_MAX, Tunnel};
use crate::datapath::{DataPath, Word};
use crate::desk::News;

/// Control frames that wait for a client that is not active. It can ask for no more while it is silent.
const UNSAID_MAX: usize = 8;

/// A segment in flight whose peer acknowledged something this lately is on its way.
const FLOWING: Duration = Duration::from_secs(1);

impl Tunnel<'_> {
    /// The client said something over the control connection.
    pub(super) fn said(&mut self, frame: &Frame, now: Now) -> Result<(), Closed> {
        let word = <[u8; 8]>::try_from(&frame.payload[..]).ok().filter(|_| self.parks);
        match (frame.kind, word) {
            (Kind::Park, Some(word)) => {
                self.answer(Kind::ParkAnswer, &word)?;
                self.attendance.park(now);
            }
            (Kind::Awake, Some(word)) => {
                self.answer(Kind::AwakeAnswer, &word)?;
                self.attendance.awake(Via::SamePath, now);
            }
            (kind, _) => {
                self.question = false;
                self.attendance.heard(Via::SamePath, now);
                match (kind, &mut self.data) {
                    (Kind::Data | Kind::Bundle, Some(data)) => data.client_uses_control(now),
                    (Kind::DpdResponse, Some(data)) => data.client_answers_on_control(now),
                    (_, _) => {}
                }
            }
        }
        // In order: a client may say that it sleeps behind what ended the park before.
        self.attend(now)
    }

    /// Does what the client's presence asks for.
    pub(super) fn attend(&mut self, now: Now) -> Result<(), Closed> {
        while let Some(word) = self.data.as_mut().and_then(|data| data.word()) {
            match word {
                Word::Heard(via) => {
                    self.question = false;
                    self.attendance.heard(via, now);
                }
                Word::Park => self.attendance.park(now),
                Word::Awake(via) => self.attendance.awake(via, now),
                // An active client that took its packets away from here has just been heard.
                Word::Lost => self.question |= !self.attendance.is_active() || self.data_is_silent(),
            }
        }
        while let Some(attend) = self.attendance.poll() {
            match attend {
                Attend::Ask => self.question = !self.data.as_mut().is_some_and(|data| data.ask(now)),
                Attend::Look => self.attendance.sampled(self.sample(), now),
                Attend::Park(kind) => self.park(kind, now),
                Attend::Kind(kind) => self.pen.say(News::Parked(kind)),
                Attend::Stir => self.pen.say(News::Stirred { is_new: true }),
                Attend::StillStirs => self.pen.say(News::Stirred { is_new: false }),
                Attend::Unpark(via) => {
                    self.pen.say(News::Unparked(via));
                    self.established.wake(now);
                    if let Some(data) = &mut self.data {
                        data.wake(now);
                    }
                    // Given up before it slept, and asked for while it did: nobody else would ask now.
                    self.question |= self.data_is_silent();
                }
                Attend::Keepalive(on) => {
                    if let Some(channel) = self.channel() {
                        // A socket that does not take it is about to say why.
                        let _ = switch_keepalive(channel.socket(), on);
                    }
                }
            }
        }
        self.ask()
    }

    /// A control frame for the client: now, if it is active, else when nothing else is on its way.
    pub(super) fn tell(&mut self, kind: Kind, payload: Vec<u8>) -> Result<(), Closed> {
        if self.unsaid.len() < UNSAID_MAX {
            self.unsaid.push_back((kind, payload));
        }
        self.say_what_may_be_said()
    }

    /// Says what has waited, as far as it may be said now.
    pub(super) fn say_what_may_be_said(&mut self) -> Result<(), Closed> {
        while !self.unsaid.is_empty()
            && (self.attendance.is_active() || self.channel().is_some_and(|line| is_idle(line)))
        {
            if let Some((kind, payload)) = self.unsaid.pop_front() {
                self.answer(kind, &payload)?;
            }
        }
        Ok(())
    }

    /// Asks the client for a word over the control connection, if that is wanted and may be.
    pub(super) fn ask(&mut self) -> Result<(), Closed> {
        let wanted = self.question && self.channel().is_some_and(|channel| may_ask(channel));
        if !wanted {
            return Ok(());
        }
        self.question = false;
        self.answer(Kind::DpdRequest, &[])
    }

    /// Drops what is kept for the client, but for its keys and its lease.
    fn park(&mut self, kind: ParkKind, now: Now) {
        self.question = false;
        // A stock client has no grant: only the idle timeout ends the session of one whose kernel answers for ever.
        if self.parks {
            self.established.rest(now);
        }
        if let Some(data) = &mut self.data {
            data.rest(now);
        }
        if let Some(channel) = self.channel() {
            channel.shrink();
        }
        self.pen.say(News::Parked(kind));
    }

    pub(super) fn data_is_silent(&self) -> bool {
        self.data.as_ref().is_some_and(DataPath::is_silent)
    }

    fn sample(&self) -> Option<Sample> {
        let line = self.line.as_ref()?;
        info(line.channel.socket()).ok().map(sample)
    }

    fn answer(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Closed> {
        match self.channel() {
            Some(channel) => channel.queue(kind, payload),
            None => Ok(()),
        }
    }
}

/// Nothing is on its way to the client.
pub(super) fn is_idle(channel: &Channel) -> bool {
    channel.pending() == 0 && info(channel.socket()).map_or(true, |info| info.unacked == 0)
}

/// One more control record will be read at once, or rest in the kernel of a client that is stopped: it does not wait behind
/// packets for a client that does not read, and is not on its way to a host that is gone.
fn may_ask(channel: &Channel) -> bool {
    let answered = |info: TcpInfo| {
        info.probes == 0 && (info.unacked == 0 || u128::from(info.last_ack_recv_ms) < FLOWING.as_millis())
    };
    channel.pending() < SEALED_MAX && info(channel.socket()).map_or(true, answered)
}

fn sample(info: TcpInfo) -> Sample {
    Sample {
        established: info.state == TcpState::Established,
        probes: info.probes,
        retransmits: info.retransmits,
        unacked: info.unacked,
        last_ack: Duration::from_millis(info.last_ack_recv_ms.into()),
    }
}
