//! Every state with every input, compared with the golden page docs/TRANSITIONS.md.
//!
//! After a change that is meant, the page is what the failing test prints below its first line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use lifecycle::{
    Acknowledged, Attempt, Backoff, Effect, EndReason, FailClass, Generation, How, Input, Jitter, LossKind, Machine,
    Mode, OnFailure, Origin, Patience, Phase, PowerWord, Proofs, Report, Rule, Settings, Source, Stage, State,
    StopReason, Surroundings, Then, WakeKind,
};
use now::{Awake, Gap, GapKind, Now};

const JITTER: Jitter = Jitter::new(32_768);
const G1: Generation = Generation::FIRST;

/// The proofs of these tests are words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Words;

impl Proofs for Words {
    type Restored = &'static str;
    type Owed = &'static str;
}

struct Story {
    name: &'static str,
    machine: Machine<Words>,
    now: Now,
}

impl Story {
    fn new(name: &'static str, on_failure: OnFailure) -> Self {
        let settings = Settings {
            backoff: Backoff::default(),
            on_failure,
            disconnect_on_sleep: false,
            on_demand: false,
        };
        Self {
            name,
            machine: Machine::new(settings),
            now: Now::default().plus(Duration::from_secs(1000)),
        }
    }

    /// The tunnel is down while the host sleeps.
    fn disconnecting(name: &'static str) -> Self {
        let mut story = Self::new(name, OnFailure::Exit);
        story.machine.set_disconnect_on_sleep(true);
        story
    }

    /// The tunnel waits for traffic.
    fn on_demand(name: &'static str) -> Self {
        let mut story = Self::new(name, OnFailure::Exit);
        story.machine.set_on_demand(true);
        story
    }

    fn then(mut self, inputs: &[Input<Words>]) -> Self {
        for input in inputs {
            self.now = passes(self.now, input);
            self.machine.handle(input.clone(), self.now, JITTER);
        }
        self
    }

    fn wait(mut self, wait: Duration) -> Self {
        self.now = self.now.plus(wait);
        self.then(&[Input::DeadlineReached])
    }
}

const START: Input<Words> = Input::Start { origin: Origin::User };
const BOOT: Input<Words> = Input::Start { origin: Origin::Boot };
const STOP: Input<Words> = stop(false);
const QUIT: Input<Words> = stop(true);
const UP: Input<Words> = Input::Connected(G1);
const LOST: Input<Words> = Input::ControlLost {
    g: G1,
    kind: LossKind::Eof,
};
const STAY_DOWN: Input<Words> = Input::NetworkRule(Rule::StayDown);
const RESTART: Input<Words> = Input::Stop {
    reason: StopReason::Restart,
    exit: true,
};
const RELEASED: Input<Words> = Input::Released {
    g: G1,
    restored: "clean",
};
const RESIDUE: Input<Words> = Input::Released {
    g: G1,
    restored: "residue",
};
const RECORDED: Input<Words> = Input::Recorded {
    g: G1,
    owed: "recorded",
};
const TOO_SLOW: Input<Words> = Input::Recorded {
    g: G1,
    owed: "disk too slow",
};
const SLEEPING: Input<Words> = Input::Power(PowerWord::Sleeping);
const RESUMED: Input<Words> = Input::Power(PowerWord::Resumed);
const USER: Input<Words> = Input::Power(PowerWord::UserPresent);
const NAP: Input<Words> = Input::ClockGap(Gap {
    length: Duration::from_secs(3600),
    awake: Duration::ZERO,
    kind: GapKind::Sleep,
});
const FREEZE: Input<Words> = Input::ClockGap(Gap {
    length: Duration::from_secs(60),
    awake: Duration::from_secs(60),
    kind: GapKind::Freeze,
});
/// Longer than anybody waits for.
const AGES: Input<Words> = Input::ClockGap(Gap {
    length: Duration::from_secs(20),
    awake: Duration::from_secs(20),
    kind: GapKind::Freeze,
});
const OLD_COOKIE: Input<Words> = failed(G1, FailClass::CookieRefused, Stage::Connect);

const fn around(source: Source, preparing: Option<bool>, lid_closed: Option<bool>) -> Input<Words> {
    Input::Power(PowerWord::Surroundings(Surroundings {
        source,
        preparing,
        lid_closed,
        docked: None,
    }))
}

