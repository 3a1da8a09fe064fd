//! One night beside another: the machine, and a client that takes every wake for a full one, on the same schedule. And a day
//! without a gateway.
//!
//! Only the machine is real here. Whoever is called answers: a connection stands after [`CONNECT`], a park is answered
//! after [`ROUND_TRIP`], and so is the question for a proof of life.

use std::fmt;
use std::time::Duration;

use lifecycle::{
    Backoff, Effect, FailClass, Generation, Input, Jitter, LossKind, Machine, OnFailure, Origin, PowerWord, Report,
    Settings, Source, Stage, State, Surroundings, WakeKind,
};
use now::{Awake, Gap, GapKind, Now};

use crate::chance::Chance;
use crate::shell::Shell;

const ROUND_TRIP: Duration = Duration::from_millis(100);
const CONNECT: Duration = Duration::from_millis(500);
const NIGHT: Duration = Duration::from_secs(10 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Maintenance wakes of a night.
pub const WAKES: u32 = 40;

/// Who decides what a wake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The machine.
    Ours,
    /// Every wake is a full one.
    Naive,
}

/// What becomes of the control connection in the night.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// The gateway keeps it parked.
    Kept,
    /// It is found reset whenever the host wakes.
    Reset,
}

/// What a night came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Attempts to connect.
    pub connects: u32,
    /// Attempts that were not made because of the host's sleep.
    pub suppressed: u32,
    /// "Reconnecting".
    pub notices: u32,
    /// Sessions over.
    pub ends: u32,
    /// Times the gateway was told of a sleep, and of its end.
    pub parks: u32,
    /// See there.
    pub unparks: u32,
    /// Wakes by kind.
    pub full: u32,
    /// See there.
    pub maintenance: u32,
    /// See there.
    pub unknown: u32,
    /// Sleeps acknowledged.
    pub acknowledged: u32,
    /// Failed attempts.
    pub failures: u32,
    /// What a log without debug lines has of it, where alike failures are told the 1st, 2nd, 4th, 8th ... time.
    pub lines: u32,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            connects,
            suppressed,
            notices,
            parks,
            unparks,
            full,
            maintenance,
            unknown,
            ..
        } = self;
        write!(
            f,
            "{connects:>3} connects, {suppressed:>3} suppressed, {notices} notices, {parks:>2} parks, {unparks:>2} unparks; \
             wakes: {full:>2} full, {maintenance:>2} maintenance, {unknown:>2} unknown"
        )
    }
}

struct Host {
    machine: Machine<Shell>,
    now: Now,
    chance: Chance,
    /// What comes back, and when.
    coming: Vec<(Awake, Input<Shell>)>,
    /// Nobody answers a call.
    offline: bool,
    figures: Figures,
}

impl Host {
    fn new() -> Self {
        Self {
            machine: Machine::new(Settings {
                backoff: Backoff::default(),
                on_failure: OnFailure::Exit,
                disconnect_on_sleep: false,
                on_demand: false,
            }),
            now: Now::default().plus(Duration::from_secs(1000)),
            chance: Chance::new(7),
            coming: Vec::new(),
            offline: false,
            figures: Figures::default(),
        }
    }

    /// A tunnel that is up, before anything is counted.
    fn up() -> Self {
        let mut host = Self::new();
        host.feed(Input::Start { origin: Origin::Boot });
        host.pass(Duration::from_secs(60));
        assert!(matches!(host.machine.state(), State::Up { .. }));
        host.figures = Figures::default();
        host
    }

    fn feed(&mut self, input: Input<Shell>) {
        let jitter = Jitter::new(u16::try_from(self.chance.below(65_536)).unwrap_or(0));
        for effect in self.machine.handle(input, self.now, jitter) {
            self.obey(effect);
        }
    }

    fn obey(&mut self, effect: Effect<Shell>) {
        let figures = &mut self.figures;
        match effect {
            Effect::Connect { g, .. } => {
                figures.connects += 1;
                let answer = if self.offline {
                    let (class, stage) = (FailClass::Network, Stage::Connect);
                    Input::ConnectFailed { g, class, stage }
                } else {
                    Input::Connected(g)
                };
                self.comes(CONNECT, answer);
            }
            Effect::Abort { .. } => self
                .coming
                .retain(|(_, input)| !matches!(input, Input::Connected(_) | Input::ConnectFailed { .. })),
            Effect::Park { g } => {
                figures.parks += 1;
                self.comes(ROUND_TRIP, Input::Parked(g));
            }
            Effect::Woke { g, .. } => {
                figures.unparks += 1;
                self.comes(ROUND_TRIP, Input::ProofOfLife(g));
            }
            Effect::AckSleep => figures.acknowledged += 1,
            Effect::Report(report) => self.count(report),
            Effect::Arm { .. }
            | Effect::Goodbye { .. }
            | Effect::Release { .. }
            | Effect::Record { .. }
            | Effect::HandOver { .. }
            | Effect::Curtail { .. }
            | Effect::AckStop { .. }
            | Effect::Housekeep
            | Effect::Hold
            | Effect::Resume
            | Effect::Rest
            | Effect::Mode(_)
            | Effect::Exit(_) => {}
        }
    }

