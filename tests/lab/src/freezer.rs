//! A program that is frozen by its control group: it stands still as under SIGSTOP, but no signal tells it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::systemd::cgroups::{self, Cgroups};
use crate::{PATIENCE, Process, until};

/// The control group of one program. When dropped, the program goes on, and leaves it.
#[derive(Debug)]
pub struct Freezer {
    group: PathBuf,
    home: PathBuf,
    _groups: Cgroups,
}

impl Freezer {
    /// Puts a program into a group of its own.
    ///
    /// # Errors
    /// If there is no freezer here, or this user may not use it; see [`Freezer::obstacle`].
    pub fn hold(process: &Process) -> Result<Self> {
        let home = home().context("there is no freezer among the control groups")?;
        let groups = Cgroups::create_in(std::slice::from_ref(&home))?;
        let group = groups.folders().first().context("a group was made")?.clone();
        cgroups::enter(&group, process)?;
        Ok(Self {
            group,
            home,
            _groups: groups,
        })
    }

    /// Why no program can be frozen here, if so.
    pub fn obstacle() -> Option<String> {
        let Some(home) = home() else {
            return Some("there is no freezer among the control groups".to_owned());
        };
        Cgroups::create_in(&[home]).err().map(|e| format!("{e:#}"))
    }

    /// The program stands still, when this returns.
    ///
    /// # Errors
    /// If it does not.
    pub fn freeze(&self) -> Result<()> {
        self.become_frozen(true)
    }

    /// It goes on.
    ///
    /// # Errors
    /// If it does not.
    pub fn thaw(&self) -> Result<()> {
        self.become_frozen(false)
    }

    fn become_frozen(&self, frozen: bool) -> Result<()> {
        let old = self.group.join("freezer.state");
        let (order, word) = if old.exists() {
            (old.clone(), if frozen { "FROZEN" } else { "THAWED" })
        } else {
            (self.group.join("cgroup.freeze"), if frozen { "1" } else { "0" })
        };
        fs::write(&order, word).with_context(|| format!("cannot write {word} to {}", order.display()))?;
        let (state, word) = if old.exists() {
            (old, word.to_owned())
        } else {
            (self.group.join("cgroup.events"), format!("frozen {word}"))
        };
        until(&word, PATIENCE, || {
            let text = fs::read_to_string(&state).context("cannot look at a control group")?;
            Ok(text.lines().any(|line| line == word))
        })
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let thawed = self.thaw();
        let members = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        let left = members
            .lines()
            .try_for_each(|pid| fs::write(self.home.join("cgroup.procs"), pid));
        if let Err(e) = thawed.and(left.context("cannot empty a control group")) {
            eprintln!("{e:#}");
        }
    }
}

/// The unified hierarchy, or the freezer of the old ones.
fn home() -> Option<PathBuf> {
    let unified = cgroups::unified();
    let old = Path::new(cgroups::ROOT).join("freezer");
    unified.or_else(|| old.join("cgroup.procs").is_file().then_some(old))
}