/// What can be read where logind is: nothing is prepared, and the lid is open.
const FACTS: Input<Words> = around(Source::Facts, Some(false), Some(false));
/// The same in the middle of a sleep job.
const PREPARING: Input<Words> = around(Source::Facts, Some(true), Some(false));
const LID_CLOSED: Input<Words> = around(Source::Facts, Some(false), Some(true));
const PRESENCE: Input<Words> = around(Source::Presence, None, None);

/// Lets a gap pass before it is told.
fn passes(now: Now, input: &Input<Words>) -> Now {
    let Input::ClockGap(gap) = input else { return now };
    now.plus(gap.awake).plus_asleep(gap.length.saturating_sub(gap.awake))
}

const fn stop(exit: bool) -> Input<Words> {
    Input::Stop {
        reason: StopReason::User,
        exit,
    }
}

const fn failed(g: Generation, class: FailClass, stage: Stage) -> Input<Words> {
    Input::ConnectFailed { g, class, stage }
}

fn stories() -> Vec<Story> {
    let exit = |name| Story::new(name, OnFailure::Exit);
    let stay = |name| Story::new(name, OnFailure::Stay);
    let network = failed(G1, FailClass::Network, Stage::Login);
    let refused = failed(G1, FailClass::AuthRefused, Stage::Login);
    let refused2 = refused.clone();
    let (ack, soon) = (Duration::from_millis(250), Duration::from_secs(1));
    vec![
        exit("idle"),
        exit("starting, logging in").then(&[START]),
        exit("starting, waiting").then(&[START, network]),
        exit("starting, cookie in hand")
            .then(&[START, failed(G1, FailClass::Network, Stage::Connect)])
            .wait(soon),
        exit("up").then(&[START, UP]),
        exit("up, replacing").then(&[START, UP, Input::Reconnect]),
        exit("up, replacing with a login").then(&[START, UP, Input::Reconnect, OLD_COOKIE]),
        exit("up, renewing").then(&[START, UP, Input::Renew(G1)]),
        exit("up, renewing with a login").then(&[START, UP, Input::Renew(G1), OLD_COOKIE]),
        exit("up, renewing in a while").then(&[
            START,
            UP,
            Input::Renew(G1),
            failed(G1, FailClass::Network, Stage::Connect),
            Input::Renew(G1),
        ]),
        exit("reasserting, waiting").then(&[START, UP, LOST]),
        exit("reasserting, connecting").then(&[START, UP, LOST]).wait(soon),
        exit("reasserting, logging in")
            .then(&[START, UP, LOST])
            .wait(soon)
            .then(&[OLD_COOKIE]),
        exit("reasserting, told")
            .then(&[START, UP, LOST])
            .wait(Duration::from_secs(11)),
        exit("up, going to sleep").then(&[START, UP, SLEEPING]),
        exit("up, asleep").then(&[START, UP, SLEEPING, Input::Parked(G1)]),
        exit("up, asleep, facts at hand").then(&[FACTS, START, UP, SLEEPING]),
        exit("up, asleep, presence told").then(&[PRESENCE, START, UP, SLEEPING]),
        exit("up, facts at hand").then(&[FACTS, START, UP]),
        exit("up, presence told").then(&[PRESENCE, START, UP]),
        exit("up, after a freeze").then(&[START, UP, FREEZE]),
        exit("up, nobody answers").then(&[START, UP, Input::PathSilent(G1)]),
        exit("up, unsure").then(&[START, UP, NAP]),
        exit("up, maintenance wake").then(&[FACTS, START, UP, SLEEPING, NAP]),
        exit("up, parked, maintenance wake").then(&[PRESENCE, START, UP, SLEEPING, Input::Parked(G1), NAP]),
        exit("reasserting, unsure").then(&[START, UP, LOST, NAP]),
        exit("reasserting, unsure, one attempt failed").then(&[
            START,
            UP,
            LOST,
            NAP,
            Input::Demand,
            failed(G1, FailClass::Network, Stage::Connect),
        ]),
        exit("reasserting, asleep").then(&[START, UP, LOST, SLEEPING]),
        exit("reasserting, maintenance wake").then(&[START, UP, LOST, Input::Wake(WakeKind::Maintenance)]),
        exit("restored").then(&[Input::Start {
            origin: Origin::Restore,
        }]),
        exit("housekeeping").then(&[Input::JobsDue]),
        exit("up, housekeeping").then(&[Input::JobsDue, START, UP]),
        exit("stopping, the worker held").then(&[Input::JobsDue, START, UP, STOP, RELEASED]),
        exit("stopping to exit, the worker held").then(&[Input::JobsDue, START, UP, QUIT, RELEASED]),
        exit("idle, asleep, jobs due").then(&[SLEEPING, Input::JobsDue]),
        Story::disconnecting("up, to be down in sleep").then(&[START, UP]),
        Story::disconnecting("stopping for a sleep").then(&[START, UP, SLEEPING]),
        Story::disconnecting("starting, held in sleep").then(&[START, UP, SLEEPING, RELEASED, RECORDED]),
        Story::on_demand("idle, on demand"),
        Story::on_demand("armed").then(&[BOOT]),
        Story::on_demand("armed, a session waits").then(&[START, UP, Input::Idle(G1)]),
        Story::on_demand("armed, a packet waits").then(&[BOOT, Input::Demand]),
        Story::on_demand("armed, a packet waits, one attempt failed").then(&[
            BOOT,
            Input::Demand,
            failed(G1, FailClass::Network, Stage::Login),
        ]),
        Story::on_demand("armed, a session and a packet wait").then(&[START, UP, Input::Idle(G1), Input::Demand]),
        Story::on_demand("armed, the packet has waited too long").then(&[BOOT, Input::Demand, AGES]),
        Story::on_demand("armed, asleep").then(&[BOOT, SLEEPING]),
        Story::on_demand("armed, maintenance wake").then(&[FACTS, BOOT, SLEEPING, NAP]),
        Story::on_demand("armed, unsure").then(&[BOOT, NAP]),
        Story::on_demand("armed, a packet waits, asleep").then(&[BOOT, Input::Demand, SLEEPING]),
        Story::on_demand("up, on demand").then(&[START, UP]),
        Story::on_demand("up, renewing, on demand").then(&[START, UP, Input::Renew(G1)]),
        exit("idle, to stay down").then(&[STAY_DOWN]),
        exit("stay down").then(&[STAY_DOWN, BOOT]),
        Story::on_demand("stay down, on demand").then(&[STAY_DOWN, BOOT]),
        Story::on_demand("stopping to stay down").then(&[START, UP, STAY_DOWN]),
        exit("stopping").then(&[START, UP, STOP]),
        exit("stopping, start remembered").then(&[START, UP, STOP, START]),
        exit("stopping to exit").then(&[START, UP, QUIT]),
        exit("stopping to exit, twice").then(&[START, UP, QUIT, QUIT]),
        exit("stopping, recording").then(&[START, UP, STOP, RELEASED]),
        exit("stopping to exit, recording").then(&[START, UP, QUIT, RELEASED]),
        exit("stopping, curtailed").then(&[START, UP, STOP]).wait(ack),
        exit("stopping, curtailed, with a residue")
            .then(&[START, UP, STOP])
            .wait(ack)
            .then(&[RESIDUE]),
        exit("stopping, curtailed while recording")
            .then(&[START, UP, STOP, RELEASED])
            .wait(ack),
        exit("stopping to exit, curtailed while recording")
            .then(&[START, UP, QUIT, RELEASED])
            .wait(ack),
        exit("stopping, settling")
            .then(&[START, UP, STOP])
            .wait(ack)
            .then(&[RESIDUE, TOO_SLOW]),
        exit("stopping to exit, settling")
            .then(&[START, UP, QUIT])
            .wait(ack)
            .then(&[RESIDUE, TOO_SLOW]),
        exit("handing over").then(&[START, UP, RESTART]),
        exit("handing over, curtailed").then(&[START, UP, RESTART]).wait(ack),
        exit("stopping, failed").then(&[START, refused.clone()]),
        stay("stopping, failed, to stay").then(&[START, refused]),
        stay("failed").then(&[START, refused2, RELEASED, RECORDED]),
    ]
}

