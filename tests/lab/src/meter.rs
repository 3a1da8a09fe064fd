//! Packets that arrive on a cable, counted by the host at its other end. That misses none, and needs no more than the lab gives.

use anyhow::{Context, Result, ensure};
use platform::netns::Namespace;

use crate::{Lab, PATIENCE};

/// A count under way. Its table goes with the host.
#[derive(Debug)]
pub struct Meter<'a> {
    lab: &'a Lab,
    host: &'a Namespace,
}

impl<'a> Meter<'a> {
    /// Counts what `host` receives and `matches`, in the words of nft(8), such as `iifname client ip daddr 10.0.0.0/8`. One
    /// at a time on a host.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn start(lab: &'a Lab, host: &'a Namespace, matches: &[String]) -> Result<Self> {
        let meter = Self { lab, host };
        let rules: String = matches.iter().map(|rule| format!("{rule} counter\n")).collect();
        // Before routing and every filter.
        let chain = format!("chain arrived {{ type filter hook prerouting priority -300;\n{rules}}}\n");
        meter.nft("-", &format!("table inet arrivals {{\n{chain}}}\n"))?;
        Ok(meter)
    }

    /// The packets of each rule so far.
    ///
    /// # Errors
    /// If nft does not say.
    pub fn packets(&self) -> Result<Vec<u64>> {
        self.counts("packets ")
    }

    /// The bytes of each rule so far, IP headers included.
    ///
    /// # Errors
    /// If nft does not say.
    pub fn bytes(&self) -> Result<Vec<u64>> {
        self.counts("bytes ")
    }

    fn counts(&self, what: &str) -> Result<Vec<u64>> {
        let script = self.lab.file("meter.nft", "list table inet arrivals\n")?;
        let table = self.nft(&script.display().to_string(), "")?;
        let counters = table.lines().filter_map(|line| line.split_once("counter "));
        let counts = counters.filter_map(|(_, counter)| counter.split_once(what));
        let counts = counts.map(|(_, rest)| rest.split(' ').next().unwrap_or_default().parse());
        counts.collect::<Result<_, _>>().context("a counter is a number")
    }

    fn nft(&self, file: &str, input: &str) -> Result<String> {
        let mut command = self.lab.command(self.host, "nft")?;
        command.args(["-f", file]);
        let process = self.lab.spawn_with_input("nft", command, input)?;
        let status = process.wait_exit(PATIENCE)?;
        ensure!(status.success(), "nft ended with {status}: {}", process.output());
        Ok(process.output())
    }
}
