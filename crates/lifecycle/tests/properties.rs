//! Random lives: a shell that answers in any order, late or twice, never sees the machine break a promise.

use std::collections::BTreeSet;
use std::time::Duration;

use lifecycle::{
    ACK_BUDGET, Acknowledged, Attempt, Backoff, DEMAND_LASTS, Effect, EndReason, FailClass, Generation, Input, Jitter,
    LossKind, MAINTENANCE_DOUBTED_AFTER, Machine, Mode, OnFailure, Origin, Phase, PowerWord, Proofs, Report, Rule,
    SLEEP_ACK_BUDGET, Settings, Source, Stage, State, StopReason, Surroundings, WakeKind,
};
use now::{Awake, Boot, Gap, GapKind, Now};
use proptest::prelude::*;

/// [`lifecycle::UNSURE_FOR`] in milliseconds.
const UNSURE_MS: u64 = 20_000;

/// How far the shell came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Done,
    Unfinished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shell;

impl Proofs for Shell {
    type Restored = Proof;
    type Owed = Proof;
}

/// What the world does next. Answers for generations that never were are part of it.
#[derive(Clone, Debug)]
enum Step {
    Input(Input<Shell>),
    /// The shell finishes releasing.
    Release,
    /// The disk finishes recording.
    Record,
    /// The worker has nothing left.
    Rested,
    /// Time passes, the deadline fires if it is due.
    Wait(Duration),
    /// Time passes exactly to the deadline.
    Deadline,
    /// The process is stopped for a while.
    Freeze(Duration),
}

fn generation() -> impl Strategy<Value = Generation> {
    (0u8..4).prop_map(|count| (0..count).fold(Generation::FIRST, |g, _| g.next()))
}

fn class() -> impl Strategy<Value = FailClass> {
    prop_oneof![
        Just(FailClass::Offline),
        Just(FailClass::Network),
        Just(FailClass::Unavailable),
        Just(FailClass::CookieRefused),
        Just(FailClass::AuthRefused),
        Just(FailClass::Fatal),
    ]
}

fn reason() -> impl Strategy<Value = EndReason> {
    prop_oneof![
        Just(EndReason::Admin),
        Just(EndReason::AuthExpired),
        Just(EndReason::Replaced),
        Just(EndReason::Fatal),
        Just(EndReason::StayDown)
    ]
}