fn inputs() -> Vec<Input<Words>> {
    let mut inputs = vec![
        Input::Start { origin: Origin::User },
        Input::Start { origin: Origin::Boot },
        Input::Start {
            origin: Origin::Restore,
        },
        STOP,
        QUIT,
        RESTART,
        Input::Cancel,
        Input::Reconnect,
        Input::Renew(G1),
        Input::Connected(G1),
    ];
    let classes = [
        FailClass::Offline,
        FailClass::Network,
        FailClass::Unavailable,
        FailClass::CookieRefused,
        FailClass::AuthRefused,
        FailClass::Fatal,
    ];
    for class in classes {
        inputs.extend([failed(G1, class, Stage::Login), failed(G1, class, Stage::Connect)]);
    }
    inputs.push(failed(G1, FailClass::Fatal, Stage::Granted));
    for kind in [LossKind::Eof, LossKind::Reset, LossKind::Timeout, LossKind::Protocol] {
        inputs.push(Input::ControlLost { g: G1, kind });
    }
    let reasons = [
        EndReason::UserStop,
        EndReason::Admin,
        EndReason::AuthExpired,
        EndReason::Replaced,
        EndReason::Fatal,
        EndReason::StayDown,
    ];
    inputs.extend(reasons.map(|reason| Input::SessionEnded { g: G1, reason }));
    inputs.extend([
        Input::Dialled(3),
        RELEASED,
        RECORDED,
        Input::HandedOver { g: G1, kept: true },
        Input::HandedOver { g: G1, kept: false },
        Input::JobsDue,
        Input::JobsDone,
        SLEEPING,
        RESUMED,
        USER,
        FACTS,
        PREPARING,
        LID_CLOSED,
        PRESENCE,
        Input::Wake(WakeKind::Full),
        Input::Wake(WakeKind::Maintenance),
        Input::Wake(WakeKind::Unknown),
        NAP,
        FREEZE,
        Input::Parked(G1),
        Input::Demand,
        Input::NotArmed(G1),
        Input::Idle(G1),
        Input::NetworkRule(Rule::Connect),
        STAY_DOWN,
        Input::PathChange,
        Input::ProofOfLife(G1),
        Input::PathSilent(G1),
        Input::DeadlineReached,
    ]);
    let g2 = G1.next();
    inputs.extend([
        Input::Connected(g2),
        failed(g2, FailClass::Fatal, Stage::Connect),
        Input::ControlLost {
            g: g2,
            kind: LossKind::Eof,
        },
        Input::SessionEnded {
            g: g2,
            reason: EndReason::Admin,
        },
        Input::Released { g: g2, restored: "ok" },
        Input::Recorded {
            g: g2,
            owed: "recorded",
        },
        Input::HandedOver { g: g2, kept: true },
        Input::NotArmed(g2),
        Input::Idle(g2),
    ]);
    inputs
}

