//! Whatever moment a client is killed at, and however often its tunnel went up and down: nothing is left on the host, and nothing
//! that was owed is lost.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use interop::{Daemon, ping_both, sessions};
use lab::{
    Lab, LongJob, Mark, PATIENCE, Process, Signal, client_settings, gateway_settings, is_long, marmot, spawn_client,
    start_client, start_gateway, until,
};
use platform::network::HostState;

/// Lines that open the gate for every hook of a test.
const ALL: usize = 50_000;

/// The latest moment for a kill after a process was started: it connects within some 30 ms.
const STARTING_MS: u64 = 120;

/// The latest moment for a kill after a stop was asked for: rules go within a millisecond, the record is written within some ten.
const STOPPING_MS: u64 = 12;

fn main() -> ExitCode {
    lab::run_scaled(
        &["ip"],
        lab::tests![
            a_kill_at_any_moment_leaves_nothing_and_loses_no_job,
            many_cycles_leave_nothing,
        ],
    )
}

/// How often something is repeated: in CI, or with MARMOT_LONG=1.
fn times(short: usize, long: usize) -> usize {
    if is_long() { long } else { short }
}

fn a_kill_at_any_moment_leaves_nothing_and_loses_no_job(lab: &Lab) -> Result<()> {
    let _gateway = gateway(lab)?;
    let job = LongJob::new(lab, "job")?;
    job.let_pass(ALL)?;
    let settings = job.settings(client_settings(lab, lab.site())?.with("tunnel.name", "victim"));
    let before = lab.client().snapshot()?;
    let mut began: BTreeSet<String> = BTreeSet::new();
    let mut luck = Luck::new(lab);
    let mut tally = [0; 3];
    for number in 0..times(8, 50) {
        let name = format!("victim-{number}");
        let client = spawn_client(lab, lab.client(), &name, &settings)?;
        let when = number % 3;
        let latest = match when {
            0 => STARTING_MS,
            1 => 0,
            _ => STOPPING_MS,
        };
        if when > 0 {
            client.wait_for_line(Mark::default(), &["session.start"], PATIENCE)?;
            ping_both(lab.client(), lab.site().plan)?;
        }
        if when > 1 {
            client.signal(Signal::USR1)?;
        }
        let moment = Duration::from_micros(luck.below(latest * 1000 + 1));
        ensure!(client.wait_exit(moment).is_err(), "the client ended by itself");
        client.stop(Signal::KILL, PATIENCE)?;
        began.extend(sessions(&client));
        tally[when] += usize::from(!before.changes(&lab.client().snapshot()?).is_empty());

        if luck.below(2) == 0 {
            cleanup(lab, &name)?;
        } else {
            let next = start_client(lab, lab.client(), &format!("next-{number}"), &settings)?;
            ping_both(lab.client(), lab.site().plan)?;
            next.stop(Signal::TERM, PATIENCE)?;
            began.extend(sessions(&next));
        }
        same(lab, &before).with_context(|| format!("after kill {number}, {when}, at {moment:?}"))?;
    }
    lab.note(&format!(
        "something was left on the host after {} kills at a start, {} of a tunnel that was up, {} during a stop",
        tally[0], tally[1], tally[2]
    ));

    let daemon = Daemon::start(lab, "victim", |settings| job.settings(settings))?;
    daemon.spool.wait_settled()?;
    ensure!(daemon.spool.jobs("failed")?.is_empty(), "no job was given up");
    let history = daemon.control.get("/v1/history?last=1000")?;
    let entries = history["sessions"].as_array().context("the history is a list")?;
    let mut told = BTreeSet::new();
    let ended: BTreeSet<String> = job.ended()?.into_iter().collect();
    for entry in entries {
        let session = format!("{};{}", entry["session"].as_str().unwrap_or_default(), entry["epoch"]);
        ensure!(told.insert(session.clone()), "{session} is in the history twice");
        let id = entry["job"].as_str().context("an entry names its job")?;
        ensure!(ended.contains(id), "the hook of {id} never came to its end");
    }
    // A session whose beginning the killed process could not log any more is in the history all the same.
    let lost: Vec<&String> = began.difference(&told).collect();
    ensure!(lost.is_empty(), "not in the history: {lost:?}");
    lab.note(&format!(
        "{} sessions, {} in the history, each once",
        began.len(),
        told.len()
    ));
    Ok(())
}

