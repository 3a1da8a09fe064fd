//! The model shell: it hands inputs to the machine and carries out the effects in exactly the order in which they come.

use std::collections::VecDeque;
use std::rc::Rc;

use ledger::Owed;
use lifecycle::{
    Backoff, Effect, EndReason, Generation, Input, Jitter, LossKind, Machine, Mode, OnFailure, PowerWord, Proofs,
    Report, Settings, State, StopReason, WakeKind,
};
use now::Now;

use crate::attempt::Attempt;
use crate::broken::Promise;
use crate::gateway::Epoch;
use crate::host::{Mark, Things};
use crate::planted::Planted;
use crate::process::{Process, Who};
use crate::tasks::Kind;
use crate::world::World;

/// The proofs of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shell;

impl Proofs for Shell {
    type Restored = Restored;
    type Owed = Owed;
}

/// The proof of the model host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) mark: Mark,
    pub(crate) residue: Things,
}

impl Instance {
    pub(crate) fn new(g: Generation, mark: Mark) -> Self {
        Self {
            g,
            mark,
            epoch: None,
            record: None,
            put: 0,
            forwarding: false,
            down: Down::Not,
            released: false,
            recording: false,
            recorded: false,
            handing_over: false,
            handed_over: false,
            curtailed: false,
            disk_failed: false,
            going: false,
            watched: false,
            bare: None,
        }
    }
}

/// How far an instance is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Down {
    Not,
    Releasing { done: usize },
    Released,
}

/// A tunnel instance in the hands of the shell.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) g: Generation,
    pub(crate) mark: Mark,
    pub(crate) epoch: Option<Epoch>,
    /// Its session's number in the books.
    pub(crate) record: Option<usize>,
    /// Things put on the host.
    pub(crate) put: usize,
    pub(crate) forwarding: bool,
    pub(crate) down: Down,
    /// `Released` was answered.
    pub(crate) released: bool,
    /// `Record` was ordered, and answered.
    pub(crate) recording: bool,
    pub(crate) recorded: bool,
    pub(crate) handing_over: bool,
    pub(crate) handed_over: bool,
    pub(crate) curtailed: bool,
    pub(crate) disk_failed: bool,
    /// Its device is on its way out.
    pub(crate) going: bool,
    /// Its device is watched for packets: it is armed, or was and connects.
    pub(crate) watched: bool,
    /// The record of it without a session.
    pub(crate) bare: Option<usize>,
}

/// A stop whose acknowledgement is awaited.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    pub(crate) asked: u64,
    pub(crate) held: u64,
}

/// The tunnel's own process.
pub(crate) struct Daemon {
    pub(crate) process: Process,
    pub(crate) machine: Machine<Shell>,
    pub(crate) ready: bool,
    inbox: VecDeque<Input<Shell>>,
    busy: bool,
    last_input: Now,
    pub(crate) attempt: Option<Attempt>,
    pub(crate) instances: Vec<Instance>,
    pub(crate) stops: VecDeque<Stop>,
    /// The instance that the last `Release` or `HandOver` was for.
    pub(crate) stopping: Option<Mark>,
    /// The task that works off the jobs.
    pub(crate) worker: Option<u32>,
    /// Told to rest.
    pub(crate) resting: bool,
    /// A stop keeps the worker from taking up anything.
    pub(crate) held: bool,
    /// Another is wanted when this one has ended.
    pub(crate) again: bool,
    /// A start that a planted fault keeps back.
    pub(crate) kept_back: Option<Input<Shell>>,
    /// When a stop was acknowledged last, in microseconds.
    pub(crate) last_acknowledged: u64,
}

impl Daemon {
    pub(crate) fn instance(&mut self, mark: Mark) -> Option<&mut Instance> {
        self.instances.iter_mut().find(|instance| instance.mark == mark)
    }

    /// Whether a record is that of a session which this process has or makes.
    pub(crate) fn holds(&self, record: usize) -> bool {
        let attempted = self.attempt.is_some_and(|attempt| attempt.record == Some(record));
        let has = |instance: &Instance| instance.record == Some(record) || instance.bare == Some(record);
        attempted || self.instances.iter().any(has)
    }

