//! A machine of its own: systemd as the first process, with its system bus, its logind, polkit and journal, on a root of its
//! own, in the network of a host of the lab.
//!
//! ```text
//!   test --nsenter--> [ processes, mounts, control groups of the machine:                        ]
//!                     [   systemd (1) -- dbus-daemon, logind, polkitd, journald, our services    ]
//!                     [   /usr of the host, with ours above; /etc, /run, /var, /sys in memory    ]
//!                     [   /sys/power/state: an ordinary file; a sleep lasts until `wake`         ]
//! ```
//! Nothing in it reaches the host's own sleep: see `boot.sh`, which refuses to start it otherwise. It ends when it is dropped,
//! or when the test program ends in whichever way.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use platform::netns::Namespace;
use rustix::process::Signal;
use serde_json::Value;

use crate::systemd::cgroups::{self, Cgroups};
use crate::{Inhibitor, Lab, PATIENCE, Process, eventually, marmot, until};

/// Makes the machine's root and becomes its first process.
const BOOT: &str = include_str!("boot.sh");

/// Enters the control group before anything is unshared, so that it is the root of the machine's.
const START: &str = r#"
set -e
echo $$ >"$1/cgroup.procs"
shift
exec unshare --mount --pid --uts --ipc --cgroup --fork --kill-child sh "$@"
"#;

/// How long one command in the machine may take, in seconds.
const COMMAND_S: &str = "60";

/// What is asked of logind.
const LOGIND: [&str; 3] = [
    "org.freedesktop.login1",
    "/org/freedesktop/login1",
    "org.freedesktop.login1.Manager",
];

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    process: Process,
    // Last: what is left in it is killed when systemd has ended.
    _cgroups: Cgroups,
}

/// What a machine noted of one of its sleeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Sleep {
    /// When everybody was ready, on the boot clock.
    pub began: Duration,
    /// What was written into the file that puts a host to sleep.
    pub state: String,
}

