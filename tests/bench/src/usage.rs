//! What programs cost: processor time and resident memory of both ends, and how busy the whole machine was.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};
use lab::Process;

/// Ticks in a second of `/proc/stat` and `/proc/PID/stat` (USER_HZ, 100 on every Linux that anybody meets).
const TICKS: f64 = 100.0;

/// Processor time, in seconds, of these programs and all that they started. The kernel's part is in it as far as it worked in their
/// name: system calls, and softirqs that interrupted them.
pub(crate) fn processor(programs: &[Process]) -> f64 {
    let all = family(programs);
    all.iter().filter_map(|pid| time_of(*pid)).sum()
}

/// Resident memory, in KiB, of these processes. What they share is counted for each.
pub(crate) fn resident_kib(family: &[i32]) -> u64 {
    family.iter().filter_map(|pid| resident_of(*pid)).sum()
}

/// Seconds for which processors of the machine were not idle since it started: all programs, interrupts and softirqs, and of these the
/// softirqs alone.
pub(crate) fn machine() -> Result<(f64, f64)> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = stat
        .lines()
        .find(|line| line.starts_with("cpu "))
        .context("the kernel tells of all processors")?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq
    let of = |at: usize| ticks.get(at).copied().unwrap_or(0.0) / TICKS;
    Ok((of(0) + of(1) + of(2) + of(5) + of(6), of(6)))
}

/// The numbers of these programs and of all that descend from them.
pub(crate) fn family(programs: &[Process]) -> Vec<i32> {
    let mut found: Vec<i32> = programs
        .iter()
        .filter(|process| process.is_running())
        .map(|process| process.pid().as_raw_nonzero().get())
        .collect();
    if found.is_empty() {
        return found;
    }
    let parents = parents();
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

fn parents() -> HashMap<i32, i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers
        .filter_map(|pid: i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let parent = behind_name(&stat)?.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect()
}

/// Nanoseconds of every thread if the kernel counts them, else ticks.
fn time_of(pid: i32) -> Option<f64> {
    threads_of(pid).or_else(|| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = behind_name(&stat)?.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok());
        Some((ticks(11)? + ticks(12)?) / TICKS)
    })
}

fn threads_of(pid: i32) -> Option<f64> {
    let mut nanoseconds = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        nanoseconds += text.split(' ').next()?.parse::<f64>().ok()?;
    }
    Some(nanoseconds / 1e9)
}

fn resident_of(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// What follows the name of a program, which may have spaces and parentheses itself.
fn behind_name(stat: &str) -> Option<&str> {
    stat.rsplit_once(')').map(|(_, rest)| rest)
}
