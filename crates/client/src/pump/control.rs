//! The control channel of a pump: frames, the last words, and its end.

use std::io;

use channel::{Channel, Closed};
use lifecycle::LossKind;
use now::Now;
use packet::DropReason;
use session::client::Established;
use session::{Output, Received};
use wire::cstp::{Frame, Kind};

use super::{BATCH, Outcome, Stop, TURNS, Worker};
use crate::attempt::Link;
use crate::clock;
use crate::datapath::{DataPath, News};
use crate::to_host::ToHost;

impl Worker {
    /// Hands the session's own frames and all that is queued to TCP, as far as it takes them.
    pub(super) fn send(&mut self) -> Result<(), Outcome> {
        while let Some(output) = self.link.established.poll() {
            match output {
                Output::Send(kind, payload) => {
                    if let Some(channel) = &mut self.link.channel {
                        channel.queue(kind, &payload).map_err(lost)?;
                    }
                }
                Output::Dead(why) => return Err(Outcome::Lost(LossKind::Timeout, why.to_owned())),
                Output::Ended(reason) => return Err(Outcome::Ended(reason)),
            }
        }
        match &mut self.link.channel {
            Some(channel) => channel.send_some().map(drop).map_err(lost),
            None => Ok(()),
        }
    }

    /// The control channel is of no use any more. Where the gateway keeps the session the data channel goes on alone, and the
    /// shell is told.
    pub(super) fn control_lost(&mut self, outcome: Outcome) -> Result<(), Outcome> {
        let alone = self.link.established.parks() && self.link.data.as_ref().is_some_and(DataPath::is_up);
        match outcome {
            Outcome::Lost(kind, why) if alone => {
                self.link.channel = None;
                self.link.established.lost_control();
                self.tell(News::ControlLost(kind, why));
                if let Some(data) = &mut self.link.data {
                    data.doubt(clock::now());
                }
                Ok(())
            }
            Outcome::Lost(..) | Outcome::Stopped | Outcome::Ended(_) | Outcome::DeviceGone(_) => Err(outcome),
        }
    }

    /// Takes what has arrived, and is done with it or has more to do at once. A frame that came with a gap is old.
    pub(super) fn frames(&mut self, first: Result<Frame, Closed>, gap: bool, now: Now) -> Result<(), Outcome> {
        let first = first.map_err(lost)?;
        if gap {
            match (first.kind, &mut self.link.established) {
                (Kind::Data, established) => established.drop_packet(DropReason::Stale),
                (_, established) => _ = established.received_late(&first, now),
            }
            return Ok(());
        }
        let taken = self.gather_frames(first, now);
        self.frames_to_host()?;
        taken
    }

    fn gather_frames(&mut self, first: Frame, now: Now) -> Result<(), Outcome> {
        self.frame(first, now);
        for _ in 1..BATCH {
            let Some(channel) = &mut self.link.channel else {
                return Ok(());
            };
            match channel.try_next().map_err(lost)? {
                Some(frame) => self.frame(frame, now),
                None => return Ok(()),
            }
        }
        self.turns = TURNS;
        Ok(())
    }

    fn frame(&mut self, frame: Frame, now: Now) {
        match self.link.established.received(&frame, now) {
            Received::Nothing | Received::Dropped(_) => {}
            Received::Packet => {
                self.last_traffic = now.awake;
                self.frames.push(frame.payload);
            }
        }
    }

    /// Hands the host the packets of the frames.
    fn frames_to_host(&mut self) -> Result<(), Outcome> {
        let Self {
            device,
            link,
            gathering,
            frames,
            ..
        } = self;
        let mut to_host = ToHost::new(device, &mut link.established, gathering);
        to_host.write_whole(frames);
        frames.clear();
        to_host.gone.map_or(Ok(()), |error| Err(Outcome::DeviceGone(error)))
    }

    /// A goodbye is one frame that TCP takes now or never; nobody waits for the peer. A link that is about to be replaced
    /// delivers what it has received.
    pub(super) fn stop(&mut self, how: Stop, now: Now) -> Outcome {
        match how {
            Stop::WithGoodbye => {
                if let Some(data) = &mut self.link.data {
                    data.close();
                }
                say_goodbye(&mut self.link);
            }
            Stop::Silently => {
                while let Some(Ok(Some(frame))) = self.link.channel.as_mut().map(Channel::try_next) {
                    if frame.kind == Kind::Data {
                        self.frame(frame, now);
                    }
                }
                // A device that is gone is found out by the next pump.
                let _ = self.frames_to_host();
            }
        }
        Outcome::Stopped
    }
}

/// The next frame of the control channel, for ever where there is none.
pub(super) async fn next_frame(channel: &mut Option<Channel>) -> Result<Frame, Closed> {
    match channel {
        Some(channel) => channel.next().await,
        None => std::future::pending().await,
    }
}

/// Ends the session at the gateway, as far as TCP takes the words at once.
pub(crate) fn say_goodbye(link: &mut Link) {
    // Without a control channel there is nothing to say it on; the job of the session logs out later.
    let Some(channel) = &mut link.channel else { return };
    let (kind, payload) = Established::goodbye();
    let said = channel
        .queue(kind, &payload)
        .and_then(|()| channel.queue_farewell())
        .and_then(|()| channel.send_some());
    if let Err(error) = said {
        tracing::debug!(%error, "the goodbye was not taken");
    }
}

pub(super) fn lost(closed: Closed) -> Outcome {
    let kind = match &closed {
        Closed::Eof { .. } => LossKind::Eof,
        Closed::Broken(error) if error.kind() == io::ErrorKind::TimedOut => LossKind::Timeout,
        Closed::Broken(_) => LossKind::Reset,
        Closed::Tls(_) | Closed::Cstp(_) => LossKind::Protocol,
        Closed::Backlog(_) => LossKind::Timeout,
    };
    Outcome::Lost(kind, closed.to_string())
}
