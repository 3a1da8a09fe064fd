//! Stories that several test programs tell: traffic through a tunnel, ends of sessions, and what must hold around them.

mod channel;
mod daemon;
mod service;
mod sleeping;
mod wire;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{
    Lab, Mark, PATIENCE, Ping, Process, Pulse, Settings, SitePlan, client_settings, eventually, marmot, transfer,
};
use platform::netns::Namespace;

pub use channel::{MOVED, SUITES, TO_CONTROL, TO_DATA, channel_becomes, channel_in_status, data_channel, nobody_moved};
pub use daemon::{Daemon, sessions};
pub use service::{CLIENT, Service};
pub use sleeping::{BESIDE, PARKED_WITHIN, Sleeping};
pub use wire::{Counts, Wires};

/// How much a bulk transfer moves each way.
pub const BULK: u64 = 100_000_000;

/// Between two requests of [`first_answer`]: it is as exact as this and the 10 ms of [`eventually`].
const PACE: Duration = Duration::from_millis(5);

/// Longer than any client takes to give up or to come back.
const FIRST_ANSWER: Duration = Duration::from_secs(40);

/// Pings the host in the LAN over IPv4 and IPv6.
///
/// # Errors
/// If one does not answer.
pub fn ping_both(client: &Namespace, plan: SitePlan) -> Result<()> {
    Ping::new(client, plan.host_v4())
        .answered(PATIENCE)
        .context("through the tunnel")?;
    Ping::new(client, plan.host_v6())
        .answered(PATIENCE)
        .context("through the tunnel")?;
    Ok(())
}

/// How long it takes from `since` until a host is answered that asks again and again; `None` if `over` holds before.
///
/// # Errors
/// If neither comes to pass in time.
pub fn first_answer(
    from: &Namespace,
    to: impl Into<IpAddr>,
    since: Instant,
    mut over: impl FnMut() -> bool,
) -> Result<Option<Duration>> {
    let pulse = Pulse::every(PACE, from, to)?;
    eventually("an answer or an end", FIRST_ANSWER, || {
        if pulse.answered() > 0 {
            return Ok(Some(Some(since.elapsed())));
        }
        Ok(over().then_some(None))
    })
}

/// Moves [`BULK`] bytes each way over IPv4 and notes how fast.
///
/// # Errors
/// If it breaks or a hash differs.
pub fn bulk(lab: &Lab, client: &Namespace, plan: SitePlan) -> Result<()> {
    let rates = transfer(client, plan.host_v4(), BULK)?;
    lab.note(&format!("{} MB each way: {rates}", BULK / 1_000_000));
    Ok(())
}

/// Makes sure that the LAN is out of reach.
///
/// # Errors
/// If it answers.
pub fn no_way(client: &Namespace, plan: SitePlan) -> Result<()> {
    Ping::new(client, plan.host_v4()).unanswered(Duration::from_millis(50))
}

/// Settings of a client on another host: the hosts of the lab share one file system, so its tunnel has another name.
///
/// # Errors
/// If a file cannot be written.
pub fn second_settings(lab: &Lab) -> Result<Settings> {
    Ok(client_settings(lab, lab.site())?.with("tunnel.name", "second"))
}

/// Waits until one of our gateways says that a session ended for `reason`. Returns what it says of it.
///
/// # Errors
/// If it does not.
pub fn session_end(gateway: &Process, reason: &str) -> Result<String> {
    gateway.wait_for_line(Mark::default(), &["session.end", reason], PATIENCE)
}

/// The value of a field in a line of our log, without quotes: of a line with all of `texts` after `mark`.
///
/// # Errors
/// If no such line comes, or it has no such field.
pub fn field(process: &Process, mark: Mark, texts: &[&str], name: &str) -> Result<String> {
    let line = process.wait_for_line(mark, texts, PATIENCE)?;
    let start = line.split_once(&format!(" {name}="));
    let value = start.map(|(_, rest)| match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap_or_default(),
        None => rest.split(' ').next().unwrap_or_default(),
    });
    value.map(str::to_owned).with_context(|| format!("no {name} in {line}"))
}

/// The addresses our client was granted at first.
///
/// # Errors
/// If it did not come up.
pub fn addresses(client: &Process) -> Result<String> {
    field(client, Mark::default(), &["session.start"], "addresses")
}

/// The IPv4 address of a tunnel's device on a host.
///
/// # Errors
/// If it has none.
pub fn tunnel_address(host: &Namespace, device: &str) -> Result<Ipv4Addr> {
    let state = host.snapshot()?;
    let found = state
        .lines()
        .filter_map(|line| line.strip_prefix("address "))
        .filter(|line| line.contains(device))
        .find_map(|line| line.split('/').next()?.parse().ok());
    found.context("the tunnel has an address")
}