fn input_text(input: Input<Words>) -> String {
    match input {
        Input::Start { origin } => format!("start by {origin:?}"),
        Input::Stop { exit: false, .. } => "stop".into(),
        Input::Stop {
            reason: StopReason::User,
            exit: true,
        } => "stop and exit".into(),
        Input::Stop {
            reason: StopReason::Restart,
            exit: true,
        } => "stop to restart".into(),
        Input::Cancel => "cancel".into(),
        Input::Reconnect => "reconnect".into(),
        Input::Renew(_) => "renew".into(),
        Input::Connected(g) => format!("{g} connected"),
        Input::ConnectFailed { g, class, stage } => format!("{g} failed: {class:?} at {stage:?}"),
        Input::Dialled(extra) => format!("{extra} more dialled"),
        Input::ControlLost { g, kind } => format!("{g} lost: {kind}"),
        Input::SessionEnded { g, reason } => format!("{g} ended: {reason}"),
        Input::Released { g, .. } => format!("{g} released"),
        Input::Recorded { g, .. } => format!("{g} recorded"),
        Input::HandedOver { g, kept: true } => format!("{g} handed over"),
        Input::HandedOver { g, kept: false } => format!("{g} not handed over"),
        Input::JobsDue => "jobs due".into(),
        Input::JobsDone => "jobs done".into(),
        Input::Power(word) => match word {
            PowerWord::Sleeping => "sleeping".into(),
            PowerWord::Resumed => "resumed".into(),
            PowerWord::UserPresent => "user present".into(),
            PowerWord::Surroundings(around) => match (around.source, around.preparing, around.lid_closed) {
                (Source::None, ..) => "no source".into(),
                (Source::Presence, ..) => "presence is told".into(),
                (Source::Facts, Some(true), _) => "a sleep is prepared".into(),
                (Source::Facts, _, Some(true)) => "the lid is closed".into(),
                (Source::Facts, ..) => "the lid is open".into(),
            },
        },
        Input::Wake(kind) => format!("wake {kind}"),
        Input::ClockGap(gap) => match gap.kind {
            GapKind::Sleep => format!("slept for {:?}", gap.length),
            GapKind::Freeze => format!("frozen for {:?}", gap.length),
        },
        Input::Parked(g) => format!("{g} parked"),
        Input::Demand => "demand".into(),
        Input::NotArmed(g) => format!("{g} not armed"),
        Input::Idle(g) => format!("{g} idle"),
        Input::NetworkRule(Rule::Connect) => "rule connect".into(),
        Input::NetworkRule(Rule::StayDown) => "rule stay down".into(),
        Input::PathChange => "path change".into(),
        Input::ProofOfLife(g) => format!("{g} lives"),
        Input::PathSilent(g) => format!("{g} silent"),
        Input::DeadlineReached => "deadline".into(),
    }
}

