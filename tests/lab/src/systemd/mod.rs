//! A real systemd on a host of the lab: a user manager of its own, without PID 1, and our units in it.
//!
//! ```text
//!   test --systemctl--> manager (in the host's network, a control group of its own) --> services
//!                          units/  ours, for a user manager (units.rs), and targets of a line each
//! ```
//! It needs root, for control groups. Everything in those is killed when the manager is dropped, or when the test program
//! ends in whichever way.

pub(crate) mod cgroups;
mod units;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use platform::netns::Namespace;
use rustix::process::Signal;

use crate::{Lab, PATIENCE, Process, eventually, marmot, until};

use self::cgroups::Cgroups;
use self::units::{Places, for_user_manager};

/// Where distributions keep the manager.
const MANAGERS: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

/// systemd looks for this before it believes that it may run; the lab has covered /run.
const BOOTED: &str = "/run/systemd/system";

/// Seconds that one `systemctl` may take.
const SYSTEMCTL_S: &str = "60";

/// Targets that units and the manager refer to.
const TARGETS: [&str; 8] = [
    "basic.target",
    "default.target",
    "multi-user.target",
    "network.target",
    "paths.target",
    "shutdown.target",
    "sockets.target",
    "timers.target",
];

/// A running manager. Stops, with all its services, when dropped.
#[derive(Debug)]
pub struct Systemd {
    process: Process,
    folder: PathBuf,
    // Last: what is left in them is killed when the manager has ended.
    _cgroups: Cgroups,
}

/// Why no manager can run here, if so.
pub(crate) fn obstacle() -> Option<String> {
    if manager().is_none() {
        return Some("systemd is not installed".to_owned());
    }
    if !rustix::process::geteuid().is_root() || crate::host::groups_are_fixed() {
        return Some("a systemd of one's own needs control groups; run as root".to_owned());
    }
    cgroups::obstacle()
}

fn manager() -> Option<&'static str> {
    MANAGERS.into_iter().find(|path| Path::new(path).is_file())
}

impl Systemd {
    /// Starts a manager on `host` under `name` and installs our units, which read their configurations in the lab's folder
    /// and keep their state in `state` there, as [`crate::client_settings`] has it.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(lab: &Lab, host: &Namespace, name: &str) -> Result<Self> {
        let folder = lab.folder().join(name);
        for part in ["units", "run", "home", "generators", "out"] {
            fs::create_dir_all(folder.join(part)).context("cannot make a folder")?;
        }
        fs::create_dir_all(BOOTED).context("cannot pretend that systemd has booted")?;
        for target in TARGETS {
            fs::write(folder.join("units").join(target), "[Unit]\nDefaultDependencies=no\n")?;
        }
        fs::write(folder.join("units/exit.target"), EXIT_TARGET)?;
        fs::write(folder.join("units/systemd-exit.service"), EXIT_SERVICE)?;
        install_units(lab, &folder)?;

