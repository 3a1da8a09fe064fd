//! What the shell hears of sleep, from the clocks and from the pump: told to the machine, and to whoever watches in the words of
//! lifecycle.md section 5.
//!
//! ```text
//!   announced, or a gap --> session.park{kind} ... wakes ... proof --> session.unpark{gap_s, wakes, via}
//! ```

use std::time::Duration;

use api::Happening;
use ledger::Sleep;
use lifecycle::Mode;
use now::{Boot, Gap, GapKind};
use session::park::{ParkKind, Via};
use tracing::{debug, info};

use crate::clock;
use crate::datapath::News;
use crate::proof::Input;
use crate::pump::{Command, LONG_FREEZE};
use crate::shell::Shell;
use crate::status::Totals;

/// What is known of a silence of this host.
#[derive(Debug, Default)]
pub(crate) struct Absence {
    /// How it began, until the gateway knows that it is over.
    parked: Option<ParkKind>,
    begun_unix_ms: u64,
    /// Time in which this process did not run since then.
    gap: Duration,
    /// How often it ran again.
    wakes: u32,
    /// The gateway is one that says so itself.
    pub(crate) answers: bool,
    /// When a gap was seen last: both the shell's timer and the pump's may see it.
    seen: Option<Boot>,
}

impl Shell {
    pub(crate) fn count(&self, one: impl FnOnce(&mut Totals)) {
        self.counter.status.send_modify(|status| one(&mut status.totals));
    }

    pub(crate) fn tell_pump(&self, command: Command) {
        if let Some((_, pump)) = &self.pump {
            pump.tell(command);
        }
    }

    pub(crate) fn pump_told(&mut self, news: News) {
        let Some((g, _)) = self.pump else { return };
        match news {
            News::Channel(suite) => self.counter.status.send_modify(|status| {
                if let Some(tunnel) = &mut status.tunnel {
                    tunnel.data_channel = suite;
                }
            }),
            News::Renew(why) => {
                debug!(why, "a new connection in the background is asked for");
                self.feed(Input::Renew(g));
            }
            News::ControlLost(kind, why) => {
                debug!(%kind, "the control channel is gone and the data channel goes on alone: {why}");
                self.feed(Input::ControlLost { g, kind });
            }
            News::PathChange => self.path_changed(),
            News::Demand => self.feed(Input::Demand),
            News::Idle => self.feed(Input::Idle(g)),
            News::Parked => {
                self.parked(ParkKind::Announced);
                self.feed(Input::Parked(g));
            }
            News::Unparked(via) => {
                self.unparked(via);
                self.feed(Input::ProofOfLife(g));
            }
            News::Alive => {
                // What comes in a maintenance wake says nothing: the gateway was not told that somebody is there.
                let frozen = self.absence.parked == Some(ParkKind::Frozen);
                if (frozen || !self.absence.answers) && self.machine.mode() == Mode::Awake {
                    self.unparked(Via::SamePath);
                }
                self.feed(Input::ProofOfLife(g));
            }
            News::Silent => self.feed(Input::PathSilent(g)),
        }
    }

    pub(crate) fn gap(&mut self, gap: Gap) {
        let now = clock::now();
        let begun = Boot::from_origin(now.boot.since_origin().saturating_sub(gap.length));
        let new = self.absence.seen.is_none_or(|seen| seen <= begun);
        self.absence.seen = Some(now.boot);
        if new {
            self.tell_gap(gap);
        }
        self.feed(Input::ClockGap(gap));
    }

    fn tell_gap(&mut self, gap: Gap) {
        let seconds = gap.length.as_secs_f64();
        if let Some(repeats) = self.repeats.told("clock.gap", clock::now().boot) {
            info!(kind = ?gap.kind, seconds, repeats, "clock.gap");
        }
        self.tell(Happening::ClockGap {
            seconds,
            kind: format!("{:?}", gap.kind).to_lowercase(),
        });
        self.counter.status.send_modify(|status| {
            status.clock_gaps += 1;
            status.totals.clock_gap += gap.length;
        });
        if let Some(account) = &mut self.account {
            account.record.facts.wakes += 1;
        }
        if self.machine.tunnel().is_none() {
            return;
        }
        match gap.kind {
            GapKind::Sleep => self.parked(ParkKind::Unreachable),
            GapKind::Freeze if gap.length >= LONG_FREEZE => self.parked(ParkKind::Frozen),
            GapKind::Freeze => {}
        }
        self.absence.gap += gap.length;
        self.absence.wakes = self.absence.wakes.saturating_add(1);
    }

    /// The gateway knows, or will find out, that this host is silent.
    pub(crate) fn parked(&mut self, kind: ParkKind) {
        if self.absence.parked.is_some() {
            return;
        }
        self.absence = Absence {
            parked: Some(kind),
            begun_unix_ms: clock::millis(clock::now().wall.since_origin()),
            gap: Duration::ZERO,
            wakes: 0,
            ..self.absence
        };
        self.count(|totals| totals.parks.add(kind.word()));
        if let Some(repeats) = self.repeats.told("session.park", clock::now().boot) {
            info!(%kind, repeats, "session.park");
        }
        self.tell(Happening::SessionPark {
            kind: kind.word().to_owned(),
        });
    }

    /// The gateway knows that this host is back.
    pub(crate) fn unparked(&mut self, via: Via) {
        if self.absence.parked.take().is_none() {
            return;
        }
        let Absence {
            gap,
            wakes,
            begun_unix_ms,
            ..
        } = self.absence;
        let gap_s = gap.as_secs();
        self.count(|totals| totals.unparks.add(via.word()));
        if let Some(repeats) = self.repeats.told("session.unpark", clock::now().boot) {
            info!(gap_s, wakes, %via, repeats, "session.unpark");
        }
        self.tell(Happening::SessionUnpark {
            gap_s,
            wakes,
            via: via.word().to_owned(),
        });
        if let Some(account) = &mut self.account {
            account.record.facts.slept(Sleep {
                at_ms: begun_unix_ms,
                gap_s,
                wakes,
                via: via.word().to_owned(),
            });
        }
    }

    /// The session is over, and so is whatever silence there was.
    pub(crate) fn forget_absence(&mut self) {
        self.absence.parked = None;
    }
}