fn how_text(how: How) -> &'static str {
    match how {
        How::Login => "login",
        How::Cookie => "cookie",
    }
}

fn state_text(state: State, now: Now) -> String {
    let ms = |at: Awake| format!("{}ms", at.since(now.awake).as_millis());
    let attempt_text = |attempt| match attempt {
        Attempt::Running(how, _) => format!("by {}", how_text(how)),
        Attempt::Waiting(how, at) => format!("by {} in {}", how_text(how), ms(at)),
    };
    match state {
        State::Idle => "idle".into(),
        State::StayDown => "stay_down".into(),
        State::Armed { g, session } => format!("armed {g}, session {session:?}"),
        State::Starting { g, attempt } => format!("starting {g} {}", attempt_text(attempt)),
        State::Up {
            g, replacement: None, ..
        } => format!("up {g}"),
        State::Up {
            g,
            replacement: Some(attempt),
            ..
        } => format!("up {g} replacing {}", attempt_text(attempt)),
        State::Reasserting {
            g, attempt, session, ..
        } => format!("reasserting {g} {}, session {session:?}", attempt_text(attempt)),
        State::Stopping {
            g,
            stops,
            then,
            phase,
            patience,
            ..
        } => {
            let then = match then {
                Then::Idle => "idle".into(),
                Then::Start(origin) => format!("start by {origin:?}"),
                Then::Fail(reason) => format!("failed {reason}"),
                Then::Exit(None) => "exit".into(),
                Then::Exit(Some(reason)) => format!("exit {reason}"),
            };
            let patience = match patience {
                Patience::Budget(at) => format!("{} left", ms(at)),
                Patience::Grace(at) => format!("exit in {}", ms(at)),
                Patience::Spent => "budget used up".into(),
            };
            let phase = match phase {
                Phase::HandingOver => "handing over",
                Phase::Releasing => "releasing",
                Phase::Recording => "recording",
                Phase::Curtailed { releasing: true } => "curtailed, still releasing",
                Phase::Curtailed { releasing: false } => "curtailed",
                Phase::Settling => "settling",
            };
            format!("stopping {g}: {phase}, {stops} unanswered, {patience}, then {then}")
        }
        State::Failed(reason) => format!("failed {reason}"),
    }
}

fn effect_text(effect: Effect<Words>) -> String {
    match effect {
        Effect::Connect { g, how, trigger } => {
            format!("connect {g} by {} for {}", how_text(how), trigger.word())
        }
        Effect::Arm { g } => format!("arm {g}"),
        Effect::Abort { g } => format!("abort {g}"),
        Effect::Goodbye { g } => format!("goodbye {g}"),
        Effect::Release { g } => format!("release {g}"),
        Effect::Record { g } => format!("record {g}"),
        Effect::HandOver { g } => format!("hand over {g}"),
        Effect::Curtail { g } => format!("curtail {g}"),
        Effect::Housekeep => "housekeep".into(),
        Effect::Hold => "hold".into(),
        Effect::Resume => "resume".into(),
        Effect::Rest => "rest".into(),
        Effect::AckStop { took, outcome } => {
            let outcome = match outcome {
                Acknowledged::WasDown => "was down".into(),
                Acknowledged::Down { restored, owed } => format!("{restored}, {owed}"),
                Acknowledged::HandedOver => "handed over".into(),
            };
            format!("ack {outcome} {}ms", took.as_millis())
        }
        Effect::Mode(mode) => format!("mode {mode}"),
        Effect::Park { g } => format!("park {g}"),
        Effect::AckSleep => "ack sleep".into(),
        Effect::Woke { g, gap, wakes } => format!("woke {g} after {}s, {wakes} wakes", gap.as_secs()),
        Effect::Report(report) => match report {
            Report::SessionStart(g) => format!("[session.start {g}]"),
            Report::SessionEnd(g, reason) => format!("[session.end {g} {reason}]"),
            Report::PathLost(g, kind) => format!("[path.lost {g} {kind}]"),
            Report::PathBack(g, after) => format!("[path.back {g} {}ms]", after.as_millis()),
            Report::Reconnecting(g) => format!("[reconnecting {g}]"),
            Report::RetryIn(class, delay) => format!("[retry {class:?} {}ms]", delay.as_millis()),
            Report::Suppressed(cause, None) => format!("[suppressed {}]", cause.word()),
            Report::Suppressed(cause, Some(wait)) => format!("[suppressed {} {}ms]", cause.word(), wait.as_millis()),
            Report::Wake(kind, gap) => format!("[wake {kind} {}s]", gap.as_secs()),
            Report::ReconnectFailed(class) => format!("[reconnect failed {class:?}]"),
            Report::AlreadyWanted => "[already wanted]".into(),
            Report::StartRefused => "[start refused]".into(),
            Report::Failed(reason) => format!("[failed {reason}]"),
        },
        Effect::Exit(None) => "exit".into(),
        Effect::Exit(Some(reason)) => format!("exit {reason}"),
    }
}

