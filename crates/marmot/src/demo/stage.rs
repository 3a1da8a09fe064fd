//! Where the story plays, who is on stage, and what they can be asked to do. The acts are written once for both sites.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use platform::netns::Namespace;
use platform::network::HostState;
use platform::signals::{Signal, is_alive};
use tempfile::TempDir;

use super::DemoArgs;
use super::children::{self, Part};
use super::download::Download;
use super::kernel::{self, Connection, Counters};
use super::ping::Pinger;
use super::process::Process;
use super::story::Story;
use super::world::{self, World};
use super::{download, fallback, http, naive, setup};

/// The TCP port of the naive gateway.
const NAIVE_PORT: u16 = 7000;

/// How long a TCP connection to the LAN may take.
const CONNECT: Duration = Duration::from_secs(5);

/// What the client can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Take the tunnel down and stay.
    Down,
    /// Bring it up.
    Up,
}

/// Where it plays.
pub(crate) enum Site {
    /// Four hosts in network namespaces.
    Namespaces(Box<World>),
    /// This host's loopback, with IP stacks of our own.
    Loopback,
}

/// What the demo leaves behind.
pub(crate) enum Left {
    /// Nothing.
    Nothing,
    /// A folder that somebody wants to look at.
    Wanted(PathBuf),
    /// What could not be removed, and why.
    Unwanted(String),
}

/// Everybody and everything on stage. Dropping it ends every process and removes the folder.
pub(crate) struct Stage {
    pub(crate) story: Story,
    site: Site,
    /// Processes in the order of their logs' importance; dropped before the folder.
    pub(crate) client: Option<Process>,
    pub(crate) naive: Option<Process>,
    /// What the naive gateway sees; it serves as long as somebody listens.
    pub(crate) naive_verdicts: Option<Receiver<naive::Event>>,
    pub(crate) gateway: Option<Process>,
    folder: TempDir,
    pingers: HashMap<IpAddr, Pinger>,
    /// Where the gateway accepts clients; known once it runs.
    pub(crate) gateway_address: Option<SocketAddr>,
    /// How the client's host was before the client started.
    pub(crate) before: Option<HostState>,
    /// Bytes to download.
    pub(crate) size: u64,
    /// Whether a bar may move.
    pub(crate) bar: bool,
    keep: bool,
}