fn word() -> impl Strategy<Value = PowerWord> {
    let source = prop_oneof![Just(Source::None), Just(Source::Facts), Just(Source::Presence)];
    let surroundings = (
        source,
        any::<Option<bool>>(),
        any::<Option<bool>>(),
        any::<Option<bool>>(),
    );
    prop_oneof![
        2 => Just(PowerWord::Sleeping),
        1 => Just(PowerWord::Resumed),
        1 => Just(PowerWord::UserPresent),
        2 => surroundings.prop_map(|(source, preparing, lid_closed, docked)| {
            PowerWord::Surroundings(Surroundings { source, preparing, lid_closed, docked })
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let stage = prop_oneof![Just(Stage::Login), Just(Stage::Connect), Just(Stage::Granted)];
    let input = prop_oneof![
        Just(Input::Start { origin: Origin::User }),
        Just(Input::Start { origin: Origin::Boot }),
        Just(Input::Start {
            origin: Origin::Restore
        }),
        (any::<bool>(), any::<bool>()).prop_map(|(exit, restart)| Input::Stop {
            reason: if restart { StopReason::Restart } else { StopReason::User },
            exit
        }),
        word().prop_map(Input::Power),
        word().prop_map(Input::Power),
        prop_oneof![
            Just(WakeKind::Full),
            Just(WakeKind::Maintenance),
            Just(WakeKind::Unknown)
        ]
        .prop_map(Input::Wake),
        Just(Input::JobsDue),
        Just(Input::Demand),
        Just(Input::Demand),
        generation().prop_map(Input::Idle),
        generation().prop_map(Input::NotArmed),
        any::<bool>().prop_map(|there| Input::NetworkRule(if there { Rule::Connect } else { Rule::StayDown })),
        Just(Input::PathChange),
        generation().prop_map(Input::Parked),
        generation().prop_map(Input::ProofOfLife),
        generation().prop_map(Input::PathSilent),
        (generation(), any::<bool>()).prop_map(|(g, kept)| Input::HandedOver { g, kept }),
        Just(Input::Cancel),
        Just(Input::Reconnect),
        generation().prop_map(Input::Renew),
        generation().prop_map(Input::Connected),
        generation().prop_map(Input::Connected),
        (generation(), class(), stage).prop_map(|(g, class, stage)| Input::ConnectFailed { g, class, stage }),
        (0u32..4).prop_map(Input::Dialled),
        generation().prop_map(|g| Input::ControlLost {
            g,
            kind: LossKind::Reset
        }),
        (generation(), reason()).prop_map(|(g, reason)| Input::SessionEnded { g, reason }),
        Just(Input::DeadlineReached),
    ];
    let wait = (0u64..60_000).prop_map(Duration::from_millis);
    prop_oneof![
        8 => input.prop_map(Step::Input),
        3 => Just(Step::Release),
        3 => Just(Step::Record),
        1 => Just(Step::Rested),
        3 => wait.clone().prop_map(Step::Wait),
        3 => Just(Step::Deadline),
        1 => wait.prop_map(Step::Freeze),
    ]
}

/// A shell that checks every promise while it obeys.
struct World {
    machine: Machine<Shell>,
    now: Now,
    jitter: u16,
    /// An attempt is running.
    connecting: Option<Generation>,
    /// Not released yet.
    on_host: BTreeSet<Generation>,
    releasing: Option<Generation>,
    recording: Option<Generation>,
    handing_over: Option<Generation>,
    housekeeping: bool,
    held: bool,
    session: Option<Generation>,
    stops: u32,
    acknowledged: u32,
    /// The machine wants its answers now.
    curtailed: bool,
    /// The generation whose proofs were given ahead of the work.
    unfinished: Option<Generation>,
    /// What may run, as the effects say.
    mode: Mode,
    /// The gateway was told of a sleep, since the last full wake.
    parked: bool,
    /// Sleeps that wait for their acknowledgement, since when.
    asleep_since: Option<Awake>,
    /// A wake was reported by the input that is being handled.
    woke: bool,
    /// Something other than traffic or a person is being handled by an armed tunnel.
    unasked: bool,
    /// When traffic asked last for the connection that is being made for it.
    asked: Option<Boot>,
    /// The process is gone, with the deadline it left.
    exited: bool,
}

impl World {
    fn new(on_failure: OnFailure) -> Self {
        Self::with(on_failure, false, false)
    }

    fn with(on_failure: OnFailure, disconnect_on_sleep: bool, on_demand: bool) -> Self {
        Self {
            machine: Machine::new(Settings {
                backoff: Backoff::default(),
                on_failure,
                disconnect_on_sleep,
                on_demand,
            }),
            now: Now::default().plus(Duration::from_secs(100)),
            jitter: 0,
            connecting: None,
            on_host: BTreeSet::new(),
            releasing: None,
            recording: None,
            handing_over: None,
            housekeeping: false,
            held: false,
            session: None,
            stops: 0,
            acknowledged: 0,
            curtailed: false,
            unfinished: None,
            mode: Mode::Awake,
            parked: false,
            asleep_since: None,
            woke: false,
            unasked: false,
            asked: None,
            exited: false,
        }
    }

    fn feed(&mut self, input: Input<Shell>) {
        if self.exited {
            return;
        }
        self.jitter = self.jitter.wrapping_mul(25_173).wrapping_add(13_849);
        let before = self.machine.state();
        self.stops += u32::from(matches!(input, Input::Stop { .. }));
        // What a shell would not say: an attempt that is not running can neither succeed nor fail.
        if let Input::Connected(g) | Input::ConnectFailed { g, .. } = input
            && self.connecting == Some(g)
        {
            self.connecting = None;
        }
        let fired = matches!(input, Input::DeadlineReached);
        if matches!(input, Input::Power(PowerWord::Sleeping)) {
            self.asleep_since.get_or_insert(self.now.awake);
        }
        self.woke = false;
        let restore = matches!(
            input,
            Input::Start {
                origin: Origin::Restore
            }
        );
        let asks = matches!(
            input,
            Input::Demand | Input::Start { .. } | Input::Reconnect | Input::NotArmed(_)
        );
        self.unasked = matches!(before, State::Armed { .. }) && !asks;
        let demand = matches!(input, Input::Demand);
        let person = matches!(input, Input::Reconnect | Input::Start { origin: Origin::User });
        // What a refused cookie leads to goes on at once.
        let refused = matches!(
            input,
            Input::ConnectFailed {
                class: FailClass::CookieRefused,
                ..
            }
        );
        let effects = self.machine.handle(input, self.now, Jitter::new(self.jitter));
        match (before, self.machine.state()) {
            (State::Armed { .. }, State::Reasserting { .. }) if demand => self.asked = Some(self.now.boot),
            (State::Reasserting { .. }, State::Reasserting { .. }) if person => self.asked = None,
            (State::Reasserting { .. }, State::Reasserting { .. }) => {
                self.asked = self.asked.map(|asked| if demand { self.now.boot } else { asked });
            }
            _ => self.asked = None,
        }
        if let (Some(asked), false) = (self.asked, refused) {
            let dials = effects.iter().any(|effect| matches!(effect, Effect::Connect { .. }));
            assert!(
                !dials || self.now.boot.since(asked) < DEMAND_LASTS,
                "nothing is dialled for traffic that is old"
            );
        }
        if let (true, State::Idle | State::Failed(_), State::Reasserting { g, .. } | State::Stopping { g, .. }) =
            (restore, before, self.machine.state())
        {
            // The process before left its session.
            self.session = Some(g);
        }
        for effect in effects {
            self.obey(effect, before);
        }
        if std::mem::take(&mut self.curtailed) {
            self.answer_with_what_there_is();
        }
        assert_eq!(self.mode, self.machine.mode(), "every change of what may run is told");
        if let Some(since) = self.asleep_since {
            let deadline = self.machine.deadline().expect("a sleep waits");
            assert!(
                deadline.at <= since.plus(SLEEP_ACK_BUDGET),
                "a sleep is acknowledged in time"
            );
        }
        if let Some(deadline) = self.machine.deadline() {
            assert!(
                !fired || deadline.at > self.now.awake,
                "a deadline that fired is replaced by a later one"
            );
        }
    }

    fn answer_with_what_there_is(&mut self) {
        if let Some(g) = self.handing_over.take() {
            return self.feed(Input::HandedOver { g, kept: false });
        }
        if let Some(g) = self.releasing {
            self.unfinished = Some(g);
            self.feed(Input::Released {
                g,
                restored: Proof::Unfinished,
            });
        }
        if let Some(g) = self.recording.take() {
            self.feed(Input::Recorded {
                g,
                owed: Proof::Unfinished,
            });
        }
    }

    fn obey(&mut self, effect: Effect<Shell>, before: State) {
        match effect {
            Effect::Connect { g, .. } => {
                assert_eq!(self.connecting, None, "one attempt at a time");
                assert!(self.on_host.iter().all(|other| *other == g), "one generation at a time");
                assert_eq!(
                    self.releasing, None,
                    "nothing connects while the host is being restored"
                );
                assert_eq!(self.machine.mode(), Mode::Awake, "nothing connects in sleep");
                assert!(!self.unasked, "an armed tunnel dials for traffic and persons only");
                self.connecting = Some(g);
                self.on_host.insert(g);
            }
            Effect::Arm { g } => {
                assert_eq!(self.connecting, None, "an armed tunnel does not connect");
                assert!(self.on_host.iter().all(|other| *other == g), "one generation at a time");
                assert!(matches!(self.machine.state(), State::Armed { g: armed, .. } if armed == g));
                self.on_host.insert(g);
            }
            Effect::Abort { g } => {
                assert!(self.connecting.is_none_or(|running| running == g));
                self.connecting = None;
            }
            Effect::Goodbye { g } => {
                assert!(
                    matches!(before, State::Up { g: up, .. } if up == g),
                    "a goodbye needs a connection"
                );
            }
            Effect::Release { g } => {
                assert_eq!(self.connecting, None, "the attempt is cancelled first");
                assert_eq!(self.releasing.replace(g), None, "one release at a time");
            }
            Effect::Record { g } => {
                assert!(self.releasing.is_none() || self.unfinished == Some(g), "released first");
                assert_eq!(self.recording.replace(g), None, "one record at a time");
            }
            Effect::HandOver { g } => {
                assert_eq!(self.connecting, None, "the attempt is cancelled first");
                self.handing_over = Some(g);
            }
            Effect::Curtail { .. } => self.curtailed = true,
            Effect::Housekeep => {
                assert!(!self.housekeeping, "one worker at a time");
                assert_eq!(self.stops, self.acknowledged, "no chore before the acknowledgement");
                assert_eq!(self.machine.mode(), Mode::Awake, "no chore in sleep");
                self.housekeeping = true;
            }
            Effect::Hold => assert!(
                self.housekeeping && !std::mem::replace(&mut self.held, true),
                "held once"
            ),
            Effect::Resume => assert!(
                self.housekeeping && std::mem::take(&mut self.held),
                "only who is held goes on"
            ),
            Effect::Rest => {
                assert!(std::mem::take(&mut self.housekeeping), "only a worker rests");
                self.held = false;
            }
            Effect::AckStop { took, outcome } => {
                self.acknowledged += 1;
                assert!(self.acknowledged <= self.stops, "no acknowledgement without a stop");
                match outcome {
                    Acknowledged::WasDown | Acknowledged::HandedOver => {}
                    Acknowledged::Down {
                        restored: Proof::Done, ..
                    } => assert!(self.on_host.is_empty(), "restored first"),
                    Acknowledged::Down { .. } => assert!(took >= ACK_BUDGET, "not before the budget is used up"),
                }
                // What comes while the host settles is answered at once; the stop itself is acknowledged.
                let settling = matches!(
                    before,
                    State::Stopping {
                        phase: Phase::Settling,
                        ..
                    }
                );
                let down = matches!(outcome, Acknowledged::Down { .. }) && !settling;
                assert!(
                    !(down && self.housekeeping && !self.held),
                    "no chore is taken up while a stop waits"
                );
                assert!(!matches!(outcome, Acknowledged::WasDown) || self.on_host.is_empty());
            }
            Effect::Mode(mode) => {
                assert_ne!(std::mem::replace(&mut self.mode, mode), mode, "only changes are told");
                self.parked &= mode != Mode::Awake;
            }
            Effect::Park { g } => {
                assert!(
                    matches!(before, State::Up { g: up, .. } | State::Reasserting { g: up, .. } if up == g),
                    "only who is up parks"
                );
                assert!(
                    !std::mem::replace(&mut self.parked, true),
                    "once until the next full wake"
                );
            }
            // What can be read may have announced it, and then nobody waits.
            Effect::AckSleep => self.asleep_since = None,
            Effect::Woke { .. } => assert_eq!(self.mode, Mode::Awake),
            Effect::Report(Report::Wake(..)) => self.woke = true,
            Effect::Report(Report::SessionStart(g)) => assert_eq!(self.session.replace(g), None),
            Effect::Report(Report::SessionEnd(g, _)) => assert_eq!(self.session.take(), Some(g)),
            Effect::Report(_) => {}
            Effect::Exit(_) => {
                assert_eq!(
                    self.acknowledged, self.stops,
                    "every stop is acknowledged before the end"
                );
                self.exited = true;
            }
        }
    }

    fn release(&mut self) {
        if let Some(g) = self.releasing.take() {
            self.on_host.remove(&g);
            self.unfinished = None;
            self.feed(Input::Released {
                g,
                restored: Proof::Done,
            });
        }
    }

    fn record(&mut self) {
        if let Some(g) = self.recording.take() {
            self.feed(Input::Recorded { g, owed: Proof::Done });
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            // A shell never claims a release that did not happen, or an attempt it did not make.
            Step::Input(Input::HandedOver { g, .. }) if self.handing_over != Some(g) => {}
            Step::Input(Input::HandedOver { g, kept }) => {
                self.handing_over = None;
                if kept {
                    self.on_host.remove(&g);
                    self.session = None;
                }
                self.feed(Input::HandedOver { g, kept });
            }
            Step::Input(Input::Connected(g) | Input::ConnectFailed { g, .. }) if self.connecting != Some(g) => {
                // It may come late, though: then it is of an older generation, or nothing is waited for.
                let running = matches!(
                    self.machine.state(),
                    State::Up {
                        replacement: None | Some(Attempt::Waiting(..)),
                        ..
                    } | State::Stopping { .. }
                );
                if running {
                    self.feed(Input::Connected(g));
                }
            }
            Step::Input(input) => self.feed(input),
            Step::Release => self.release(),
            Step::Record => self.record(),
            Step::Rested => {
                if std::mem::take(&mut self.housekeeping) {
                    self.held = false;
                    self.feed(Input::JobsDone);
                }
            }
            Step::Wait(time) => {
                self.now = self.now.plus(time);
                self.feed(Input::DeadlineReached);
            }
            Step::Deadline => {
                if let Some(deadline) = self.machine.deadline() {
                    self.now = self.now.plus(deadline.at.since(self.now.awake));
                    self.feed(Input::DeadlineReached);
                }
            }
            Step::Freeze(_) if self.exited => {}
            Step::Freeze(time) => {
                self.asleep_since = self.asleep_since.map(|since| since.plus(time));
                let awake = self.mode == Mode::Awake;
                let before = self
                    .machine
                    .deadline()
                    .map(|deadline| deadline.at.since(self.now.awake));
                self.now = self.now.plus(time);
                self.feed(Input::ClockGap(Gap {
                    length: time,
                    awake: time,
                    kind: GapKind::Freeze,
                }));
                let after = self
                    .machine
                    .deadline()
                    .map(|deadline| deadline.at.since(self.now.awake));
                if self.mode == Mode::Awake && awake && !self.woke {
                    assert_eq!(before, after, "no verdict uses time across a clock gap");
                } else {
                    assert!(
                        self.mode != self.machine.mode() || after.is_none_or(|after| after > Duration::ZERO),
                        "no doubt ends by a clock gap"
                    );
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_promise_is_broken_in_a_random_life(
        stay: bool,
        disconnect: bool,
        on_demand: bool,
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::with(if stay { OnFailure::Stay } else { OnFailure::Exit }, disconnect, on_demand);
        for step in steps {
            world.run(step);
        }
        // Whatever happened: one more stop, a release that never ends, and every stop has its acknowledgement.
        world.feed(Input::Stop { reason: StopReason::User, exit: false });
        world.now = world.now.plus(ACK_BUDGET);
        world.feed(Input::DeadlineReached);
        prop_assert_eq!(world.acknowledged, world.stops);
        // And once it is over, nothing is left.
        world.release();
        world.record();
        prop_assert!(world.exited || matches!(world.machine.state(), State::Idle | State::Failed(_)));
        prop_assert!(world.exited || world.on_host.is_empty());
        prop_assert!(world.session.is_none());
    }

    #[test]
    fn the_wanted_state_is_reached_when_faults_end(
        failures in proptest::collection::vec(
            prop_oneof![
                Just(FailClass::Offline),
                Just(FailClass::Network),
                Just(FailClass::Unavailable),
                Just(FailClass::CookieRefused)
            ],
            0..40,
        ),
    ) {
        let mut world = World::new(OnFailure::Exit);
        world.feed(Input::Start { origin: Origin::Boot });
        for class in failures {
            while world.connecting.is_none() {
                world.run(Step::Deadline);
            }
            world.feed(Input::ConnectFailed { g: Generation::FIRST, class, stage: Stage::Connect });
        }
        while world.connecting.is_none() {
            world.run(Step::Deadline);
        }
        world.feed(Input::Connected(Generation::FIRST));
        prop_assert_eq!(world.session, Some(Generation::FIRST));
        prop_assert_eq!(world.machine.deadline(), None);
    }

    #[test]
    fn a_gateway_that_drops_every_connection_sees_no_flood(lives in proptest::collection::vec(0u64..20_000, 50..200)) {
        let mut world = World::new(OnFailure::Exit);
        let begin = world.now;
        let mut connections = 0u64;
        world.feed(Input::Start { origin: Origin::Boot });
        for life in lives {
            while world.connecting.is_none() {
                world.run(Step::Deadline);
            }
            connections += 1;
            world.feed(Input::Connected(Generation::FIRST));
            world.now = world.now.plus(Duration::from_millis(life));
            world.feed(Input::ControlLost { g: Generation::FIRST, kind: LossKind::Eof });
        }
        let elapsed = world.now.awake.since(begin.awake).as_secs();
        prop_assert!(connections <= 8 + elapsed / 20 + 1, "{connections} in {elapsed} s");
    }

    #[test]
    fn a_host_in_use_for_two_minutes_is_taken_for_awake_whatever_was_said(
        disconnect: bool,
        on_demand: bool,
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::with(OnFailure::Stay, disconnect, on_demand);
        for step in steps {
            world.run(step);
        }
        // A third of the lives is over by now; to leave them out would be to count them as failures of the test.
        if world.exited {
            return Ok(());
        }
        let end = world.now.awake.plus(MAINTENANCE_DOUBTED_AFTER);
        while !world.exited
            && let Some(deadline) = world.machine.deadline().filter(|deadline| deadline.at <= end)
        {
            world.now = world.now.plus(deadline.at.since(world.now.awake));
            world.feed(Input::DeadlineReached);
        }
        prop_assert!(world.exited || world.machine.mode() == Mode::Awake, "{:?}", world.machine.mode());
    }

    #[test]
    fn a_wake_of_unknown_kind_makes_one_connection_at_most_before_it_has_lasted(
        asks in proptest::collection::vec((0u64..UNSURE_MS, 0u8..5), 1..40),
    ) {
        let mut world = World::new(OnFailure::Exit);
        let g = Generation::FIRST;
        world.feed(Input::Start { origin: Origin::Boot });
        world.feed(Input::Connected(g));
        world.feed(Input::ControlLost { g, kind: LossKind::Eof });
        world.now = world.now.plus_asleep(Duration::from_secs(3600));
        let (length, awake) = (Duration::from_secs(3600), Duration::ZERO);
        world.feed(Input::ClockGap(Gap { length, awake, kind: GapKind::Sleep }));
        let woke = world.now;
        let mut asks = asks;
        asks.sort_unstable();
        let mut connections = 0;
        for (ms, ask) in asks {
            let wait = woke.awake.plus(Duration::from_millis(ms)).since(world.now.awake);
            world.now = world.now.plus(wait);
            world.feed(Input::DeadlineReached);
            world.feed(match ask {
                0 => Input::Demand,
                1 => Input::PathChange,
                2 => Input::PathSilent(g),
                3 => Input::JobsDue,
                _ => Input::Power(PowerWord::Resumed),
            });
            if world.connecting.is_some() {
                connections += 1;
                world.feed(Input::ConnectFailed { g, class: FailClass::Network, stage: Stage::Connect });
            }
        }
        prop_assert!(connections <= 1, "{connections}");
    }

    #[test]
    fn an_armed_tunnel_makes_no_connection_until_a_packet_comes(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::with(OnFailure::Stay, false, true);
        world.feed(Input::Start { origin: Origin::Boot });
        for step in steps {
            let asks = matches!(
                step,
                Step::Input(Input::Demand | Input::Start { .. } | Input::Reconnect | Input::NotArmed(_))
            );
            if !asks {
                world.run(step);
            }
            prop_assert_eq!(world.connecting, None);
        }
        // A stop may have come; where the tunnel is armed and the host awake, a packet gets its connection.
        if matches!(world.machine.state(), State::Armed { .. }) && world.machine.mode() == Mode::Awake {
            world.feed(Input::Demand);
            prop_assert!(world.connecting.is_some());
        }
    }
}