/// Where the machine is, with what of it is no state of the tunnel.
fn machine_text(machine: &Machine<Words>, now: Now) -> String {
    let mut text = state_text(machine.state(), now);
    let word = machine.word();
    if word != machine.state().word() {
        let _ = write!(text, ", {word}");
    }
    if machine.mode() != Mode::Awake {
        let _ = write!(text, ", host {}", machine.mode());
    }
    // Those of attempts and stops are told with the state.
    if let Some(deadline) = machine.deadline()
        && (machine.mode() != Mode::Awake || machine.word() != "stopping")
        && deadline.reason != "next attempt to connect"
    {
        let ms = deadline.at.since(now.awake).as_millis();
        let _ = write!(text, ", {} in {ms}ms", deadline.reason);
    }
    text
}

/// What every input does in the state a story ends in. Inputs that change nothing share one line.
fn table_of(story: &Story) -> String {
    let before = machine_text(&story.machine, story.now);
    let mut text = format!("### {}\n\n`{before}`\n\n", story.name);
    let mut ignored = Vec::new();
    for input in inputs() {
        let mut machine = story.machine.clone();
        let now = passes(story.now, &input);
        let effects = machine.handle(input.clone(), now, JITTER);
        let after = machine_text(&machine, now);
        if effects.is_empty() && after == before {
            ignored.push(input_text(input));
            continue;
        }
        let effects: Vec<_> = effects.into_iter().map(effect_text).collect();
        let effects = if effects.is_empty() {
            String::new()
        } else {
            format!(" | {}", effects.join(", "))
        };
        let _ = writeln!(text, "- {} -> {after}{effects}", input_text(input));
    }
    let _ = writeln!(text, "\nIgnored: {}.\n", ignored.join(", "));
    text
}

/// Which inputs lead from one state to another, as Mermaid draws it.
fn diagram() -> String {
    let mut edges: BTreeMap<(&str, &str), BTreeSet<String>> = BTreeMap::new();
    for story in stories() {
        for input in inputs() {
            let mut machine = story.machine.clone();
            let before = machine.state().word();
            machine.handle(input.clone(), passes(story.now, &input), JITTER);
            let after = machine.state().word();
            if before != after {
                let label = input_text(input).replace("g1 ", "");
                let label = label.split(':').next().unwrap_or_default().to_owned();
                edges.entry((before, after)).or_default().insert(label);
            }
        }
    }
    let mut text = String::from("```mermaid\nstateDiagram-v2\n    [*] --> idle\n");
    for ((from, to), labels) in edges {
        let labels: Vec<_> = labels.into_iter().collect();
        let _ = writeln!(text, "    {from} --> {to}: {}", labels.join(", "));
    }
    text + "```\n"
}

fn page() -> String {
    let tables: String = stories().iter().map(table_of).collect();
    format!(
        "# The transitions of a tunnel\n\nMade by `cargo test -p lifecycle --test transitions`, which compares this page with \
         the machine: every input in every\nstate, and what the shell is told to do. `g1` is the generation of the story, `g2` a \
         later one, whose answers must change nothing.\n\n## States\n\n{}\n## Table\n\n{tables}",
        diagram()
    )
}

#[test]
fn every_input_in_every_state_does_what_the_golden_page_says() {
    let actual = page();
    let golden = include_str!("../../../docs/TRANSITIONS.md");
    let different = actual
        .trim_end()
        .lines()
        .zip(golden.trim_end().lines())
        .find(|(actual, golden)| actual != golden);
    assert!(
        actual.trim_end() == golden.trim_end(),
        "first difference: {different:?}; the whole page:\n{actual}"
    );
}