impl Stage {
    /// An empty stage with its folder.
    pub(crate) fn new(story: Story, site: Site, args: &DemoArgs) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("marmot-demo-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        if let Site::Namespaces(world) = &site {
            let server = (world::HOST, http::PORT).into();
            http::serve(world::listen(&world.lan, server)?)?;
        }
        let bar = story.is_terminal() && !args.no_progress;
        Ok(Self {
            story,
            site,
            client: None,
            naive: None,
            naive_verdicts: None,
            gateway: None,
            folder,
            pingers: HashMap::new(),
            gateway_address: None,
            before: None,
            size: args.size << 20,
            bar,
            keep: args.keep,
        })
    }

    /// The namespaces, if it plays there.
    pub(crate) fn world(&self) -> Option<&World> {
        match &self.site {
            Site::Namespaces(world) => Some(world),
            Site::Loopback => None,
        }
    }

    /// The folder with configurations and logs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the gateway is to listen.
    pub(crate) fn gateway_listen(&self) -> SocketAddr {
        match &self.site {
            Site::Namespaces(_) => (world::GATEWAY, 443).into(),
            Site::Loopback => (Ipv4Addr::LOCALHOST, 0).into(),
        }
    }

    /// Starts the gateway.
    pub(crate) fn start_gateway(&mut self) -> Result<()> {
        let config = self.folder().join(setup::GATEWAY_CONFIG);
        let mut command = match &self.site {
            Site::Namespaces(world) => in_namespace(
                &world.gateway,
                ["gateway".as_ref(), "--config".as_ref(), config.as_ref()],
            )?,
            Site::Loopback => part(Part::LoopbackGateway, ["--role-config".as_ref(), config.as_ref()])?,
        };
        self.gateway = Some(self.spawn("gateway", &mut command)?);
        Ok(())
    }

    /// Starts the client.
    pub(crate) fn start_client(&mut self) -> Result<()> {
        let config = self.folder().join(setup::CLIENT_CONFIG);
        let mut command = match &self.site {
            Site::Namespaces(world) => {
                in_namespace(&world.client, ["client".as_ref(), "--config".as_ref(), config.as_ref()])?
            }
            Site::Loopback => part(Part::LoopbackClient, ["--role-config".as_ref(), config.as_ref()])?,
        };
        self.client = Some(self.spawn("client", &mut command)?);
        Ok(())
    }

    /// Starts the naive client.
    pub(crate) fn start_naive(&mut self, gateway: SocketAddr, interval: Duration) -> Result<()> {
        let (gateway, interval) = (gateway.to_string(), interval.as_millis().to_string());
        let mut arguments = children::arguments(Part::NaiveClient);
        arguments.extend([
            "--role-gateway".to_owned(),
            gateway,
            "--role-interval-ms".to_owned(),
            interval,
        ]);
        let mut command = match &self.site {
            Site::Namespaces(world) => in_namespace(&world.client, arguments.iter().map(OsStr::new))?,
            Site::Loopback => {
                let mut command = Command::new(children::own_program()?);
                command.args(&arguments);
                command
            }
        };
        self.naive = Some(self.spawn("naive client", &mut command)?);
        Ok(())
    }

    /// A listening socket for the naive gateway, beside ours.
    pub(crate) fn naive_listener(&self) -> Result<TcpListener> {
        match &self.site {
            Site::Namespaces(world) => world::listen(&world.gateway, (world::GATEWAY, NAIVE_PORT).into()),
            Site::Loopback => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on 127.0.0.1"),
        }
    }

    /// The client, which runs.
    pub(crate) fn client(&mut self) -> Result<&mut Process> {
        self.client.as_mut().ok_or_else(|| anyhow!("the client does not run"))
    }

    /// The gateway, which runs.
    pub(crate) fn gateway(&mut self) -> Result<&mut Process> {
        self.gateway.as_mut().ok_or_else(|| anyhow!("the gateway does not run"))
    }

    /// Tells the client what to do with its tunnel.
    pub(crate) fn order(&mut self, order: Order) -> Result<()> {
        match &self.site {
            Site::Namespaces(_) => {
                let signal = match order {
                    Order::Down => Signal::TunnelDown,
                    Order::Up => Signal::TunnelUp,
                };
                self.client()?.signal(signal)
            }
            Site::Loopback => fallback::client::order(self.client()?, order),
        }
    }

    /// Pings `to` once from the client's host.
    pub(crate) fn ping(&mut self, to: IpAddr, limit: Duration) -> Result<Duration> {
        let Site::Namespaces(world) = &self.site else {
            return fallback::client::ping(self.client()?, to, limit);
        };
        let pinger = match self.pingers.entry(to) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(world.client.run(|| Pinger::open(to))??),
        };
        pinger.ping(limit)
    }

    /// Downloads `path` from the LAN host to the client's host.
    pub(crate) fn get(&mut self, path: &str, limit: Duration, progress: &mut dyn FnMut(u64)) -> Result<Download> {
        match self.connect()? {
            Some(mut connection) => connection.get(path, limit, progress),
            None => fallback::client::get(self.client()?, path, limit, progress),
        }
    }

    /// An HTTP connection from the client's host to the LAN host; none where our own IP stack has to do that.
    pub(crate) fn connect(&self) -> Result<Option<download::Connection>> {
        let Site::Namespaces(world) = &self.site else {
            return Ok(None);
        };
        let server = (world::HOST, http::PORT).into();
        Ok(Some(world.client.run(|| download::Connection::open(server, CONNECT))??))
    }

    /// The TCP connections that the gateway's kernel has accepted, if it tells.
    pub(crate) fn accepted(&self) -> Result<Option<Vec<Connection>>> {
        let Some(address) = self.gateway_address else {
            return Ok(None);
        };
        Ok(match &self.site {
            Site::Namespaces(world) => world.gateway.run(|| kernel::accepted_at(address))?,
            Site::Loopback => kernel::accepted_at(address),
        })
    }

    /// Keepalive probes that the gateway's kernel has sent, where no other program shares that kernel's count.
    pub(crate) fn probes_sent(&self) -> Result<Option<u64>> {
        Ok(match &self.site {
            Site::Namespaces(world) => world.gateway.run(kernel::keepalive_probes_sent)?,
            Site::Loopback => None,
        })
    }

    /// Whether IPv6 can be shown.
    pub(crate) fn ipv6(&self) -> bool {
        match &self.site {
            Site::Namespaces(_) => platform::network::ipv6_available(),
            // Our own IP stack does not ask the kernel.
            Site::Loopback => true,
        }
    }

    /// What the tunnel's device carried, by the kernel of the client's host.
    pub(crate) fn device_counters(&self) -> Result<Option<Counters>> {
        Ok(match &self.site {
            Site::Namespaces(world) => world.client.run(|| kernel::counters(setup::DEVICE))?,
            Site::Loopback => None,
        })
    }

    /// The state of the client's host, where it has one of its own.
    pub(crate) fn snapshot(&self) -> Result<Option<HostState>> {
        Ok(match &self.site {
            Site::Namespaces(world) => Some(world.client.snapshot()?),
            Site::Loopback => None,
        })
    }

    /// The end of every log, for people.
    pub(crate) fn show_logs(&mut self, lines: usize) {
        for process in [&mut self.client, &mut self.naive, &mut self.gateway]
            .into_iter()
            .flatten()
        {
            let tail = process.tail(lines);
            self.story.say("");
            self.story.say(&format!(
                "The last lines of the {} ({}):",
                process.name(),
                process.log().display()
            ));
            self.story.block(&tail.join("\n"));
        }
    }

    /// Ends every process and removes the folder, unless it is to be kept.
    pub(crate) fn clear(self, keep: bool) -> (Story, Left) {
        let Self {
            story,
            client,
            naive,
            gateway,
            folder,
            keep: wanted,
            ..
        } = self;
        let processes = [client, naive, gateway].into_iter().flatten();
        let pids: Vec<u32> = processes.map(|process| process.pid()).collect();
        let alive: Vec<String> = pids.iter().filter(|pid| is_alive(**pid)).map(u32::to_string).collect();
        if keep || wanted {
            return (story, Left::Wanted(folder.keep()));
        }
        let path = folder.path().to_owned();
        let left = match folder.close() {
            _ if !alive.is_empty() => Left::Unwanted(format!("process {}", alive.join(", "))),
            Err(error) => Left::Unwanted(format!("{}: {error}", path.display())),
            Ok(()) => Left::Nothing,
        };
        (story, left)
    }

    fn spawn(&self, name: &'static str, command: &mut Command) -> Result<Process> {
        // Who runs the demo may have chosen another level for other purposes.
        command.env("MARMOT_LOG", setup::LOG_FILTER);
        Process::spawn(name, command, self.folder())
    }
}

fn in_namespace<'a>(namespace: &Namespace, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<Command> {
    let mut command = namespace.command(children::own_program()?)?;
    command.args(arguments);
    Ok(command)
}

fn part<'a>(part: Part, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<Command> {
    let mut command = Command::new(children::own_program()?);
    command.args(children::arguments(part)).args(arguments);
    Ok(command)
}