    pub(crate) fn of(&mut self, g: Generation) -> Option<&mut Instance> {
        self.instances.iter_mut().find(|instance| instance.g == g)
    }
}

impl World {
    /// What the machine needs at the start of the daemon. The first task is to look at what the process before left.
    pub(crate) fn start_daemon(self: &Rc<Self>) {
        if self.running(Who::Daemon).is_some() {
            return;
        }
        let process = self.bear(Who::Daemon);
        self.daemon_is_new();
        self.say(|| format!("{process} starts"));
        let on_failure = self.chance.pick(&[OnFailure::Stay, OnFailure::Stay, OnFailure::Exit]);
        *self.daemon.borrow_mut() = Some(Daemon {
            process,
            machine: Machine::new(Settings {
                backoff: Backoff::default(),
                on_failure,
                disconnect_on_sleep: self.disconnects,
                on_demand: self.demand.borrow().on,
            }),
            ready: false,
            inbox: VecDeque::new(),
            busy: false,
            last_input: self.now(),
            attempt: None,
            instances: Vec::new(),
            stops: VecDeque::new(),
            stopping: None,
            worker: None,
            resting: false,
            held: false,
            again: false,
            kept_back: None,
            last_acknowledged: 0,
        });
        self.spawn(process, Kind::Boot, 0);
    }

