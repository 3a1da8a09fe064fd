//! What crosses a cable: tcpdump with a filter, counting.

use anyhow::{Context, Result};
use platform::netns::Namespace;
use rustix::process::Signal;

use crate::{Lab, PATIENCE, Process};

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    process: Process,
}

impl Capture {
    /// Watches a device of a host for packets that match, in the words of pcap-filter(7).
    ///
    /// # Errors
    /// If tcpdump does not start.
    pub fn start(lab: &Lab, host: &Namespace, device: &str, filter: &str) -> Result<Self> {
        let mut command = lab.command(host, "tcpdump")?;
        // As root it would become another user, which a user namespace does not have.
        command.args(["-n", "-l", "-Z", "root", "-i", device, filter]);
        let process = lab.spawn(&format!("tcpdump-{device}"), command)?;
        process.wait_for("listening on", PATIENCE)?;
        Ok(Self { process })
    }

    /// Ends it. Returns the packets, one line each.
    ///
    /// # Errors
    /// If tcpdump does not say how many there were, or missed some.
    pub fn end(self) -> Result<Vec<String>> {
        self.process.stop(Signal::INT, PATIENCE)?;
        self.process.wait_for("0 packets dropped by kernel", PATIENCE)?;
        let output = self.process.output();
        let count = output.lines().find_map(|line| line.strip_suffix(" packets captured"));
        let one = output.lines().any(|line| line == "1 packet captured").then_some("1");
        let count: usize = count
            .or(one)
            .context("tcpdump counts")?
            .parse()
            .context("a count is a number")?;
        let packets = output
            .lines()
            .filter(|line| line.contains(" IP ") || line.contains(" IP6 "));
        let mut packets: Vec<String> = packets.map(str::to_owned).collect();
        packets.resize(count.max(packets.len()), "a packet that was not printed".to_owned());
        Ok(packets)
    }
}
