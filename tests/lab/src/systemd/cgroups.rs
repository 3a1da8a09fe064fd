//! Control groups of a manager: made for it, and emptied and removed when it is gone, even if this program is killed.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

use crate::Process;

/// Where the hierarchies are.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";

/// Waits for the end of its input, which comes when the test program ends in whichever way; then kills what is in the
/// groups, thawed if need be, and removes them. It gives up after 200 rounds (10 s).
const REAPER: &str = r#"
cat >/dev/null
rounds=0
for group in "$@"; do
  [ -e "$group/freezer.state" ] && echo THAWED >"$group/freezer.state"
  while [ -d "$group" ] && [ $rounds -lt 200 ]; do
    find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null | while read -r pid; do kill -KILL "$pid"; done
    find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null
    [ -d "$group" ] && sleep 0.05
    rounds=$((rounds + 1))
  done
done
"#;

/// One group in each hierarchy that systemd uses.
#[derive(Debug)]
pub(crate) struct Cgroups {
    folders: Vec<PathBuf>,
    reaper: Child,
}

impl Cgroups {
    pub(super) fn create() -> Result<Self> {
        Self::create_in(&hierarchies())
    }

    /// One group in each of these.
    pub(crate) fn create_in(hierarchies: &[PathBuf]) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("marmot-lab-{}-{number}", std::process::id());
        let folders: Vec<PathBuf> = hierarchies.iter().map(|root| root.join(&name)).collect();
        ensure!(!folders.is_empty(), "there are no control groups at {ROOT}");
        let reaper = Command::new("sh")
            .args(["-c", REAPER, "reaper"])
            .args(&folders)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not ended with this program's group, as by ^C.
            .process_group(0)
            .spawn()
            .context("cannot start a shell")?;
        let groups = Self { folders, reaper };
        for folder in &groups.folders {
            fs::create_dir(folder).with_context(|| format!("cannot make the control group {}", folder.display()))?;
        }
        Ok(groups)
    }

    pub(crate) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        let _ = self.reaper.wait();
        for folder in self.folders.iter().filter(|folder| folder.exists()) {
            eprintln!("cannot remove the control group {}", folder.display());
        }
    }
}

/// Puts a program into a group, and makes sure that it is there.
pub(crate) fn enter(group: &Path, process: &Process) -> Result<()> {
    let pid = process.pid().as_raw_nonzero().to_string();
    fs::write(group.join("cgroup.procs"), &pid).context("cannot put a program into a control group")?;
    let members = fs::read_to_string(group.join("cgroup.procs")).context("cannot look at a control group")?;
    ensure!(
        members.lines().any(|line| line == pid),
        "{} is not in its control group",
        process.name()
    );
    Ok(())
}

/// Why no control group can be made here, if so.
pub(super) fn obstacle() -> Option<String> {
    Cgroups::create().err().map(|e| format!("{e:#}"))
}

/// The hierarchy of cgroup v2, alone or beside those of v1.
pub(crate) fn unified() -> Option<PathBuf> {
    let root = Path::new(ROOT);
    let controllers = |folder: &PathBuf| folder.join("cgroup.controllers").is_file();
    [root.join("unified"), root.to_owned()].into_iter().find(controllers)
}

/// With cgroup v1 the hierarchy that is systemd's own and, beside it, the unified one; with v2 alone the root.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    let usable = |folder: &PathBuf| folder.join("cgroup.procs").is_file();
    let named: Vec<PathBuf> = ["systemd", "unified"]
        .map(|name| root.join(name))
        .into_iter()
        .filter(usable)
        .collect();
    if named.is_empty() {
        [root.to_owned()].into_iter().filter(usable).collect()
    } else {
        named
    }
}