/// Both ends of the only TCP connection of a client.
///
/// # Errors
/// If it has none, or several.
pub fn only_connection(client: &Process) -> Result<(SocketAddr, SocketAddr)> {
    let connections = client.connections()?;
    ensure!(
        connections.len() == 1,
        "{} TCP connections instead of one",
        connections.len()
    );
    Ok(connections[0].ends())
}

/// A command that must fail.
#[derive(Debug)]
pub struct Failing<'a> {
    lab: &'a Lab,
    host: &'a Namespace,
    name: &'a str,
    arguments: Vec<String>,
    /// What is put before it, such as `setpriv`.
    wrapper: Vec<String>,
}

impl<'a> Failing<'a> {
    /// `marmot WHAT -c` with these settings.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn new(lab: &'a Lab, host: &'a Namespace, what: &str, name: &'a str, settings: &Settings) -> Result<Self> {
        let path = settings.write(&lab.folder().join(format!("{name}.toml")))?;
        Ok(Self {
            lab,
            host,
            name,
            arguments: vec![what.to_owned(), "-c".to_owned(), path.display().to_string()],
            wrapper: Vec::new(),
        })
    }

    /// Without CAP_NET_ADMIN.
    #[must_use]
    pub fn without_privilege(mut self) -> Self {
        self.wrapper = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
            .map(str::to_owned)
            .to_vec();
        self
    }

    /// Without the program nft.
    #[must_use]
    pub fn without_nft(mut self) -> Self {
        let script = "for nft in /usr/sbin/nft /sbin/nft /usr/bin/nft /usr/local/sbin/nft; do \
                      [ ! -f $nft ] || mount --bind /dev/null $nft; done && exec \"$@\"";
        self.wrapper = ["unshare", "--mount", "sh", "-c", script, "sh"]
            .map(str::to_owned)
            .to_vec();
        self
    }

    /// Without /dev/net/tun.
    #[must_use]
    pub fn without_tun(mut self) -> Self {
        let script = "mount -t tmpfs none /dev/net && exec \"$@\"";
        self.wrapper = ["unshare", "--mount", "sh", "-c", script, "sh"]
            .map(str::to_owned)
            .to_vec();
        self
    }

    /// Runs it: it must end with `code`, say all of `texts` and no escape sequence, and leave its host as it was.
    ///
    /// # Errors
    /// If it does anything else.
    pub fn ends_with(self, code: i32, texts: &[&str]) -> Result<()> {
        let before = self.host.snapshot()?;
        let ours = marmot(self.lab, self.host, &[])?;
        let mut command = match self.wrapper.split_first() {
            None => ours,
            Some((program, arguments)) => {
                let mut command = self.lab.command(self.host, program)?;
                command.args(arguments).arg(ours.get_program());
                command
            }
        };
        command.args(&self.arguments);
        fails(self.lab, self.name, command, code, texts)?;
        let changes = before.changes(&self.host.snapshot()?);
        ensure!(changes.is_empty(), "{} left on the host: {changes:#?}", self.name);
        Ok(())
    }
}

/// Runs a command that must end with `code` and say all of `texts`, and no escape sequence. Notes the last line with the
/// first of them.
///
/// # Errors
/// If it does anything else.
pub fn fails(lab: &Lab, name: &str, command: Command, code: i32, texts: &[&str]) -> Result<()> {
    let process = lab.spawn(name, command)?;
    let status = process.wait_exit(PATIENCE)?;
    let output = process.output();
    for text in texts {
        ensure!(output.contains(text), "{name} did not say {text:?}");
    }
    ensure!(
        status.code() == Some(code),
        "{name} ended with {status}, not with {code}"
    );
    no_escapes(&process)?;
    let said = output
        .lines()
        .rfind(|line| texts.first().is_some_and(|text| line.contains(text)));
    lab.note(&format!("{name}: {}", said.unwrap_or_default()));
    Ok(())
}

/// Makes sure that nothing a terminal would obey was said.
///
/// # Errors
/// If there was.
pub fn no_escapes(process: &Process) -> Result<()> {
    let output = process.raw_output();
    let dirt = output
        .iter()
        .find(|byte| **byte < 0x20 && !b"\n\t".contains(byte) || **byte == 0x7f);
    ensure!(dirt.is_none(), "{} wrote the raw byte {dirt:02x?}", process.name());
    Ok(())
}
