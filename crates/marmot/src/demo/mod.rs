//! `marmot demo`: the whole story on one machine. A tunnel comes up, carries data, survives a freeze, and goes without a
//! trace.
//!
//! ```text
//!   run --> probe (a child tries whether namespaces are permitted)
//!    |        yes: world, four hosts in namespaces        no: fallback, loopback and userspace IP stacks
//!    +--> tunnel --> traffic --> freeze --> night --> owed --> stop --> claims: the table, and the exit code
//!              every act drives real `marmot gateway` and `marmot client` processes and believes the kernel, not them
//! ```
//! Nothing of the host is touched; everything is in namespaces of our own or in one temporary folder.

mod children;
mod claims;
mod download;
mod event;
mod fallback;
mod freeze;
mod frozen;
mod http;
mod kernel;
mod naive;
mod night;
mod owed;
mod patience;
mod picture;
mod ping;
mod process;
mod setup;
mod signs;
mod stage;
mod stop;
mod story;
mod stream;
mod traffic;
mod tunnel;
mod world;

use std::process::ExitCode;

use anyhow::Result;

use self::children::Role;
use self::claims::Outcome;
use self::stage::{Left, Site, Stage};
use self::story::{Story, line};
use self::world::World;

/// The largest download, in MiB.
const MAX_SIZE: u64 = 2048;

/// Lines shown of each log when something went wrong.
const TAIL: usize = 15;

/// Arguments of `marmot demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// No moving progress bar, plain lines instead
    #[arg(long)]
    no_progress: bool,
    /// Keep the folder with configurations, keys and logs
    #[arg(long)]
    keep: bool,
    /// Use loopback and userspace IP stacks even if namespaces are permitted
    #[arg(long)]
    loopback: bool,
    /// Size of the download in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=MAX_SIZE))]
    size: u64,
    /// What this process plays in another demo
    #[command(flatten)]
    role: Role,
}

/// Runs the demo. Called before any thread exists in this process: it moves into namespaces of its own.
pub(crate) fn run(args: DemoArgs) -> Result<ExitCode> {
    if args.role.is_some() {
        return args.role.play();
    }
    let story = Story::new();
    introduce(&story);
    let site = match obstacle(&args) {
        None => Site::Namespaces(Box::new(World::build()?)),
        Some(reason) => {
            explain(&story, &args, &reason);
            Site::Loopback
        }
    };
    // World::build was the last to need a single thread.
    patience::listen_for_interrupts();
    let mut stage = Stage::new(story, site, &args)?;
    let outcome = play(&mut stage);
    Ok(conclude(stage, outcome))
}

fn play(stage: &mut Stage) -> Result<()> {
    tunnel::act(stage)?;
    traffic::act(stage)?;
    freeze::act(stage)?;
    night::act(stage)?;
    owed::act(stage)?;
    stop::act(stage)
}

fn introduce(story: &Story) {
    story.title("marmot demo: a packet tunnel that sleeps well");
    for line in [
        "1  A client and a gateway, with fresh keys, build an encrypted tunnel through an \"internet\".",
        "2  Pings and a download go through it to a LAN behind the gateway; the hash is compared.",
        "3  The client is frozen for longer than dead-peer detection. It keeps its session.",
        "   A naive client beside it, which beats hearts like many do, loses its own.",
        "4  A night of moments awake: our client reconnects never, the naive one each time.",
        "5  The tunnel goes down with a long job owed and comes up again at once; the job ends behind it.",
        "6  The client stops at once, and its host is left exactly as it was.",
    ] {
        story.block(line);
    }
}

/// Why the story cannot be played in namespaces, if it cannot.
fn obstacle(args: &DemoArgs) -> Option<String> {
    if args.loopback {
        return Some(String::new());
    }
    children::probe().err().map(|error| format!("{error:#}"))
}

fn explain(story: &Story, args: &DemoArgs, reason: &str) {
    line("");
    if !args.loopback {
        story.say("Namespaces or TUN devices cannot be used here:");
        story.fact("-", reason);
        let missing = platform::capabilities::explain_missing();
        let said = |sentence: &str| {
            sentence
                .split_once(": ")
                .is_some_and(|(_, cause)| reason.contains(cause))
        };
        for sentence in missing.iter().filter(|sentence| !said(sentence)) {
            story.fact("-", sentence);
        }
    }
    story.say(
        "The real client and gateway talk over loopback, with packet devices in memory and an IP stack of their own \
         (smoltcp) behind each. What needs a host with namespaces is marked with a dash.",
    );
}

/// The table, the verdict, and the exit code.
fn conclude(mut stage: Stage, outcome: Result<()>) -> ExitCode {
    let interrupted = outcome.is_err() && patience::was_interrupted();
    if let Err(error) = &outcome
        && !interrupted
    {
        stage.story.claim(format!("{error:#}"), false);
    }
    let told = outcome.is_ok() && stage.story.claims().hold();
    if !told && !interrupted {
        stage.show_logs(TAIL);
    }
    let (mut story, left) = stage.clear(!told && !interrupted);
    if interrupted {
        story.verdict("Interrupted; everything is cleaned up.", false);
        return ExitCode::FAILURE;
    }
    match &left {
        Left::Nothing => story.claim("nothing is left: no process, no folder", true),
        Left::Wanted(_) => {}
        Left::Unwanted(what) => story.claim(format!("something is left: {what}"), false),
    }
    line("");
    story.title("What was claimed");
    story.table();
    let good = told && story.claims().hold();
    story.verdict(&verdict(&story, good), good);
    if let Left::Wanted(folder) = left {
        story.fact("kept", folder.display());
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn verdict(story: &Story, good: bool) -> String {
    let count = |which: fn(&Outcome) -> bool| story.claims().count(which);
    let (held, skipped) = (
        count(|outcome| *outcome == Outcome::True),
        count(|outcome| matches!(outcome, Outcome::Skipped(_))),
    );
    let skipped = if skipped > 0 {
        format!(", {skipped} not shown here")
    } else {
        String::new()
    };
    let seconds = story.elapsed().as_secs_f64();
    if good {
        format!("All {held} true{skipped}, in {seconds:.1} s.")
    } else {
        format!("Not everything was true{skipped}, after {seconds:.1} s.")
    }
}