impl Machine {
    /// The programs that this needs, for [`run`](crate::run).
    pub const NEEDS: &'static [&'static str] = &[
        "systemctl",
        "unshare",
        "nsenter",
        "setpriv",
        "busctl",
        "/usr/lib/systemd/system/dbus.service",
        "/usr/lib/systemd/system/polkit.service",
    ];

    /// Why no machine can run here, if so.
    pub fn obstacle() -> Option<String> {
        let Some(group) = cgroups::unified() else {
            return Some("a machine of one's own needs control groups of version 2".to_owned());
        };
        let overlay = fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("overlay"));
        if !overlay {
            return Some("a machine of one's own needs overlay filesystems".to_owned());
        }
        Cgroups::create_in(&[group]).err().map(|e| format!("{e:#}"))
    }

    /// Starts one in the network of `host`. What is in the lab's folder `etc` is in its `/etc` besides. Waits until logind
    /// answers.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(lab: &Lab, host: &Namespace, name: &str) -> Result<Self> {
        let folder = lab.folder().join(name);
        fs::create_dir_all(folder.join("etc")).context("cannot make a folder")?;
        // Services of other users find their way through it.
        fs::set_permissions(lab.folder(), Permissions::from_mode(0o755))?;
        let boot = folder.join("boot.sh");
        fs::write(&boot, BOOT).context("cannot write a script")?;
        let group = cgroups::unified().context("no control groups of version 2")?;
        let cgroups = Cgroups::create_in(&[group])?;
        let mut command = lab.command(host, "sh")?;
        command.args(["-c", START, "sh"]).args(cgroups.folders());
        command.arg(&boot).args([folder.as_path(), lab.folder()]);
        command.args([marmot::binary()?, std::env::current_exe()?]);
        let machine = Self {
            process: lab.spawn(name, command)?,
            _cgroups: cgroups,
        };
        eventually("a machine with a logind", PATIENCE, || {
            ensure!(machine.process.is_running(), "it ended: {}", machine.process.output());
            Ok(machine.inhibitors().is_ok().then_some(()))
        })?;
        // The words of boot.sh in other words: nothing in it is the host's.
        let mounts = machine.run("cat", &["/proc/mounts"])?;
        ensure!(!mounts.contains(" sysfs "), "the host's devices are in reach: {mounts}");
        Ok(machine)
    }

    /// Puts a file into the `/etc` of a machine that is to be started under `name`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn etc(lab: &Lab, name: &str, path: &str, content: &[u8]) -> Result<PathBuf> {
        let path = lab.folder().join(name).join("etc").join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).context("cannot make a folder")?;
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Where a file of the machine is for this process; `path` is absolute, as programs of the machine know it.
    pub fn file(&self, path: &str) -> PathBuf {
        let root = Path::new("/proc").join(self.pid().to_string()).join("root");
        root.join(path.trim_start_matches('/'))
    }

    /// The process whose namespaces are the machine's, but for its own number.
    pub fn pid(&self) -> i32 {
        self.process.pid().as_raw_nonzero().get()
    }

    /// A command in the machine, as root's and outside of its services.
    pub fn command(&self, program: &str) -> Command {
        let pid = self.pid();
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={pid}"))
            .args(["--mount", "--uts", "--ipc", "--net", "--cgroup"])
            // Its own processes are the host's; those of its children are the machine's.
            .arg(format!("--pid=/proc/{pid}/ns/pid_for_children"))
            .args(["--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", program]);
        command
    }

    /// Runs a program in the machine to its end. Returns what it says.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn run(&self, program: &str, words: &[&str]) -> Result<String> {
        let mut command = self.command("timeout");
        command.args([COMMAND_S, program]).args(words);
        let output = command.output().context("cannot enter the machine")?;
        ensure!(
            output.status.success(),
            "`{program} {}` failed with {}: {}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A property of a unit, as `systemctl show` has it.
    ///
    /// # Errors
    /// If systemd does not answer.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        self.run("systemctl", &["show", "--value", "--property", name, unit])
    }

    /// Listens to what the journal has of a unit, from its first line on.
    ///
    /// # Errors
    /// If nobody can listen.
    pub fn listen(&self, lab: &Lab, unit: &str) -> Result<Process> {
        let mut command = self.command("journalctl");
        command.args(["--follow", "--lines=all", "--output=cat", "--unit", unit]);
        lab.spawn(unit, command)
    }

    /// Whoever holds a sleep up now.
    ///
    /// # Errors
    /// If logind does not answer.
    pub fn inhibitors(&self) -> Result<Vec<Inhibitor>> {
        let [name, path, interface] = LOGIND;
        let call = ["--json=short", "call", name, path, interface, "ListInhibitors"];
        let answer: Value = serde_json::from_str(&self.run("busctl", &call)?).context("an answer in JSON")?;
        Inhibitor::list(&answer["data"][0])
    }

    /// Puts the machine to sleep, as a person does. Returns at once; the sleep begins when everybody is ready for it, and
    /// lasts until [`Machine::wake`].
    ///
    /// # Errors
    /// If logind refuses.
    pub fn suspend(&self) -> Result<()> {
        self.run("systemctl", &["suspend"]).map(drop)
    }

    /// All its sleeps so far, also the one that goes on.
    ///
    /// # Errors
    /// If the notes cannot be read.
    pub fn sleeps(&self) -> Result<Vec<Sleep>> {
        let notes = self.run("sh", &["-c", "cat /run/lab/slept 2>/dev/null || true"])?;
        let mut began = None;
        let mut sleeps = Vec::new();
        for note in notes.lines() {
            let (word, rest) = note.split_once(' ').context("a word and more")?;
            let (at, state) = rest.split_once(' ').unwrap_or((rest, ""));
            let at = Duration::try_from_secs_f64(at.parse().context("a time")?)?;
            if word == "pre" {
                began = Some(at);
            } else {
                let began = began.take().context("a sleep ended that had not begun")?;
                let state = state.to_owned();
                sleeps.push(Sleep { began, state });
            }
        }
        Ok(sleeps)
    }

    /// Waits until the machine sleeps for the nth time. Returns that sleep.
    ///
    /// # Errors
    /// If it does not.
    pub fn sleeps_now(&self, nth: usize) -> Result<Sleep> {
        eventually("the machine to sleep", PATIENCE, || {
            let sleeps = self.sleeps()?;
            Ok((sleeps.len() == nth).then(|| sleeps.last().cloned()).flatten())
        })
    }

    /// Ends a sleep. Returns when systemd knows of it.
    ///
    /// # Errors
    /// If it does not sleep.
    pub fn wake(&self) -> Result<()> {
        // Opens when the other end is open, too: within the sleep.
        self.run("sh", &["-c", ": >/run/lab/wake"])?;
        until("the end of a sleep", PATIENCE, || {
            Ok(self.property("systemd-suspend.service", "ActiveState")? == "inactive")
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its processes end with the first of them, and that with this one. There is nothing on it to save.
        let _ = self.process.signal(Signal::KILL);
        let _ = self.process.wait_exit(PATIENCE);
    }
}
