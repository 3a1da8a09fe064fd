//! Faults at system calls, by strace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use lab::{Lab, PATIENCE, Process};

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed before it.
    Killed,
    /// It says that the disk is full.
    NoSpace,
    /// It says that the disk is broken.
    Broken,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Killed, Self::NoSpace, Self::Broken];

    fn option(self) -> &'static str {
        match self {
            Self::Killed => "signal=SIGKILL",
            Self::NoSpace => "error=ENOSPC",
            Self::Broken => "error=EIO",
        }
    }
}

/// One fault, at the `nth` call of a name that each watched thread makes.
#[derive(Clone, Debug)]
pub struct Injection {
    fault: Fault,
    call: &'static str,
    nth: usize,
    log: PathBuf,
}

impl Injection {
    /// A fault to come. `log` gets what strace sees.
    pub fn new(lab: &Lab, fault: Fault, call: &'static str, nth: usize) -> Self {
        let log = lab.folder().join(format!("strace-{call}-{fault:?}-{nth}"));
        Self { fault, call, nth, log }
    }

    /// The name of the call.
    pub fn call(&self) -> &'static str {
        self.call
    }

    /// Where it is, for messages.
    pub fn place(&self) -> String {
        format!("{:?} at {} number {}", self.fault, self.call, self.nth)
    }

    /// Arguments of a strace that injects it. Without `only` into every call of the name.
    fn arguments(&self, only: &[PathBuf]) -> Vec<String> {
        let Self { fault, call, nth, log } = self;
        let mut arguments = vec![
            "-y".to_owned(),
            "-o".to_owned(),
            log.display().to_string(),
            "-e".to_owned(),
            format!("trace={call}"),
            "-e".to_owned(),
            format!("inject={call}:{}:when={nth}", fault.option()),
        ];
        for path in only {
            arguments.extend(["-P".to_owned(), path.display().to_string()]);
        }
        arguments
    }

    /// Puts strace in front of a command; its threads and children are watched.
    ///
    /// # Errors
    /// If strace is not there.
    pub fn around(&self, lab: &Lab, program: &Command, only: &[PathBuf]) -> Result<Command> {
        let mut strace = lab.command(lab.client(), "strace")?;
        strace
            .arg("-f")
            .args(self.arguments(only))
            .arg(program.get_program())
            .args(program.get_args());
        Ok(strace)
    }

    /// Watches one thread of a running process, from now on.
    ///
    /// # Errors
    /// If it cannot be attached to.
    pub fn attach(&self, lab: &Lab, process: &Process, thread: &str) -> Result<Process> {
        let number = thread_named(process, thread)?;
        let mut strace = lab.command(lab.client(), "strace")?;
        strace.args(self.arguments(&[])).args(["-p", &number]);
        let strace = lab.spawn("strace", strace)?;
        strace.wait_for("attached", PATIENCE)?;
        Ok(strace)
    }

    /// Whether it has happened, and at a path below `root`. To be asked when strace has ended.
    ///
    /// # Errors
    /// If strace's log is not there.
    pub fn outcome(&self, root: &Path) -> Result<Outcome> {
        let log = fs::read_to_string(&self.log).with_context(|| format!("strace wrote no {}", self.log.display()))?;
        let hit = match self.fault {
            // The call it was killed at is the last one that it began.
            Fault::Killed if log.contains("killed by SIGKILL") => {
                log.lines().rfind(|line| line.contains(&format!("{}(", self.call)))
            }
            Fault::Killed => None,
            Fault::NoSpace | Fault::Broken => log.lines().find(|line| line.contains("(INJECTED)")),
        };
        let root = root.display().to_string();
        Ok(match hit {
            None => Outcome::Missed,
            Some(line) if line.contains(&root) => Outcome::Hit,
            Some(_) => Outcome::Elsewhere,
        })
    }
}

/// What became of an injection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It met the ledger.
    Hit,
    /// It met something else, such as the pipe by which threads wake each other.
    Elsewhere,
    /// There were fewer calls.
    Missed,
}

/// The number of a process's thread with this name.
fn thread_named(process: &Process, name: &str) -> Result<String> {
    let tasks = format!("/proc/{}/task", process.pid().as_raw_nonzero());
    lab::eventually(&format!("the thread {name}"), PATIENCE, || {
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot list {tasks}"))? {
            let task = task.context("cannot list threads")?;
            let called = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if called.trim() == name {
                return Ok(Some(task.file_name().to_string_lossy().into_owned()));
            }
        }
        Ok(None)
    })
}
