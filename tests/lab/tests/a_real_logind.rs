//! The source of words about sleep beside the real thing: systemd as the first process of a machine of its own, its logind,
//! and sleeps that end in an ordinary file.
//!
//! The source has to run in that machine, so this program is started there again, as a listener that says what it hears and
//! takes orders from a pipe.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Machine, Mark, PATIENCE, Process, until};
use platform::power::{self, Promise};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// What makes this program a listener.
const LISTEN: &str = "listen-to-logind";

fn main() -> ExitCode {
    if env::args().nth(1).is_some_and(|word| word == LISTEN) {
        let orders = env::args().nth(2).unwrap_or_default();
        return match listen(Path::new(&orders)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("{e:#}");
                ExitCode::FAILURE
            }
        };
    }
    lab::run(
        Machine::NEEDS,
        lab::tests![a_sleep_waits_for_the_acknowledgement, a_sleep_does_not_wait_for_ever,],
    )
}

/// The listener: says what it hears, and when by the boot clock.
fn listen(orders: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut source = power::open();
        let (said, mut heard) = mpsc::channel(4);
        let orders = orders.to_owned();
        thread::spawn(move || {
            let lines = File::open(orders).map(|pipe| BufReader::new(pipe).lines());
            lines
                .into_iter()
                .flatten()
                .map_while(Result::ok)
                .try_for_each(|line| said.blocking_send(line))
        });
        while source.promise() != Promise::Facts {
            // The source goes on meanwhile.
            let never = std::future::pending::<()>();
            timeout(Duration::from_millis(10), never).await.expect_err("never");
        }
        println!("there is a logind");
        loop {
            tokio::select! {
                word = source.next() => println!("heard {word:?} at {:.3}", now().as_secs_f64()),
                order = heard.recv() => match order.as_deref() {
                    Some("acknowledge") => {
                        println!("ready at {:.3}", now().as_secs_f64());
                        source.acknowledge_sleep();
                    }
                    Some("look") => println!("sees {:?}", source.surroundings().await),
                    Some(_) | None => return Ok(()),
                },
            }
        }
    })
}

/// This moment on the boot clock, which a machine shares with its host.
fn now() -> Duration {
    platform::clock::now().boot.since_origin()
}

/// The pipe to the listener, as the machine knows it.
const ORDERS: &str = "/run/lab/orders";

/// A listener in a machine, and the pipe to it.
struct Listener {
    process: Process,
    orders: File,
}

impl Listener {
    fn start(lab: &Lab, machine: &Machine) -> Result<Self> {
        machine.run("mkfifo", &[ORDERS])?;
        let mut command = machine.command("/usr/bin/marmot-lab-listener");
        command.args([LISTEN, ORDERS]);
        let process = lab.spawn("listener", command)?;
        let orders = OpenOptions::new()
            .write(true)
            .open(machine.file(ORDERS))
            .context("cannot open the pipe")?;
        process.wait_for("there is a logind", PATIENCE)?;
        Ok(Self { process, orders })
    }

    fn order(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders, "{order}").context("nobody takes orders")
    }

    /// Waits for a line with these words after `mark`. Returns the time at its end.
    fn time_of(&self, mark: Mark, words: &str) -> Result<Duration> {
        let line = self.process.wait_for_line(mark, &[words], PATIENCE)?;
        let time = line.rsplit(' ').next().unwrap_or_default();
        Ok(Duration::try_from_secs_f64(
            time.parse().with_context(|| format!("a time: {line}"))?,
        )?)
    }
}

/// A machine whose logind waits so long before a sleep, and a listener that holds it up.
fn listened_to(lab: &Lab, patience_s: u64) -> Result<Option<(Machine, Listener)>> {
    if let Some(reason) = Machine::obstacle() {
        lab.skip(&reason)?;
        return Ok(None);
    }
    let settings = format!("[Login]\nInhibitDelayMaxSec={patience_s}\n");
    Machine::etc(lab, "machine", "systemd/logind.conf", settings.as_bytes())?;
    let machine = Machine::start(lab, lab.client(), "machine")?;
    let listener = Listener::start(lab, &machine)?;
    Ok(Some((machine, listener)))
}

