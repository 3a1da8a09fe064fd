//! The hosts of a measurement and the cable that is measured.
//!
//! ```text
//!   client ---------- gateway ---------- lan          client and gateway: one packet at a time, of 1,500 bytes at most
//! ```
//! Two veth devices hand super-packets over whole if they may, which flatters whoever sends such. So their segmentation is switched off:
//! the kernel cuts before the cable, and behind it NAPI may put together (`gro on`), as with a real card.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Site};
use platform::netns::Namespace;

/// Where the tunnel's own packets pass.
pub const CABLE: &str = "eth0";

/// What of a cable's ends must not cut for us.
const CUTTING: [&str; 3] = ["tx-udp-segmentation", "tx-tcp-segmentation", "tx-tcp6-segmentation"];

/// A lab in which is measured.
#[derive(Debug)]
pub struct Rig<'a> {
    /// The hosts.
    pub lab: &'a Lab,
    /// How long each load lasts, in seconds.
    pub seconds: u32,
}

/// What a device has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sent {
    /// Bytes, headers of Ethernet included.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
}

impl<'a> Rig<'a> {
    /// Makes the cable an honest one.
    ///
    /// # Errors
    /// If `ethtool` cannot.
    pub fn new(lab: &'a Lab, seconds: u32) -> Result<Self> {
        for (host, device) in [(lab.client(), CABLE), (&lab.site().gateway, "wan")] {
            let mut arguments = vec!["-K", device, "gro", "on"];
            arguments.extend(CUTTING.iter().flat_map(|feature| [*feature, "off"]));
            run(lab.command(host, "ethtool")?.args(arguments))?;
            let features = run(lab.command(host, "ethtool")?.args(["-k", device]))?;
            for feature in CUTTING {
                ensure!(
                    features.contains(&format!("{feature}: off")),
                    "{device}: {feature} is still on"
                );
            }
        }
        Ok(Self { lab, seconds })
    }

    /// The gateway and its LAN.
    pub fn site(&self) -> &'a Site {
        self.lab.site()
    }

    /// The host to which everything is sent.
    pub fn target(&self) -> Ipv4Addr {
        self.site().plan.host_v4()
    }

    /// What went over the cable so far, from the client's end.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn sent(&self) -> Result<Sent> {
        let table = self
            .lab
            .client()
            .run(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
        let table = table.context("cannot read /proc/net/dev")?;
        let line = table
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(CABLE)?.strip_prefix(':'));
        let numbers: Vec<u64> = line
            .context("the client has no cable")?
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let at = |index: usize| {
            numbers
                .get(index)
                .copied()
                .context("a line of /proc/net/dev has 16 numbers")
        };
        Ok(Sent {
            bytes: at(8)?,
            packets: at(9)?,
        })
    }

    /// Datagrams that programs on the LAN's host have received so far.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn datagrams(&self) -> Result<u64> {
        let table = self
            .site()
            .lan
            .run(|| fs::read_to_string("/proc/thread-self/net/snmp"))?;
        let table = table.context("cannot read /proc/net/snmp")?;
        let mut lines = table.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (names, numbers) = (lines.next(), lines.next());
        let at = names.and_then(|names| names.split(' ').position(|name| name == "InDatagrams"));
        let number = at.and_then(|at| numbers?.split(' ').nth(at)?.parse().ok());
        number.context("the kernel counts datagrams")
    }

    /// Runs `ip` with these arguments on a host.
    ///
    /// # Errors
    /// If it fails.
    pub fn ip(&self, host: &Namespace, arguments: &str) -> Result<()> {
        run(self.lab.command(host, "ip")?.args(arguments.split(' '))).map(drop)
    }
}

impl Sent {
    /// Bytes of each packet since `before`, without the header of Ethernet.
    pub fn each_since(&self, before: &Self) -> f64 {
        let packets = self.packets.saturating_sub(before.packets).max(1) as f64;
        self.bytes.saturating_sub(before.bytes) as f64 / packets - 14.0
    }
}

/// Runs a command to its end, and returns what it wrote.
///
/// # Errors
/// If it fails, with what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
