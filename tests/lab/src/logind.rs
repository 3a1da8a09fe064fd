//! A system bus of its own, with a logind on it that says what the test wants: python-dbusmock, which shares no code with us.
//!
//! ```text
//!   test --busctl--> dbus-daemon <--- dbusmock: org.freedesktop.login1
//!                         ^
//!                         +---------- the program under test (DBUS_SYSTEM_BUS_ADDRESS)
//! ```
//! Nothing here touches the bus of the machine.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Lab, PATIENCE, Process, Signal, until};

const NAME: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const MOCK: &str = "org.freedesktop.DBus.Mock";

/// Debian's own: the module is installed for no other.
const PYTHON: &str = "/usr/bin/python3";

/// Where Debian installs the module.
const DBUSMOCK: &str = "/usr/lib/python3/dist-packages/dbusmock/__main__.py";

/// What the mock does to its own `Inhibit`, in the table by which it finds its methods.
const REFUSE: &str = "
table = self.methods['org.freedesktop.login1.Manager']
granted = table['Inhibit'][3]
def inhibit(this, what, who, why, mode, granted=granted, left=[TIMES]):
    if left[0] == 0:
        return granted(this, what, who, why, mode)
    left[0] -= 1
    raise dbus.exceptions.DBusException('not now', name='org.freedesktop.DBus.Error.AccessDenied')
for name in dir(granted):
    if name.startswith('_dbus'):
        setattr(inhibit, name, getattr(granted, name))
table['Inhibit'] = table['Inhibit'][:3] + (inhibit,)
";

/// How long a question to a bus may take that answers within milliseconds.
const ANSWER: Duration = Duration::from_secs(5);

/// A bus with a logind; both end when dropped.
#[derive(Debug)]
pub struct Logind<'a> {
    lab: &'a Lab,
    bus: Option<Process>,
    mock: Option<Process>,
    /// Each process has a name of its own.
    started: u32,
}

/// Whoever holds a sleep up, in the words of logind's `ListInhibitors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inhibitor {
    /// What is held up.
    pub what: String,
    /// By whom.
    pub who: String,
    /// The reason that people get to see.
    pub why: String,
    /// `delay` or `block`.
    pub mode: String,
}

impl Inhibitor {
    /// Those of an answer of `ListInhibitors`.
    pub(crate) fn list(answer: &Value) -> Result<Vec<Self>> {
        let list = answer.as_array().context("a list of inhibitors")?;
        let word = |entry: &Value, at: usize| entry[at].as_str().unwrap_or_default().to_owned();
        let inhibitor = |entry| Self {
            what: word(entry, 0),
            who: word(entry, 1),
            why: word(entry, 2),
            mode: word(entry, 3),
        };
        Ok(list.iter().map(inhibitor).collect())
    }
}

impl<'a> Logind<'a> {
    /// Starts both: no sleep is prepared, the lid is open, there is no dock, and power comes from outside.
    ///
    /// # Errors
    /// If one does not start.
    pub fn start(lab: &'a Lab) -> Result<Self> {
        let mut logind = Self {
            lab,
            bus: None,
            mock: None,
            started: 0,
        };
        logind.start_bus()?;
        logind.start_logind()?;
        Ok(logind)
    }

