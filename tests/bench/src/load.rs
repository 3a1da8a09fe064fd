//! Loads by iperf3: its server on the LAN's host, its client on the client's.

use anyhow::{Context, Result, bail};
use lab::{PATIENCE, Process};
use serde_json::Value;

use crate::rig::Rig;

/// Bytes of payload in a small datagram.
const SMALL: &str = "100";

/// 20,000 small datagrams a second, in bits.
const MODERATE: &str = "16M";

/// What TCP carried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried {
    pub(crate) gigabits_a_second: f64,
    pub(crate) bytes: f64,
    /// Processor time of iperf3 itself, both ends, in seconds.
    pub(crate) iperf: f64,
}

/// Small datagrams that arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) datagrams: f64,
    pub(crate) seconds: f64,
}

/// TCP for the time of the rig.
pub(crate) fn tcp(rig: &Rig<'_>, more: &[&str]) -> Result<Carried> {
    let report = iperf(rig, more)?;
    let end = &report["end"];
    let number = |value: &Value| {
        value
            .as_f64()
            .with_context(|| format!("iperf3 left something out: {end}"))
    };
    let seconds = number(&end["sum_sent"]["seconds"])?;
    let load = &end["cpu_utilization_percent"];
    Ok(Carried {
        gigabits_a_second: number(&end["sum_received"]["bits_per_second"])? / 1e9,
        bytes: number(&end["sum_received"]["bytes"])?,
        iperf: (number(&load["host_total"])? + number(&load["remote_total"])?) / 100.0 * seconds,
    })
}

/// Small datagrams, as many as go.
pub(crate) fn flat_out(rig: &Rig<'_>) -> Result<Arrived> {
    small(rig, "0")
}

/// Small datagrams, 20,000 a second.
pub(crate) fn moderate(rig: &Rig<'_>) -> Result<Arrived> {
    small(rig, MODERATE)
}

fn small(rig: &Rig<'_>, rate: &str) -> Result<Arrived> {
    let before = rig.datagrams()?;
    let report = iperf(rig, &["-u", "-l", SMALL, "-b", rate])?;
    let seconds = report["end"]["sum"]["seconds"].as_f64();
    Ok(Arrived {
        datagrams: rig.datagrams()?.saturating_sub(before) as f64,
        seconds: seconds
            .filter(|seconds| *seconds > 0.0)
            .context("iperf3 says no time")?,
    })
}

fn iperf(rig: &Rig<'_>, more: &[&str]) -> Result<Value> {
    let server = serve(rig)?;
    let (host, seconds) = (rig.target().to_string(), rig.seconds.to_string());
    let mut command = rig.lab.command(rig.lab.client(), "iperf3")?;
    command.args(["-c", &host, "-t", &seconds, "-J"]).args(more);
    let client = rig.lab.spawn("iperf3", command)?;
    client.wait_exit(PATIENCE + std::time::Duration::from_secs(rig.seconds.into()))?;
    let report: Value = serde_json::from_str(&client.output()).context("cannot read what iperf3 says")?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    server.wait_exit(PATIENCE)?;
    Ok(report)
}

fn serve(rig: &Rig<'_>) -> Result<Process> {
    let mut command = rig.lab.command(&rig.site().lan, "iperf3")?;
    command.args(["-s", "-1", "--forceflush"]);
    let server = rig.lab.spawn("iperf3-server", command)?;
    server.wait_for("Server listening", PATIENCE)?;
    Ok(server)
}
