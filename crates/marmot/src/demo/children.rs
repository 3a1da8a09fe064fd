//! The parts that other processes of the same program play: the probe, the naive client, and both ends of the fallback.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::world::World;
use super::{fallback, naive};

/// Which part, and what it needs to know. Hidden from the help: nobody types this.
#[derive(Debug, clap::Args)]
pub(crate) struct Role {
    /// Which part
    #[arg(long = "role", hide = true)]
    part: Option<Part>,
    /// Configuration file
    #[arg(long = "role-config", hide = true)]
    config: Option<PathBuf>,
    /// Address of the naive gateway
    #[arg(long = "role-gateway", hide = true)]
    gateway: Option<SocketAddr>,
    /// Heartbeat interval
    #[arg(long = "role-interval-ms", hide = true, default_value_t = 2000)]
    interval_ms: u64,
}

/// A part in the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Tries whether namespaces and TUN devices are permitted, and exits.
    Probe,
    /// The naive client.
    NaiveClient,
    /// The client of the fallback, with a host on an IP stack of its own behind it.
    LoopbackClient,
    /// The gateway of the fallback, with a LAN on an IP stack of its own behind it.
    LoopbackGateway,
}

impl Role {
    /// Whether this process plays a part, rather than telling the story.
    pub(crate) fn is_some(&self) -> bool {
        self.part.is_some()
    }

    /// Plays the part until it is over.
    pub(crate) fn play(self) -> Result<ExitCode> {
        let config = self.config.context("this part needs --role-config");
        match self.part {
            Some(Part::Probe) => World::probe()?,
            Some(Part::NaiveClient) => {
                let gateway = self.gateway.context("this part needs --role-gateway")?;
                naive::client(gateway, Duration::from_millis(self.interval_ms), &mut std::io::stdout())?;
            }
            Some(Part::LoopbackClient) => fallback::client::play(&config?)?,
            Some(Part::LoopbackGateway) => fallback::gateway::play(&config?)?,
            None => bail!("no part to play"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments for another process that plays `part`.
pub(crate) fn arguments(part: Part) -> Vec<String> {
    let name = part
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default();
    vec!["demo".to_owned(), "--role".to_owned(), name]
}

/// A command that runs this program.
pub(crate) fn own_program() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find this program on the disk")
}

/// Lets a child build the whole world, and says what stopped it.
///
/// A child, because a failure half way leaves a process in a namespace without any network, and then the fallback could not
/// work in it either.
pub(crate) fn probe() -> Result<()> {
    let output = Command::new(own_program()?)
        .args(arguments(Part::Probe))
        .stdin(Stdio::null())
        .output()
        .context("cannot start a process to try namespaces in")?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let reason = text.trim().trim_start_matches("marmot: ");
    if reason.is_empty() {
        bail!("the process that tried ended with {}", output.status);
    }
    bail!("{reason}")
}
