//! A program that hardly gets the processor: its control group may use a thousandth of one, and others in it want more.
//!
//! ```text
//!   the group:       program    runs now and then, stands still for seconds in between; no signal tells it
//!   1 ms a second    3 eaters   run whenever they may
//! ```
//! The rest of the machine feels nothing of it. For how long the program stands still at a time is up to the kernel, which takes
//! what a group used beyond its share off the shares to come: 4 to 14 s were seen. A test waits until it has been long enough.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::systemd::cgroups::{self, Cgroups};
use crate::{Lab, Process};

/// How many want the processor beside the program.
const EATERS: usize = 3;

/// What the group may use in a [`PERIOD`], in microseconds: the least that the kernel accepts.
const SHARE: &str = "1000";

/// In microseconds: the most that the kernel accepts.
const PERIOD: &str = "1000000";

/// A program that starves. When dropped, it has the processor again, and the eaters end.
#[derive(Debug)]
pub struct Starvation {
    group: PathBuf,
    home: PathBuf,
    pid: String,
    _eaters: Vec<Process>,
    _groups: Cgroups,
}

impl Starvation {
    /// It begins.
    ///
    /// # Errors
    /// If no control group limits the processor here, or this user may make none; see [`Starvation::obstacle`].
    pub fn of(lab: &Lab, process: &Process) -> Result<Self> {
        let home = home().context("no control group limits the processor")?;
        let groups = Cgroups::create_in(std::slice::from_ref(&home))?;
        let group = groups.folders().first().context("a group was made")?.clone();
        let mut eaters = Vec::new();
        for number in 1..=EATERS {
            let mut command = lab.command(lab.client(), "sh")?;
            command.args(["-c", "while :; do :; done"]);
            let eater = lab.spawn(&format!("eater-{number}"), command)?;
            cgroups::enter(&group, &eater)?;
            eaters.push(eater);
        }
        let starvation = Self {
            group,
            home,
            pid: process.pid().as_raw_nonzero().to_string(),
            _eaters: eaters,
            _groups: groups,
        };
        cgroups::enter(&starvation.group, process)?;
        starvation.limit(true)?;
        Ok(starvation)
    }

    /// Why nothing can starve here, if so.
    pub fn obstacle() -> Option<String> {
        let Some(home) = home() else {
            return Some("no control group limits the processor".to_owned());
        };
        Cgroups::create_in(&[home]).err().map(|e| format!("{e:#}"))
    }

    fn limit(&self, limited: bool) -> Result<()> {
        let new = self.group.join("cpu.max");
        let share = |none| if limited { SHARE } else { none };
        let orders = if new.exists() {
            vec![(new, format!("{} {PERIOD}", share("max")))]
        } else {
            vec![
                (self.group.join("cpu.cfs_period_us"), PERIOD.to_owned()),
                (self.group.join("cpu.cfs_quota_us"), share("-1").to_owned()),
            ]
        };
        orders.iter().try_for_each(|(path, word)| {
            fs::write(path, word).with_context(|| format!("cannot write {word} to {}", path.display()))
        })
    }
}

impl Drop for Starvation {
    fn drop(&mut self) {
        let fed = self.limit(false);
        // What is in the group at its end is killed. A program that has ended is in none.
        let left = match fs::write(self.home.join("cgroup.procs"), &self.pid) {
            Err(e) if Path::new("/proc").join(&self.pid).exists() => Err(e).context("cannot leave a control group"),
            _ => Ok(()),
        };
        if let Err(e) = fed.and(left) {
            eprintln!("{e:#}");
        }
    }
}

/// The unified hierarchy where it limits the processor, or the old one that does.
fn home() -> Option<PathBuf> {
    let limits = |root: &PathBuf| {
        let controllers = fs::read_to_string(root.join("cgroup.subtree_control")).unwrap_or_default();
        controllers.split_whitespace().any(|name| name == "cpu")
    };
    let old = Path::new(cgroups::ROOT).join("cpu");
    cgroups::unified()
        .filter(limits)
        .or_else(|| old.join("cpu.cfs_quota_us").is_file().then_some(old))
}