    /// Does something with the daemon, if it lives.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Daemon) -> T) -> Option<T> {
        self.daemon.borrow_mut().as_mut().map(act)
    }

    /// Does something with an instance, if the daemon has it.
    pub(crate) fn on(&self, mark: Mark, act: impl FnOnce(&mut Instance)) {
        self.with(|daemon| daemon.instance(mark).map(act));
    }

    /// Whether this run of the daemon still lives.
    pub(crate) fn is_life(&self, life: u32) -> bool {
        self.running(Who::Daemon).is_some_and(|process| process.life == life)
    }

    pub(crate) fn state(&self) -> Option<State> {
        self.with(|daemon| daemon.machine.state())
    }

    pub(crate) fn mode(&self) -> Option<Mode> {
        self.with(|daemon| daemon.machine.mode())
    }

    /// When the machine wants to be called, in microseconds.
    pub(crate) fn deadline(&self) -> Option<u64> {
        let daemon = self.daemon.borrow();
        let deadline = daemon.as_ref()?.machine.deadline()?;
        let forgotten = match deadline.reason {
            "end of a maintenance wake" => self.has(Planted::MaintenanceForEver),
            "end of a sleep that nobody told" => self.has(Planted::WordsInPairs),
            "acknowledgement of a sleep" => self.has(Planted::SleepWaits),
            _ => false,
        };
        if forgotten {
            return None;
        }
        u64::try_from(deadline.at.since_origin().as_micros()).ok()
    }

    pub(crate) fn deadline_reached(self: &Rc<Self>) {
        // Several may fall on one moment; each replaces one.
        for _ in 0..4 {
            let due = self.deadline().is_some_and(|deadline| deadline <= self.at.get());
            if !due {
                return;
            }
            self.feed(Input::DeadlineReached);
        }
        if let Some(deadline) = self.deadline().filter(|deadline| *deadline <= self.at.get()) {
            self.broke(Promise::L8Deadlines, || {
                format!("{} us is still the deadline at {} us", deadline, self.at.get())
            });
        }
    }

    /// Orders a stop, as signals and the local socket do.
    pub(crate) fn order_stop(self: &Rc<Self>, reason: StopReason, exit: bool) {
        let stop = Stop {
            asked: self.at.get(),
            held: self.held.get(),
        };
        let together = self.with(|daemon| {
            daemon.stops.push_back(stop);
            daemon.kept_back = None;
            daemon.stops.len() > 1
        });
        if together == Some(true) {
            self.counts.borrow_mut().stops_together += 1;
        }
        self.start_by.set(None);
        self.feed(Input::Stop { reason, exit });
    }

    /// Hands an input to the machine and obeys. Inputs that come of obeying wait their turn.
    pub(crate) fn feed(self: &Rc<Self>, input: Input<Shell>) {
        let busy = self.with(|daemon| {
            daemon.inbox.push_back(input);
            std::mem::replace(&mut daemon.busy, true)
        });
        let (Some(false), Some(process)) = (busy, self.running(Who::Daemon)) else {
            return;
        };
        while let Some(input) = self.with(|daemon| daemon.inbox.pop_front()).flatten() {
            self.say(|| format!("> {input:?}"));
            for effect in self.handle(input) {
                self.say(|| format!("< {effect:?}"));
                self.obey(effect);
                if !self.is_alive(process) {
                    return;
                }
            }
        }
        self.with(|daemon| daemon.busy = false);
    }

    /// One call of the machine, with the faults that are planted around it.
    fn handle(&self, input: Input<Shell>) -> Vec<Effect<Shell>> {
        let now = self.now();
        self.is_handled(&input);
        let ends = may_end_a_session(&input);
        let reset = match input {
            Input::ControlLost {
                g,
                kind: LossKind::Reset,
            } if self.has(Planted::ResetIsEnd) => Some(g),
            _ => None,
        };
        let jitter = Jitter::new(u16::try_from(self.chance.below(65_536)).unwrap_or(0));
        let handled = self.with(|daemon| {
            let input = match input {
                Input::Start { .. } if self.has(Planted::StartWaits) && daemon.worker.is_some() => {
                    daemon.kept_back = Some(input);
                    return Vec::new();
                }
                input if self.has(Planted::FenceOff) => rewritten(input, daemon.machine.state()),
                input => input,
            };
            let stale = self.has(Planted::DeadlineStays) && matches!(input, Input::DeadlineReached);
            let at = if stale { daemon.last_input } else { now };
            if !stale {
                daemon.last_input = now;
            }
            daemon.machine.handle(input, at, jitter)
        });
        let mut effects = handled.unwrap_or_default();
        if let Some(g) = reset
            && !effects.is_empty()
        {
            effects.push(Effect::Report(Report::SessionEnd(g, EndReason::Fatal)));
        }
        for effect in &effects {
            // The login that runs when a connection is lost begins another session.
            if let Effect::Report(Report::SessionEnd(g, reason)) = effect
                && !ends
                && *reason != EndReason::AuthExpired
            {
                self.broke(Promise::NoFalseEnd, || format!("{g} ends by {reason}"));
            }
        }
        if self.has(Planted::ChoresFirst) {
            effects.sort_by_key(|effect| !matches!(effect, Effect::Housekeep));
        }
        effects
    }

    fn obey(self: &Rc<Self>, effect: Effect<Shell>) {
        match effect {
            Effect::Connect { g, how, trigger } => self.connect(g, how, trigger),
            Effect::Arm { g } => self.arm(g),
            Effect::Abort { g } => self.abort(g),
            Effect::Goodbye { g } => self.goodbye(g),
            Effect::Release { g } => self.release(g),
            Effect::Record { g } => self.record(g),
            Effect::HandOver { g } => self.hand_over(g),
            Effect::Curtail { g } => self.curtail(g),
            Effect::AckStop { outcome, .. } => self.acknowledge(outcome),
            Effect::Housekeep => {
                self.with(|daemon| daemon.held = false);
                self.housekeep();
            }
            Effect::Hold => {
                let goes_on = self.has(Planted::NoHold);
                self.with(|daemon| daemon.held = !goes_on);
            }
            Effect::Resume => {
                self.with(|daemon| daemon.held = false);
            }
            Effect::Rest => {
                self.with(|daemon| daemon.held = false);
                let kept_on = self.has(Planted::NoRest);
                self.with(|daemon| {
                    daemon.resting = !kept_on;
                    daemon.again = false;
                });
            }
            Effect::Mode(mode) => self.mode_changed(mode),
            Effect::Park { g } => self.park(g),
            Effect::AckSleep => self.sleep_acknowledged(),
            Effect::Woke { g, .. } => self.woke(g),
            Effect::Report(report) => self.report(report),
            Effect::Exit(_) => self.exit(),
        }
    }

    fn report(&self, report: Report) {
        match report {
            Report::SessionStart(_) => self.counts.borrow_mut().sessions += 1,
            Report::PathBack(..) => self.counts.borrow_mut().resumed += 1,
            Report::StartRefused => self.start_by.set(None),
            Report::Reconnecting(g) => self.check_notice(g),
            Report::Wake(kind, _) => {
                let mut counts = self.counts.borrow_mut();
                match kind {
                    WakeKind::Full => counts.wakes_full += 1,
                    WakeKind::Maintenance => counts.wakes_maintenance += 1,
                    WakeKind::Unknown => counts.wakes_unknown += 1,
                }
            }
            Report::SessionEnd(..)
            | Report::PathLost(..)
            | Report::RetryIn(..)
            | Report::Suppressed(..)
            | Report::ReconnectFailed(_)
            | Report::AlreadyWanted
            | Report::Failed(_) => {}
        }
    }

    /// The instance of a generation, made when it is first heard of.
    pub(crate) fn mark(&self, g: Generation) -> Mark {
        let known = self.with(|daemon| daemon.instances.iter().find(|instance| instance.g == g).map(|i| i.mark));
        if let Some(mark) = known.flatten() {
            return mark;
        }
        let mark = Mark(self.next_number());
        self.with(|daemon| daemon.instances.push(Instance::new(g, mark)));
        mark
    }
}

