//! What a pump does before a sleep, in one, after it, and when its process stood still.
//!
//! ```text
//!   Park ---> Park to the gateway, quiet          a gap: quiet after a sleep; go on after a freeze; what waited is old
//!   Mode ---> quiet unless awake                  Woke: ask for proof of life at once
//! ```

use std::time::Duration;

use config::MaintenanceTraffic;
use lifecycle::Mode;
use now::{Gap, GapKind, Now};
use packet::DropReason;
use session::client::Ask;

use super::mail::{Wanted, Word};
use super::{MAX_STALE, Outcome, Worker, lost};
use crate::datapath::{DataPath, News, token};

/// A process that stood still for less is one that had no processor: no gateway or router has drawn a conclusion from it. The
/// first probe of a gateway's kernel comes after 45 s.
pub(crate) const LONG_FREEZE: Duration = Duration::from_secs(30);

/// What the shell wants of a running pump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// The host is about to sleep: tell the gateway.
    Park,
    /// What may run.
    Mode(Mode),
    /// Somebody is there: ask for proof of life.
    Woke,
    /// The host's network has changed: look at the way to the gateway.
    Look,
    /// Packets to the gateway leave another way, from the same address.
    Detour,
}

impl Worker {
    pub(super) fn obey(&mut self, wanted: Wanted, now: Now) {
        let word = wanted.word.filter(|(_, number)| *number != self.obeyed);
        if let Some((word, number)) = word {
            self.obeyed = number;
            if word == Word::Park {
                self.park(now);
            }
        }
        self.mode = wanted.mode;
        self.demanded = false;
        match wanted.mode {
            // What is to be asked for comes with `Woke`.
            Mode::Awake => {}
            Mode::Asleep | Mode::Maintenance | Mode::Unsure => self.be_quiet(),
        }
        if let Some((Word::Woke, _)) = word {
            self.wake(now);
        }
        if std::mem::replace(&mut self.looks, wanted.looks) != wanted.looks {
            self.look_at_route(now);
        }
        if std::mem::replace(&mut self.detours, wanted.detours) != wanted.detours && self.mode == Mode::Awake {
            self.ask_from_here(now);
        }
    }

    /// The gateway sees this host elsewhere, perhaps: it learns where from the next record, which is sent now.
    fn ask_from_here(&mut self, now: Now) {
        match &mut self.link.data {
            Some(data) if data.is_up() => data.doubt(now),
            Some(_) | None => self.ask_control(now),
        }
    }

    pub(super) fn park(&mut self, now: Now) {
        // Nothing comes behind the word.
        self.flush(now);
        self.forget_stuck(DropReason::Asleep);
        let said = self.link.data.as_mut().is_some_and(|data| data.park(now));
        if said || self.link.channel.is_none() {
            self.link.established.be_quiet();
        } else {
            self.link.established.park(token());
        }
    }

    fn be_quiet(&mut self) {
        self.link.established.be_quiet();
        if let Some(data) = &mut self.link.data {
            data.be_quiet();
        }
    }

    /// The data channel carries the question if there is one. The control channel is asked as well: after a long sleep nobody
    /// may know it any more.
    fn wake(&mut self, now: Now) {
        self.mode = Mode::Awake;
        let asked = self.link.data.as_mut().is_some_and(|data| data.wake(Ask::AtOnce, now));
        if self.link.channel.is_some() {
            self.link.established.wake((!asked).then(token), now);
        }
    }

    /// The process did not run. Deadlines come later by what their clock counted of it; what may run after a sleep the shell
    /// says; after a freeze most likely nothing has changed.
    pub(super) fn after(&mut self, gap: &Gap, now: Now) {
        self.used.rebase(gap);
        self.link.established.rebase(gap);
        if let Some(data) = &mut self.link.data {
            data.rebase(gap, now);
        }
        match (gap.kind, self.mode) {
            (GapKind::Freeze, Mode::Awake) => {
                if gap.length >= LONG_FREEZE {
                    self.link.established.go_on(now);
                    if let Some(data) = &mut self.link.data {
                        data.wake(Ask::WhenSending, now);
                    }
                }
                // Nobody else asks: where there is a data channel, its watch does.
                if !self.link.data.as_ref().is_some_and(DataPath::is_up) {
                    self.link.established.ask_soon(now);
                }
            }
            (GapKind::Sleep, _) | (GapKind::Freeze, Mode::Asleep | Mode::Maintenance | Mode::Unsure) => self.be_quiet(),
        }
    }

    /// Throws away the packets that waited through a gap, here and on both channels. What came with them is taken: the replay
    /// window has to know it, and the gateway may have said something.
    pub(super) fn discard_late(&mut self, now: Now) -> Result<(), Outcome> {
        self.discard_waiting();
        let established = &mut self.link.established;
        if let Some(data) = &mut self.link.data {
            data.receive_late(now, &mut |_| established.drop_packet(DropReason::Stale));
        }
        for _ in 0..MAX_STALE {
            let Some(channel) = &mut self.link.channel else { break };
            match channel.try_next() {
                Ok(Some(frame)) => self.late(&frame, now),
                Ok(None) => break,
                Err(closed) => return self.control_lost(lost(closed)),
            }
        }
        Ok(())
    }

    /// Whether packets of the host are to wait in the device, which holds 500.
    pub(super) fn holds(&self) -> bool {
        self.policy() == Some(MaintenanceTraffic::Hold)
    }

    /// Whether a packet of the host is to be dropped now. One that somebody could be waiting for asks for the tunnel while nobody
    /// knows what kind of wake it is.
    pub(super) fn drops(&mut self, packet: &[u8]) -> bool {
        if self.mode == Mode::Unsure && !self.demanded && self.link.established.somebody_waits_for(packet) {
            self.demanded = true;
            self.tell(News::Demand);
        }
        self.policy() == Some(MaintenanceTraffic::Drop)
    }

    /// What becomes of packets, unless they are carried as ever.
    fn policy(&self) -> Option<MaintenanceTraffic> {
        match self.mode {
            Mode::Asleep | Mode::Maintenance => Some(self.link.sleep.maintenance_traffic),
            Mode::Awake | Mode::Unsure => None,
        }
    }
}
