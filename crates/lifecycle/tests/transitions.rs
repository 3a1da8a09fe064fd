//! Every state with every input, compared with the golden text beside this file.

use std::fmt::Write;
use std::time::Duration;

use lifecycle::{
    Acknowledged, Attempt, Backoff, Effect, EndReason, FailClass, Generation, How, Input, Jitter, LossKind, Machine,
    OnFailure, Origin, Patience, Report, Settings, Stage, State, StopReason, Then, Trigger,
};
use now::{Awake, Gap, GapKind, Now};

const JITTER: Jitter = Jitter::new(32_768);
const G1: Generation = Generation::FIRST;

/// The proof of these tests is a word.
type Proof = &'static str;

struct Story {
    name: &'static str,
    machine: Machine,
    now: Now,
}

impl Story {
    fn new(name: &'static str, on_failure: OnFailure) -> Self {
        let settings = Settings {
            backoff: Backoff::default(),
            on_failure,
        };
        Self {
            name,
            machine: Machine::new(settings),
            now: Now::default().plus(Duration::from_secs(1000)),
        }
    }

    fn then(mut self, inputs: &[Input<Proof>]) -> Self {
        for input in inputs {
            self.machine.handle(*input, self.now, JITTER);
        }
        self
    }

    fn wait(mut self, wait: Duration) -> Self {
        self.now = self.now.plus(wait);
        self.then(&[Input::DeadlineReached])
    }
}

const START: Input<Proof> = Input::Start { origin: Origin::User };
const STOP: Input<Proof> = stop(false);
const QUIT: Input<Proof> = stop(true);
const UP: Input<Proof> = Input::Connected(G1);
const LOST: Input<Proof> = Input::ControlLost {
    g: G1,
    kind: LossKind::Eof,
};
const OLD_COOKIE: Input<Proof> = failed(G1, FailClass::CookieRefused, Stage::Connect);

const fn stop(exit: bool) -> Input<Proof> {
    Input::Stop {
        reason: StopReason::User,
        exit,
    }
}

const fn failed(g: Generation, class: FailClass, stage: Stage) -> Input<Proof> {
    Input::ConnectFailed { g, class, stage }
}

fn stories() -> Vec<Story> {
    let exit = |name| Story::new(name, OnFailure::Exit);
    let stay = |name| Story::new(name, OnFailure::Stay);
    let network = failed(G1, FailClass::Network, Stage::Login);
    let refused = failed(G1, FailClass::AuthRefused, Stage::Login);
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
        exit("reasserting, waiting").then(&[START, UP, LOST]),
        exit("reasserting, connecting").then(&[START, UP, LOST]).wait(soon),
        exit("reasserting, logging in")
            .then(&[START, UP, LOST])
            .wait(soon)
            .then(&[OLD_COOKIE]),
        exit("reasserting, told")
            .then(&[START, UP, LOST])
            .wait(Duration::from_secs(11)),
        exit("stopping").then(&[START, UP, STOP]),
        exit("stopping, start remembered").then(&[START, UP, STOP, START]),
        exit("stopping to exit").then(&[START, UP, QUIT]),
        exit("stopping to exit, twice").then(&[START, UP, QUIT, QUIT]),
        exit("stopping to exit, overrun").then(&[START, UP, QUIT]).wait(ack),
        exit("stopping, overrun").then(&[START, UP, STOP]).wait(ack),
        exit("stopping, failed").then(&[START, refused]),
        stay("stopping, failed, to stay").then(&[START, refused]),
        stay("failed").then(&[START, refused, Input::Released { g: G1, restored: "ok" }]),
    ]
}

fn inputs() -> Vec<Input<Proof>> {
    let mut inputs = vec![
        Input::Start { origin: Origin::User },
        Input::Start { origin: Origin::Boot },
        STOP,
        QUIT,
        Input::Cancel,
        Input::Reconnect,
        Input::Connected(G1),
    ];
    let classes = [
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
    ];
    inputs.extend(reasons.map(|reason| Input::SessionEnded { g: G1, reason }));
    let freeze = Gap {
        length: Duration::from_secs(60),
        awake: Duration::from_secs(60),
        kind: GapKind::Freeze,
    };
    inputs.extend([
        Input::Dialled(3),
        Input::Released { g: G1, restored: "ok" },
        Input::ClockGap(freeze),
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
    ]);
    inputs
}