    fn count(&mut self, report: Report) {
        let figures = &mut self.figures;
        match report {
            Report::Reconnecting(_) => {
                figures.notices += 1;
                figures.lines += 1;
            }
            Report::SessionEnd(..) => {
                figures.ends += 1;
                figures.lines += 1;
            }
            Report::SessionStart(_) | Report::ReconnectFailed(_) | Report::StartRefused | Report::Failed(_) => {
                figures.lines += 1;
            }
            Report::RetryIn(..) => {
                figures.failures += 1;
                figures.lines += u32::from(figures.failures.is_power_of_two());
            }
            Report::Suppressed(_, None) => figures.suppressed += 1,
            Report::Wake(WakeKind::Full, _) => figures.full += 1,
            Report::Wake(WakeKind::Maintenance, _) => figures.maintenance += 1,
            Report::Wake(WakeKind::Unknown, _) => figures.unknown += 1,
            Report::Suppressed(_, Some(_)) | Report::PathLost(..) | Report::PathBack(..) | Report::AlreadyWanted => {}
        }
    }

    fn comes(&mut self, after: Duration, input: Input<Shell>) {
        self.coming.push((self.now.awake.plus(after), input));
    }

    /// Lets waking time pass, with all that comes in it.
    fn pass(&mut self, time: Duration) {
        let end = self.now.awake.plus(time);
        loop {
            let deadline = self.machine.deadline().map(|deadline| deadline.at);
            let first = (0..self.coming.len()).min_by_key(|at| self.coming[*at].0);
            let coming = first.map(|at| (self.coming[at].0, at));
            let (at, input) = match (deadline, coming) {
                (Some(deadline), Some((at, _))) if deadline <= at => (deadline, None),
                (_, Some((at, index))) => (at, Some(index)),
                (Some(deadline), None) => (deadline, None),
                (None, None) => break,
            };
            if at > end {
                break;
            }
            self.now = self.now.plus(at.since(self.now.awake));
            let input = input.map_or(Input::DeadlineReached, |index| self.coming.swap_remove(index).1);
            self.feed(input);
        }
        self.now = self.now.plus(end.since(self.now.awake));
    }

    fn sleep(&mut self, time: Duration, source: Source, preparing: bool) {
        self.now = self.now.plus_asleep(time);
        self.look(source, preparing);
        self.feed(Input::ClockGap(Gap {
            length: time,
            awake: Duration::ZERO,
            kind: GapKind::Sleep,
        }));
    }

    fn look(&mut self, source: Source, preparing: bool) {
        let facts = match source {
            Source::None => return,
            Source::Presence => Surroundings {
                source,
                ..Surroundings::default()
            },
            Source::Facts => Surroundings {
                source,
                preparing: Some(preparing),
                lid_closed: Some(false),
                docked: None,
            },
        };
        self.feed(Input::Power(PowerWord::Surroundings(facts)));
    }
}

/// Ten hours with [`WAKES`] maintenance wakes of 30 to 55 s, and a user in the morning.
pub fn night(source: Source, policy: Policy, control: Control) -> Figures {
    let mut host = Host::up();
    let luck = Chance::new(11);
    let wakes: Vec<Duration> = (0..WAKES)
        .map(|_| Duration::from_millis(luck.between(30_000, 55_000)))
        .collect();
    let asleep = (NIGHT - wakes.iter().sum::<Duration>()) / (WAKES + 1);
    host.look(source, false);
    host.feed(Input::Power(PowerWord::Sleeping));
    host.pass(Duration::from_secs(1));
    for wake in wakes {
        host.sleep(asleep, source, true);
        wakes_up(&mut host, policy, control);
        host.pass(wake);
    }
    host.sleep(asleep, source, false);
    match source {
        Source::Presence => host.feed(Input::Power(PowerWord::UserPresent)),
        Source::Facts => host.feed(Input::Power(PowerWord::Resumed)),
        Source::None => {}
    }
    wakes_up(&mut host, policy, control);
    host.pass(Duration::from_secs(600));
    assert!(matches!(host.machine.state(), State::Up { .. }));
    assert_eq!(host.machine.word(), "up");
    host.figures
}

fn wakes_up(host: &mut Host, policy: Policy, control: Control) {
    if policy == Policy::Naive {
        host.feed(Input::Wake(WakeKind::Full));
    }
    if control == Control::Reset {
        host.feed(Input::ControlLost {
            g: Generation::FIRST,
            kind: LossKind::Reset,
        });
    }
}

/// A day in which no gateway answers, with the host awake, or asleep for most of it.
pub fn day_offline(sleeps: bool) -> Figures {
    let mut host = Host::up();
    host.offline = true;
    host.look(Source::Facts, false);
    host.feed(Input::ControlLost {
        g: Generation::FIRST,
        kind: LossKind::Timeout,
    });
    if !sleeps {
        host.pass(DAY);
        return host.figures;
    }
    for _ in 0..24 {
        host.pass(Duration::from_secs(600));
        host.feed(Input::Power(PowerWord::Sleeping));
        host.sleep(Duration::from_secs(1500), Source::Facts, true);
        host.pass(Duration::from_secs(40));
        host.sleep(Duration::from_secs(1460), Source::Facts, false);
        host.feed(Input::Power(PowerWord::Resumed));
    }
    host.figures
}
