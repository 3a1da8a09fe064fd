//! The run: rounds in which everybody takes a turn, so that a busy moment of the machine strikes nobody's median alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use lab::{PATIENCE, Process, Signal};

use crate::figures::{Row, Sample};
use crate::peers::Entry;
use crate::rig::Rig;
use crate::{echo, load, usage};

/// Between two looks at the memory of a program.
const LOOK: Duration = Duration::from_millis(100);

/// Measures all of `entries`, `rounds` times. Who fails is named in its row, and tried again in the next round.
pub fn all(rig: &Rig<'_>, entries: &[Entry], rounds: usize) -> Vec<Row> {
    let row = |entry: &Entry| Row {
        entry: *entry,
        samples: Vec::new(),
        problem: entry.obstacle(),
    };
    let mut rows: Vec<Row> = entries.iter().map(row).collect();
    for round in 1..=rounds {
        for row in &mut rows {
            if row.entry.obstacle().is_some() {
                row.samples.push(None);
                continue;
            }
            let sample = measure(rig, &row.entry);
            match &sample {
                Ok(sample) => println!("round {round}: {:34} {}", row.entry.name, line(sample)),
                Err(e) => {
                    println!("round {round}: {:34} failed: {e:#}", row.entry.name);
                    row.problem = Some(format!("{e:#}"));
                }
            }
            row.samples.push(sample.ok());
        }
    }
    rows
}

fn line(sample: &Sample) -> String {
    format!(
        "{:5.2} / {:5.2} / {:5.2} Gbit/s, {:4.1} s/GB, {:5.1} kpps, {:4.1} us, {:.2} / {:.2} ms, {:.0} bytes a packet, start {:.0} ms, load of the machine {}",
        sample.tcp1,
        sample.tcp4,
        sample.reverse,
        sample.cpu,
        sample.small,
        sample.packet,
        sample.quiet,
        sample.loaded,
        sample.wire,
        sample.start,
        average_load(),
    )
}

fn average_load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

fn measure(rig: &Rig<'_>, entry: &Entry) -> Result<Sample> {
    let peer = entry.make(rig)?;
    let gateway = peer.gateway(rig)?;
    let first = echo::First::awaited(rig)?;
    let began = Instant::now();
    let client = peer.client(rig)?;
    let start = first.since(began)?;
    peer.settle(&client)?;

    let quiet = echo::quiet(rig)?;
    let ends = || usage::processor(&client) + usage::processor(&gateway);
    let one = {
        let (processes, machine, sent) = (ends(), usage::machine()?, rig.sent()?);
        let beside = echo::Beside::start(rig)?;
        let memory = Memory::watch([&client, &gateway]);
        let carried = load::tcp(rig, &[])?;
        let loaded = beside.median()?;
        let [client, gateway] = memory.most()?;
        let (busy, softirq) = usage::machine()?;
        let gigabytes = carried.bytes / 1e9;
        Sample {
            tcp1: carried.gigabits_a_second,
            cpu: (ends() - processes) / gigabytes,
            machine: (busy - machine.0 - carried.iperf) / gigabytes,
            softirq: (softirq - machine.1) / gigabytes,
            loaded: ms(loaded),
            client,
            gateway,
            wire: rig.sent()?.each_since(&sent),
            ..Sample::default()
        }
    };
    let four = load::tcp(rig, &["-P", "4"])?;
    let back = load::tcp(rig, &["-R"])?;
    let small = load::flat_out(rig)?;
    let before = ends();
    let moderate = load::moderate(rig)?;
    let packet = (ends() - before) / moderate.datagrams.max(1.0) * 1e6;
    let stop = peer.stop(rig, &client)?;
    for process in &gateway {
        // It is not what is measured; whoever does not want to is killed when dropped.
        let _ = process.stop(Signal::TERM, PATIENCE);
    }
    Ok(Sample {
        tcp4: four.gigabits_a_second,
        reverse: back.gigabits_a_second,
        small: small.datagrams / small.seconds / 1e3,
        packet,
        quiet: ms(quiet),
        start: ms(start),
        told: ms(stop.told),
        gone: ms(stop.gone),
        ..one
    })
}

/// Looks at the memory of both ends until it is asked for the most that each had.
struct Memory {
    over: Arc<AtomicBool>,
    most: Arc<[AtomicU64; 2]>,
    thread: JoinHandle<()>,
}

impl Memory {
    fn watch(ends: [&[Process]; 2]) -> Self {
        let families = ends.map(usage::family);
        let (over, most) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new([AtomicU64::new(0), AtomicU64::new(0)]),
        );
        let (bell, kept) = (Arc::clone(&over), Arc::clone(&most));
        let thread = thread::spawn(move || {
            loop {
                for (family, most) in families.iter().zip(kept.iter()) {
                    most.fetch_max(usage::resident_kib(family), Ordering::Relaxed);
                }
                if bell.load(Ordering::Relaxed) {
                    return;
                }
                thread::park_timeout(LOOK);
            }
        });
        Self { over, most, thread }
    }

    /// In MiB, of the client and of the gateway.
    fn most(self) -> Result<[f64; 2]> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread
            .join()
            .map_err(|_| anyhow!("the thread that looks at memory died"))?;
        Ok([0, 1].map(|end| self.most[end].load(Ordering::Relaxed) as f64 / 1024.0))
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