fn many_cycles_leave_nothing(lab: &Lab) -> Result<()> {
    let gateway = gateway(lab)?;
    let job = LongJob::new(lab, "job")?;
    job.let_pass(ALL)?;
    let before = lab.client().snapshot()?;
    let daemon = Daemon::start(lab, "cycles", |settings| {
        job.settings(settings)
            .with("housekeeping.keep_history", 40)
            .with("housekeeping.keep_done", 10)
    })?;
    let control = &daemon.control;
    let mut first = None;
    let cycles = times(50, 1000);
    for cycle in 0..cycles {
        // Half of them by the socket, half by signals.
        if cycle % 2 == 0 {
            control.up()?;
            control.wait_state("up")?;
            let (down, _) = control.down()?;
            ensure!(down["residue"].as_array().is_some_and(Vec::is_empty), "residue: {down}");
            ensure!(down["owed"] == "recorded", "the session is written down: {down}");
        } else {
            daemon.up()?;
            daemon.down()?;
        }
        same(lab, &before).with_context(|| format!("after cycle {cycle}"))?;
        if cycle == 20 {
            daemon.spool.wait_settled()?;
            first = Some(Belongings::of(&daemon)?);
        }
    }
    daemon.spool.wait_settled()?;
    let first = first.context("there were 20 cycles")?;
    until("as many descriptors, threads and files as at first", PATIENCE, || {
        Ok(Belongings::of(&daemon)?.beyond(&first).is_empty())
    })
    .or_else(|_| anyhow::bail!("more than at first: {:?}", Belongings::of(&daemon)?.beyond(&first)))?;
    let last = Belongings::of(&daemon)?;
    lab.note(&format!(
        "{cycles} cycles; after 21 and after all: {} and {} descriptors, {} and {} threads, {} and {} files, {} and {} KiB resident",
        first.descriptors, last.descriptors, first.threads, last.threads, first.files, last.files, first.kib, last.kib
    ));
    ensure!(last.kib < first.kib + 8 * 1024, "memory grows");
    let ended: BTreeSet<String> = job.ended()?.into_iter().collect();
    ensure!(ended.len() == cycles, "{} jobs of {cycles} sessions", ended.len());
    ensure!(gateway.is_running(), "the gateway is well");
    daemon.process.stop(Signal::TERM, PATIENCE)?;
    same(lab, &before)
}

/// What a daemon has.
#[derive(Debug)]
struct Belongings {
    descriptors: usize,
    threads: usize,
    files: usize,
    kib: u64,
}

impl Belongings {
    fn of(daemon: &Daemon<'_>) -> Result<Self> {
        let process = format!("/proc/{}", daemon.process.pid().as_raw_nonzero());
        let count = |what: &str| -> Result<usize> {
            let entries = fs::read_dir(format!("{process}/{what}")).context("cannot look at a process")?;
            Ok(entries.count())
        };
        let runtime = daemon.control.socket().parent().unwrap_or(Path::new("/"));
        let running = fs::read_dir(runtime).context("cannot list the runtime folder")?.count();
        let status = fs::read_to_string(format!("{process}/status")).context("cannot look at a process")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.map(|text| text.trim().trim_end_matches(" kB"));
        Ok(Self {
            descriptors: count("fd")?,
            threads: count("task")?,
            files: daemon.spool.files()?.len() + running,
            kib: kib
                .context("the kernel tells VmRSS")?
                .parse()
                .context("VmRSS is a number")?,
        })
    }

    /// Of what there is more than in `other`.
    fn beyond(&self, other: &Self) -> Vec<String> {
        let counts = [
            ("descriptors", self.descriptors, other.descriptors),
            ("threads", self.threads, other.threads),
            // Up to the limits of history and done jobs; 21 cycles have filled the one and half of the other.
            ("files", self.files, other.files + 20),
        ];
        let more = counts.into_iter().filter(|(_, now, then)| now > then);
        more.map(|(what, now, then)| format!("{now} {what} instead of {then}"))
            .collect()
    }
}

/// Numbers that differ from run to run; the first is noted.
struct Luck(u64);

impl Luck {
    fn new(lab: &Lab) -> Self {
        let seed = RandomState::new().build_hasher().finish();
        lab.note(&format!("seed {seed:#x}"));
        Self(seed)
    }

    /// splitmix64.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }
}

/// `marmot cleanup` with the configuration of a program of the lab.
fn cleanup(lab: &Lab, name: &str) -> Result<()> {
    let config = lab.folder().join(format!("{name}.toml"));
    let command = marmot(lab, lab.client(), &["cleanup", "-c", &config.display().to_string()])?;
    let status = lab.spawn("cleanup", command)?.wait_exit(PATIENCE)?;
    ensure!(status.success(), "cleanup ended with {status}");
    Ok(())
}

/// The host as it was, at the latest when the kernel has removed the device.
fn same(lab: &Lab, before: &HostState) -> Result<()> {
    until("the host as it was", PATIENCE, || {
        Ok(before.changes(&lab.client().snapshot()?).is_empty())
    })
    .or_else(|_| anyhow::bail!("left on the host: {:#?}", before.changes(&lab.client().snapshot()?)))
}

fn gateway(lab: &Lab) -> Result<Process> {
    // A released address rests for minutes; these tests have hundreds of sessions.
    let settings = gateway_settings(lab, lab.site())?.with("pool.ipv4", "10.78.0.0/20");
    start_gateway(lab, lab.site(), "gateway", &settings)
}
