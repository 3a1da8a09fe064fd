//! systemd-resolved itself, on a bus and in a network of the test's own.
//!
//! ```text
//!   program under test --DBUS_SYSTEM_BUS_ADDRESS--> dbus-daemon <--- systemd-resolved --- 127.0.0.53 of the host
//!   test --busctl-----------------------------------^
//! ```
//! The program comes out of Debian's package without being installed: its script would take the machine's resolv.conf over. `cargo xtask test`
//! unpacks it into the target folder (`extracted`). It runs as an ordinary user with the two capabilities that it keeps as a service.

use std::env;
use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use platform::netns::Namespace;
use serde_json::Value;

use crate::logind::{bus_config, output};
use crate::{Lab, PATIENCE, Process, Signal, until};

const NAME: &str = "org.freedesktop.resolve1";

const PATH: &str = "/org/freedesktop/resolve1";

const MANAGER: &str = "org.freedesktop.resolve1.Manager";

/// An ordinary user that every host has.
const NOBODY: u32 = 65534;

/// Where it writes what programs read.
const RUN: &str = "/run/systemd/resolve";

/// Its place in the package.
const PROGRAM: &str = "lib/systemd/systemd-resolved";

/// The folder of a Debian package that was unpacked without being installed, as `cargo xtask test` does with some.
pub fn extracted(package: &str) -> Option<PathBuf> {
    let folder = match env::var_os("MARMOT_EXTRACTED") {
        Some(folder) => PathBuf::from(folder),
        // target/debug/deps/test -> target/extracted
        None => env::current_exe().ok()?.ancestors().nth(3)?.join("extracted"),
    };
    Some(folder.join(package)).filter(|path| path.is_dir())
}

/// A running resolver with its bus; both end when dropped.
#[derive(Debug)]
pub struct Resolved<'a> {
    lab: &'a Lab,
    host: &'a Namespace,
    bus: Option<Process>,
    resolved: Option<Process>,
    started: u32,
}

/// What it knows of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkNames {
    /// Addresses of its servers.
    pub servers: Vec<String>,
    /// Its domains; those that only route begin with `~`.
    pub domains: Vec<String>,
    /// Whether it is asked for names that nobody else claims.
    pub default_route: bool,
}