fn input_text(input: Input<Proof>) -> String {
    match input {
        Input::Start { origin } => format!("start by {origin:?}"),
        Input::Stop { exit: false, .. } => "stop".into(),
        Input::Stop { exit: true, .. } => "stop and exit".into(),
        Input::Cancel => "cancel".into(),
        Input::Reconnect => "reconnect".into(),
        Input::Connected(g) => format!("{g} connected"),
        Input::ConnectFailed { g, class, stage } => format!("{g} failed: {class:?} at {stage:?}"),
        Input::Dialled(extra) => format!("{extra} more dialled"),
        Input::ControlLost { g, kind } => format!("{g} lost: {kind}"),
        Input::SessionEnded { g, reason } => format!("{g} ended: {reason}"),
        Input::Released { g, .. } => format!("{g} released"),
        Input::ClockGap(gap) => format!("gap of {:?}", gap.length),
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
        State::Starting { g, attempt } => format!("starting {g} {}", attempt_text(attempt)),
        State::Up {
            g, replacement: None, ..
        } => format!("up {g}"),
        State::Up {
            g,
            replacement: Some(how),
            ..
        } => format!("up {g} replacing by {}", how_text(how)),
        State::Reasserting {
            g,
            attempt,
            session,
            notice,
            ..
        } => {
            let notice = notice.map_or_else(|| "told".into(), |at| format!("notice in {}", ms(at)));
            format!(
                "reasserting {g} {}, session {session:?}, {notice}",
                attempt_text(attempt)
            )
        }
        State::Stopping {
            g,
            stops,
            then,
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
                Patience::Budget(at) => format!("ack in {}", ms(at)),
                Patience::Grace(at) => format!("exit in {}", ms(at)),
                Patience::Spent => "overrun".into(),
            };
            format!("stopping {g}, {stops} unanswered, {patience}, then {then}")
        }
        State::Failed(reason) => format!("failed {reason}"),
    }
}

fn effect_text(effect: Effect<Proof>) -> String {
    match effect {
        Effect::Connect { g, how, trigger } => {
            let trigger = match trigger {
                Trigger::User => "user",
                Trigger::Boot => "boot",
                Trigger::Retry => "retry",
            };
            format!("connect {g} by {} for {trigger}", how_text(how))
        }
        Effect::Abort { g } => format!("abort {g}"),
        Effect::Goodbye { g } => format!("goodbye {g}"),
        Effect::Release { g } => format!("release {g}"),
        Effect::AckStop { took, outcome } => {
            let outcome = match outcome {
                Acknowledged::WasDown => "was down",
                Acknowledged::Restored(proof) => proof,
                Acknowledged::Overrun => "overrun",
            };
            format!("ack {outcome} {}ms", took.as_millis())
        }
        Effect::Report(report) => match report {
            Report::SessionStart(g) => format!("[session.start {g}]"),
            Report::SessionEnd(g, reason) => format!("[session.end {g} {reason}]"),
            Report::PathLost(g, kind) => format!("[path.lost {g} {kind}]"),
            Report::PathBack(g, after) => format!("[path.back {g} {}ms]", after.as_millis()),
            Report::Reconnecting(g) => format!("[reconnecting {g}]"),
            Report::RetryIn(class, delay) => format!("[retry {class:?} {}ms]", delay.as_millis()),
            Report::Suppressed(delay) => format!("[suppressed {}ms]", delay.as_millis()),
            Report::ReconnectFailed(class) => format!("[reconnect failed {class:?}]"),
            Report::AlreadyWanted => "[already wanted]".into(),
            Report::StartRefused => "[start refused]".into(),
            Report::Failed(reason) => format!("[failed {reason}]"),
        },
        Effect::Exit(None) => "exit".into(),
        Effect::Exit(Some(reason)) => format!("exit {reason}"),
    }
}

/// What every input does in the state a story ends in. Inputs that change nothing share one line.
fn table_of(story: &Story) -> String {
    let before = state_text(story.machine.state(), story.now);
    let mut text = format!("## {}: {before}\n", story.name);
    let mut ignored = Vec::new();
    for input in inputs() {
        let mut machine = story.machine.clone();
        let effects = machine.handle(input, story.now, JITTER);
        let after = state_text(machine.state(), story.now);
        if effects.is_empty() && machine.state() == story.machine.state() {
            ignored.push(input_text(input));
            continue;
        }
        let effects: Vec<_> = effects.into_iter().map(effect_text).collect();
        let _ = writeln!(text, "{} -> {after} | {}", input_text(input), effects.join(", "));
    }
    let _ = writeln!(text, "ignored: {}\n", ignored.join(", "));
    text
}

#[test]
fn every_input_in_every_state_does_what_the_golden_table_says() {
    let actual: String = stories().iter().map(table_of).collect();
    let golden = include_str!("transitions.txt");
    let different = actual
        .lines()
        .zip(golden.lines())
        .find(|(actual, golden)| actual != golden);
    assert!(
        actual == golden,
        "first difference: {different:#?}; the whole table:\n{actual}"
    );
}