        let cgroups = Cgroups::create()?;
        let mut command = lab.command(host, "sh")?;
        command
            .args(["-c", START])
            .arg("sh")
            .args(cgroups.folders())
            .env("SYSTEMD", manager().context("systemd is not installed")?)
            .env("SYSTEMD_UNIT_PATH", folder.join("units"))
            .env("SYSTEMD_GENERATOR_PATH", folder.join("generators"))
            .env("SYSTEMD_ENVIRONMENT_GENERATOR_PATH", folder.join("generators"))
            .env("HOME", folder.join("home"))
            .env("XDG_RUNTIME_DIR", folder.join("run"))
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("DBUS_SESSION_BUS_ADDRESS");
        let process = lab.spawn(name, command)?;
        let systemd = Self {
            process,
            folder,
            _cgroups: cgroups,
        };
        eventually("the manager of the services", PATIENCE, || {
            ensure!(systemd.process.is_running(), "systemd ended");
            let state = systemd.run(&["is-system-running"])?.stdout;
            Ok((state.starts_with(b"running") || state.starts_with(b"degraded")).then_some(()))
        })?;
        // Services of other users report here too; PID 1 admits everybody.
        for (name, mode) in [("run", 0o755), ("run/systemd", 0o755), ("run/systemd/notify", 0o777)] {
            fs::set_permissions(systemd.folder.join(name), Permissions::from_mode(mode))
                .context("cannot admit other users")?;
        }
        Ok(systemd)
    }

    /// Adds a unit, or changes one, and has the manager read it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn unit(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join("units").join(name);
        fs::create_dir_all(path.parent().unwrap_or(&self.folder))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        self.systemctl(&["daemon-reload"])?;
        Ok(())
    }

    /// Runs `systemctl` with these words. Returns what it says, and how long it took.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn systemctl(&self, words: &[&str]) -> Result<(String, Duration)> {
        let began = Instant::now();
        let output = self.run(words)?;
        let took = began.elapsed();
        ensure!(
            output.status.success(),
            "`systemctl {}` failed with {}: {}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok((String::from_utf8_lossy(&output.stdout).trim().to_owned(), took))
    }

    /// A property of a unit, as `systemctl show` has it.
    ///
    /// # Errors
    /// If the manager does not answer.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        Ok(self.systemctl(&["show", "--value", "--property", name, unit])?.0)
    }

    /// The main process of a service.
    ///
    /// # Errors
    /// If it has none.
    pub fn main_pid(&self, unit: &str) -> Result<u32> {
        let pid: u32 = self.property(unit, "MainPID")?.parse().context("a process number")?;
        ensure!(pid != 0, "{unit} does not run");
        Ok(pid)
    }

    /// Waits until a unit is in this state: `active`, `inactive`, `failed` and so on.
    ///
    /// # Errors
    /// If it does not come to that.
    pub fn wait_for_state(&self, unit: &str, state: &str) -> Result<()> {
        until(&format!("{unit} to be {state}"), PATIENCE, || {
            Ok(self.property(unit, "ActiveState")? == state)
        })
    }

    /// Listens to what a service writes, from its first line on and over its restarts: wait for lines as with any program.
    /// The name is the unit's without `.service`.
    ///
    /// # Errors
    /// If nobody can listen.
    pub fn listen(&self, lab: &Lab, name: &str) -> Result<Process> {
        let name = if name.contains('@') {
            name.to_owned()
        } else {
            format!("{name}@")
        };
        let path = self.folder.join("out").join(format!("{name}.out"));
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .context("cannot keep a service's output")?;
        let mut command = Command::new("tail");
        command.args(["--lines=+1", "--follow"]).arg(&path);
        lab.spawn(&name, command)
    }

    fn run(&self, words: &[&str]) -> Result<Output> {
        Command::new("timeout")
            .args([SYSTEMCTL_S, "systemctl", "--user", "--no-pager"])
            .args(words)
            .env("XDG_RUNTIME_DIR", self.folder.join("run"))
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .output()
            .context("cannot start systemctl")
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let asked = self.run(&["exit"]).is_ok() && self.process.wait_exit(PATIENCE).is_ok();
        if !asked && self.process.is_running() {
            eprintln!("{} does not end by itself", self.process.name());
            let _ = self.process.signal(Signal::KILL);
        }
    }
}

/// What hides a file or folder in a sandbox is bound over it. PID 1 makes these for root's units; here nobody did.
const START: &str = r#"
set -e
for group; do echo $$ >"$group/cgroup.procs"; done
if mkdir -p /run/systemd/inaccessible && cd /run/systemd/inaccessible && mkdir -m 0 dir 2>/dev/null; then
  : >reg && mkfifo -m 0 fifo && mknod -m 0 chr c 0 0 && mknod -m 0 blk b 0 0 && chmod 0 reg
fi
exec "$SYSTEMD" --user --log-target=console
"#;

const EXIT_TARGET: &str = "[Unit]
DefaultDependencies=no
Requires=systemd-exit.service
After=systemd-exit.service
AllowIsolate=yes
";

const EXIT_SERVICE: &str = "[Unit]
DefaultDependencies=no
SuccessAction=exit-force
[Service]
Type=oneshot
ExecStart=/bin/true
";

/// The program where no sandbox hides it: the tree may lie in /tmp or /home.
fn program_in(folder: &Path) -> Result<PathBuf> {
    let (built, here) = (marmot::binary()?, folder.join("marmot"));
    if !here.exists() && fs::hard_link(&built, &here).is_err() {
        fs::copy(&built, &here).context("cannot copy the program")?;
    }
    Ok(here)
}

/// Everything in `systemd/` that is a unit or changes one.
fn install_units(lab: &Lab, folder: &Path) -> Result<()> {
    let program = program_in(lab.folder())?;
    let (state, log) = (lab.folder().join("state"), folder.join("out"));
    let places = Places {
        program: &program,
        config: lab.folder(),
        lab: lab.folder(),
        state: &state,
        log: &log,
    };
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systemd");
    let mut pending = vec![(ours, folder.join("units"))];
    while let Some((from, to)) = pending.pop() {
        for entry in fs::read_dir(&from).with_context(|| format!("cannot read {}", from.display()))? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
            let name = name.to_string_lossy();
            if name.ends_with(".service.d") {
                pending.push((path, to.join(&*name)));
            } else if path.is_file() {
                fs::create_dir_all(&to)?;
                let text = fs::read_to_string(&path).context("a unit is text")?;
                fs::write(to.join(&*name), for_user_manager(&text, places))?;
            }
        }
    }
    Ok(())
}