/// Whether this is something that a session may end by.
fn may_end_a_session(input: &Input<Shell>) -> bool {
    match input {
        Input::ControlLost { .. }
        | Input::ClockGap(_)
        | Input::Wake(_)
        | Input::Power(PowerWord::Resumed | PowerWord::UserPresent)
        | Input::Renew(_)
        | Input::Parked(_)
        | Input::Demand
        | Input::NotArmed(_)
        | Input::Idle(_)
        | Input::PathChange
        | Input::ProofOfLife(_)
        | Input::PathSilent(_) => false,
        // These may announce a sleep, for which the tunnel is taken down.
        Input::Power(PowerWord::Sleeping | PowerWord::Surroundings(_))
        | Input::Start { .. }
        | Input::Stop { .. }
        | Input::Cancel
        | Input::Reconnect
        | Input::Connected(_)
        | Input::ConnectFailed { .. }
        | Input::Dialled(_)
        | Input::SessionEnded { .. }
        | Input::Released { .. }
        | Input::Recorded { .. }
        | Input::HandedOver { .. }
        | Input::NetworkRule(_)
        | Input::JobsDue
        | Input::JobsDone
        | Input::DeadlineReached => true,
    }
}

fn rewritten(input: Input<Shell>, state: State) -> Input<Shell> {
    let (State::Starting { g, .. }
    | State::Armed { g, .. }
    | State::Up { g, .. }
    | State::Reasserting { g, .. }
    | State::Stopping { g, .. }) = state
    else {
        return input;
    };
    match input {
        Input::Connected(_) => Input::Connected(g),
        Input::ConnectFailed { class, stage, .. } => Input::ConnectFailed { g, class, stage },
        Input::ControlLost { kind, .. } => Input::ControlLost { g, kind },
        Input::SessionEnded { reason, .. } => Input::SessionEnded { g, reason },
        Input::Released { restored, .. } => Input::Released { g, restored },
        Input::Recorded { owed, .. } => Input::Recorded { g, owed },
        Input::HandedOver { kept, .. } => Input::HandedOver { g, kept },
        Input::Renew(_) => Input::Renew(g),
        Input::NotArmed(_) => Input::NotArmed(g),
        Input::Idle(_) => Input::Idle(g),
        Input::Parked(_) => Input::Parked(g),
        Input::ProofOfLife(_) => Input::ProofOfLife(g),
        Input::PathSilent(_) => Input::PathSilent(g),
        Input::Start { .. }
        | Input::Stop { .. }
        | Input::Cancel
        | Input::Reconnect
        | Input::Dialled(_)
        | Input::JobsDue
        | Input::JobsDone
        | Input::Power(_)
        | Input::Wake(_)
        | Input::ClockGap(_)
        | Input::Demand
        | Input::NetworkRule(_)
        | Input::PathChange
        | Input::DeadlineReached => input,
    }
}