impl<'a> Resolved<'a> {
    /// The programs that this needs, for [`run`](crate::run).
    pub const NEEDS: &'static [&'static str] = &["dbus-daemon", "busctl", "setpriv", "getent"];

    /// The program, if it was unpacked.
    pub fn program() -> Option<PathBuf> {
        extracted("systemd-resolved")
            .map(|package| package.join(PROGRAM))
            .filter(|path| path.is_file())
    }

    /// Why it cannot run here, if so.
    pub fn obstacle() -> Option<String> {
        if !rustix::process::geteuid().is_root() || crate::host::groups_are_fixed() {
            return Some("a systemd-resolved of one's own runs as another user; run as root".to_owned());
        }
        let missing = "systemd-resolved was not unpacked; `cargo xtask test` does that on Debian";
        Self::program().is_none().then(|| missing.to_owned())
    }

    /// Starts both on `host`, whose programs ask 127.0.0.53 from now on. The resolver asks `server` over `eth0`.
    ///
    /// # Errors
    /// If one does not start.
    pub fn start(lab: &'a Lab, host: &'a Namespace, server: Ipv4Addr) -> Result<Self> {
        // The resolver finds its bus in there.
        fs::set_permissions(lab.folder(), Permissions::from_mode(0o755))?;
        fs::create_dir_all(RUN).context("cannot make a folder")?;
        chown(RUN, Some(NOBODY), Some(NOBODY)).context("cannot give a folder away")?;
        let mut resolved = Self {
            lab,
            host,
            bus: None,
            resolved: None,
            started: 0,
        };
        resolved.start_bus()?;
        resolved.start_resolved()?;
        let index = resolved.index("eth0")?;
        let octets = server.octets().map(|octet| octet.to_string());
        let mut words = vec!["ia(iay)", &index, "1", "2", "4"];
        words.extend(octets.iter().map(String::as_str));
        resolved.call("SetLinkDNS", &words)?;
        resolved.call("SetLinkDefaultRoute", &["ib", &index, "true"])?;
        fs::write(
            lab.folder().join("resolv.conf"),
            "nameserver 127.0.0.53\noptions edns0 trust-ad\n",
        )
        .context("cannot write resolv.conf")?;
        Ok(resolved)
    }

    /// What the program under test gets as `DBUS_SYSTEM_BUS_ADDRESS`. It is the same before and after a restart.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.lab.folder().join("bus").display())
    }

    /// Starts the bus again.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_bus(&mut self) -> Result<()> {
        let config = self.lab.file("bus.conf", &bus_config(&self.address()))?;
        let mut command = Command::new("dbus-daemon");
        command
            .args(["--nofork", "--print-address", "--config-file"])
            .arg(config);
        let bus = self.spawn("bus", command)?;
        bus.wait_for("unix:path=", PATIENCE)?;
        fs::set_permissions(self.lab.folder().join("bus"), Permissions::from_mode(0o777))?;
        self.bus = Some(bus);
        Ok(())
    }

    /// Starts the resolver again. Of links that are still there it knows what it was told before.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_resolved(&mut self) -> Result<()> {
        let user = NOBODY.to_string();
        let mut command = self.lab.command(self.host, "setpriv")?;
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
        command.args([
            "--inh-caps",
            "+setpcap,+net_raw,+net_bind_service",
            "--ambient-caps",
            "+setpcap,+net_raw,+net_bind_service",
        ]);
        command.arg(Self::program().context("systemd-resolved was not unpacked")?);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", self.address());
        let resolved = self.spawn("resolved", command)?;
        until("systemd-resolved is on its bus", PATIENCE, || {
            ensure!(resolved.is_running(), "systemd-resolved ended: {}", resolved.output());
            Ok(self.get(PATH, MANAGER, "DNS").is_ok())
        })?;
        self.resolved = Some(resolved);
        Ok(())
    }

    /// Kills the resolver alone.
    ///
    /// # Errors
    /// If it does not die.
    pub fn kill_resolved(&mut self) -> Result<()> {
        match self.resolved.take() {
            Some(resolved) => resolved.stop(Signal::KILL, PATIENCE).map(drop),
            None => Ok(()),
        }
    }

    /// Kills the bus, and the resolver with it.
    ///
    /// # Errors
    /// If they do not die.
    pub fn kill_bus(&mut self) -> Result<()> {
        if let Some(bus) = self.bus.take() {
            bus.stop(Signal::KILL, PATIENCE)?;
        }
        self.kill_resolved()
    }

    /// Stops the resolver as it stands (`SIGSTOP`), or has it go on: it answers nobody meanwhile.
    ///
    /// # Errors
    /// If it is not there.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let resolved = self.resolved.as_ref().context("a resolver")?;
        resolved.signal(if frozen { Signal::STOP } else { Signal::CONT })
    }

    /// What it knows of the link `interface`; nothing if there is no such link.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn link(&self, interface: &str) -> Result<Option<LinkNames>> {
        let Ok(index) = self.index(interface) else {
            return Ok(None);
        };
        let Ok(path) = self.call("GetLink", &["i", &index]) else {
            return Ok(None);
        };
        let path = path["data"][0].as_str().context("the path of a link")?.to_owned();
        let link = |property| self.get(&path, "org.freedesktop.resolve1.Link", property);
        let (servers, domains) = (link("DNS")?, link("Domains")?);
        let address = |entry: &Value| -> Option<String> {
            let octets: Vec<u8> = serde_json::from_value(entry[1].clone()).ok()?;
            match <[u8; 4]>::try_from(octets.as_slice()) {
                Ok(v4) => Some(Ipv4Addr::from(v4).to_string()),
                Err(_) => Some(std::net::Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).to_string()),
            }
        };
        let domain = |entry: &Value| {
            let routes = if entry[1].as_bool() == Some(true) { "~" } else { "" };
            format!("{routes}{}", entry[0].as_str().unwrap_or_default())
        };
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        Ok(Some(LinkNames {
            servers: list(&servers).iter().filter_map(address).collect(),
            domains: list(&domains).iter().map(domain).collect(),
            default_route: link("DefaultRoute")?.as_bool().unwrap_or(false),
        }))
    }

    fn index(&self, interface: &str) -> Result<String> {
        let mut command = self.lab.command(self.host, "ip")?;
        let said = output({
            command.args(["-oneline", "link", "show", "dev", interface]);
            command
        })?;
        said.split(':')
            .next()
            .map(str::to_owned)
            .context("the number of a link")
    }

    fn call(&self, method: &str, words: &[&str]) -> Result<Value> {
        let mut command = self.busctl();
        command.args(["call", NAME, PATH, MANAGER, method]).args(words);
        let said = output(command)?;
        if said.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&said).context("an answer in JSON")
    }

    fn get(&self, path: &str, interface: &str, property: &str) -> Result<Value> {
        let mut command = self.busctl();
        command.args(["get-property", NAME, path, interface, property]);
        let answer: Value = serde_json::from_str(&output(command)?).context("an answer in JSON")?;
        Ok(answer["data"].clone())
    }

    fn busctl(&self) -> Command {
        let mut command = Command::new("busctl");
        command
            .arg(format!("--address={}", self.address()))
            .args(["--json=short", "--auto-start=no", "--timeout=5"]);
        command
    }

    fn spawn(&mut self, what: &str, command: Command) -> Result<Process> {
        self.started += 1;
        self.lab.spawn(&format!("{what}-{}", self.started), command)
    }
}