    /// The programs that this needs, for [`run`](crate::run).
    pub const NEEDS: &'static [&'static str] = &["dbus-daemon", "busctl", DBUSMOCK];

    /// What the program under test gets as `DBUS_SYSTEM_BUS_ADDRESS`. It is the same before and after a restart.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.lab.folder().join("bus").display())
    }

    /// Gives `command` this bus for its system bus.
    pub fn serve(&self, command: &mut Command) {
        command.env("DBUS_SYSTEM_BUS_ADDRESS", self.address());
    }

    /// Starts the bus again.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_bus(&mut self) -> Result<()> {
        let config = self.lab.file("bus.conf", &bus_config(&self.address()))?;
        let mut command = Command::new("dbus-daemon");
        command.args(["--nofork", "--print-address", "--config-file"]);
        command.arg(config);
        let bus = self.spawn("bus", command)?;
        bus.wait_for("unix:path=", PATIENCE)?;
        self.bus = Some(bus);
        Ok(())
    }

    /// Starts logind again, as [`Logind::start`] does.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_logind(&mut self) -> Result<()> {
        let mut command = Command::new(PYTHON);
        command.args(["-u", "-m", "dbusmock", "--template", "logind"]);
        self.serve(&mut command);
        let mock = self.spawn("logind", command)?;
        until("logind is on its bus", PATIENCE, || {
            ensure!(mock.is_running(), "the mock of logind ended: {}", mock.output());
            Ok(self.is_there())
        })?;
        let facts = ["LidClosed b false", "Docked b false", "OnExternalPower b true"];
        let facts = facts.iter().flat_map(|fact| fact.split(' '));
        let call = ["AddProperties", "sa{sv}", MANAGER, "3"];
        self.mock(&call.into_iter().chain(facts).collect::<Vec<_>>())?;
        self.mock = Some(mock);
        Ok(())
    }

    /// Kills the bus, and logind with it, as no orderly end would.
    ///
    /// # Errors
    /// If they do not die.
    pub fn kill_bus(&mut self) -> Result<()> {
        if let Some(bus) = self.bus.take() {
            bus.stop(Signal::KILL, PATIENCE)?;
        }
        self.kill_logind()
    }

    /// Kills logind alone.
    ///
    /// # Errors
    /// If it does not die.
    pub fn kill_logind(&mut self) -> Result<()> {
        if let Some(mock) = self.mock.take() {
            // Without its bus it ends by itself.
            let _ = mock.signal(Signal::KILL);
            mock.wait_exit(PATIENCE)?;
        }
        Ok(())
    }

    /// Begins (`true`) or ends a sleep, as logind does: the property first, then the signal.
    ///
    /// # Errors
    /// If logind is not there.
    pub fn prepare_for_sleep(&self, start: bool) -> Result<()> {
        self.set_preparing(start)?;
        self.say_prepare_for_sleep(start)
    }

    /// The property without the signal: a signal that got lost.
    ///
    /// # Errors
    /// If logind is not there.
    pub fn set_preparing(&self, preparing: bool) -> Result<()> {
        self.set("PreparingForSleep", preparing)
    }

    /// The signal alone, such as one that is said twice.
    ///
    /// # Errors
    /// If logind is not there.
    pub fn say_prepare_for_sleep(&self, start: bool) -> Result<()> {
        let word = start.to_string();
        self.mock(&[
            "EmitSignal",
            "sssav",
            MANAGER,
            "PrepareForSleep",
            "b",
            "1",
            "b",
            word.as_str(),
        ])?;
        Ok(())
    }

    /// Closes or opens the lid.
    ///
    /// # Errors
    /// If logind is not there.
    pub fn set_lid(&self, closed: bool) -> Result<()> {
        self.set("LidClosed", closed)
    }

    /// Puts the host into a dock, or takes it out.
    ///
    /// # Errors
    /// If logind is not there.
    pub fn set_docked(&self, docked: bool) -> Result<()> {
        self.set("Docked", docked)
    }

    /// Refuses the next so many requests to hold a sleep up.
    ///
    /// # Errors
    /// If logind is not there.
    pub fn refuse_locks(&self, times: u32) -> Result<()> {
        let code = REFUSE.replace("TIMES", &times.to_string());
        self.mock(&["AddMethod", "sssss", MANAGER, "RefuseLocks", "", "", code.as_str()])?;
        let mut command = self.busctl();
        command.args(["call", NAME, PATH, MANAGER, "RefuseLocks"]);
        output(command).map(drop)
    }

    /// Whoever holds a sleep up now.
    ///
    /// # Errors
    /// If logind is not there.
    pub fn inhibitors(&self) -> Result<Vec<Inhibitor>> {
        let answer = self.ask(&["call", NAME, PATH, MANAGER, "ListInhibitors"])?;
        Inhibitor::list(&answer["data"][0])
    }

    fn is_there(&self) -> bool {
        let get = ["get-property", NAME, PATH, MANAGER, "PreparingForSleep"];
        self.ask(&get).is_ok()
    }

    fn set(&self, property: &str, value: bool) -> Result<()> {
        let mut command = self.busctl();
        let value = value.to_string();
        command.args(["set-property", NAME, PATH, MANAGER, property, "b", value.as_str()]);
        output(command).map(drop)
    }

    fn mock(&self, call: &[&str]) -> Result<()> {
        let mut command = self.busctl();
        command.args(["call", NAME, PATH, MOCK]).args(call);
        output(command).map(drop)
    }

    fn ask(&self, question: &[&str]) -> Result<Value> {
        let mut command = self.busctl();
        command.args(question);
        serde_json::from_str(&output(command)?).context("an answer in JSON")
    }

    fn busctl(&self) -> Command {
        let mut command = Command::new("busctl");
        command.arg(format!("--address={}", self.address())).args([
            "--json=short".to_owned(),
            "--auto-start=no".to_owned(),
            format!("--timeout={}", ANSWER.as_secs()),
        ]);
        command
    }

    fn spawn(&mut self, what: &str, command: Command) -> Result<Process> {
        self.started += 1;
        self.lab.spawn(&format!("{what}-{}", self.started), command)
    }
}

pub(crate) fn output(mut command: Command) -> Result<String> {
    let output = command.output().context("cannot start busctl")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {errors}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Everybody who gets in may do everything.
pub(crate) fn bus_config(address: &str) -> String {
    format!(
        r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>{address}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
"#
    )
}