fn held(machine: &Machine) -> Result<bool> {
    let inhibitors = machine.inhibitors()?;
    let ours = |lock: &lab::Inhibitor| {
        (lock.what.as_str(), lock.who.as_str(), lock.mode.as_str()) == ("sleep", "marmot", "delay")
    };
    ensure!(inhibitors.iter().all(ours), "ours alone: {inhibitors:?}");
    ensure!(inhibitors.len() < 2, "one at most: {inhibitors:?}");
    Ok(!inhibitors.is_empty())
}

fn a_sleep_waits_for_the_acknowledgement(lab: &Lab) -> Result<()> {
    let patience = PATIENCE.as_secs();
    let Some((machine, mut listener)) = listened_to(lab, patience)? else {
        return Ok(());
    };
    for nth in 1..=2 {
        until("a lock", PATIENCE, || held(&machine))?;
        let mark = listener.process.mark();
        let asked = now();
        machine.suspend()?;
        let heard = listener.time_of(mark, "heard Sleeping at")?;
        listener.order("look")?;
        listener
            .process
            .wait_for_line(mark, &["sees", "preparing: Some(true)"], PATIENCE)?;
        assert!(held(&machine)?, "released before anybody was ready");
        assert_eq!(machine.sleeps()?.len(), nth - 1, "it sleeps before anybody was ready");
        let job = machine.property("systemd-suspend.service", "ActiveState")?;
        assert_eq!(job, "inactive", "it sleeps before anybody was ready");

        listener.order("acknowledge")?;
        let ready = listener.time_of(mark, "ready at")?;
        let sleep = machine.sleeps_now(nth)?;
        assert_eq!(sleep.state, "mem", "what the kernel is told");
        // The notes of a sleep have hundredths of a second.
        assert!(
            sleep.began + Duration::from_millis(10) >= ready,
            "{sleep:?} before {ready:?}"
        );
        assert!(sleep.began < asked + Duration::from_secs(patience), "it waited in vain");
        assert!(!held(&machine)?);
        assert_eq!(
            listener.process.count_since(mark, &["heard"]),
            1,
            "no word before its end"
        );
        lab.note(&format!(
            "word after {} ms, sleep {} ms after the acknowledgement",
            heard.saturating_sub(asked).as_millis(),
            sleep.began.saturating_sub(ready).as_millis()
        ));

        machine.wake()?;
        listener.time_of(mark, "heard Resumed at")?;
        until("a lock for the next sleep", PATIENCE, || held(&machine))?;
    }
    Ok(())
}

fn a_sleep_does_not_wait_for_ever(lab: &Lab) -> Result<()> {
    let Some((machine, mut listener)) = listened_to(lab, 2)? else {
        return Ok(());
    };
    let mark = listener.process.mark();
    let asked = now();
    machine.suspend()?;
    let heard = listener.time_of(mark, "heard Sleeping at")?;
    let sleep = machine.sleeps_now(1)?;
    let waited = sleep.began.saturating_sub(asked);
    lab.note(&format!("it slept {} ms after it was asked to", waited.as_millis()));
    assert!(
        waited >= Duration::from_millis(1990),
        "the lock holds nothing up: {waited:?}"
    );
    // The lock is still there, and is let go by an acknowledgement that came too late.
    assert!(sleep.began > heard && held(&machine)?);
    listener.order("acknowledge")?;
    until("the lock is let go", PATIENCE, || Ok(!held(&machine)?))?;
    machine.wake()?;
    listener.time_of(mark, "heard Resumed at")?;
    until("a lock for the next sleep", PATIENCE, || held(&machine))
}
