//! Housekeeping that lasts as long as a test wants: a hook that waits at a gate, and writes down when it began and ended.
//!
//! ```text
//!   hook: "began JOB" --> reads one line of a FIFO --> "ended JOB"
//!   test: let_pass(n) writes n lines; until then every hook waits, for ever
//! ```

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{Lab, PATIENCE, Settings, eventually};

/// How long the client lets a hook run, in seconds: longer than any test.
const TIME_LIMIT_S: i64 = 3600;

/// A folder with such a hook, and its gate.
#[derive(Debug)]
pub struct LongJob {
    folder: PathBuf,
    /// Held open at both ends, so that neither a hook nor a test ever waits for the other end to be opened.
    gate: File,
}

impl LongJob {
    /// Makes them, under a name of their own in the lab's folder.
    ///
    /// # Errors
    /// If a file cannot be made.
    pub fn new(lab: &Lab, name: &str) -> Result<Self> {
        let folder = lab.folder().join(name);
        fs::create_dir_all(folder.join("hooks")).context("cannot make a folder")?;
        for made in [folder.clone(), folder.join("hooks")] {
            fs::set_permissions(&made, Permissions::from_mode(0o700)).context("cannot close a folder")?;
        }
        let gate = folder.join("gate");
        let made = Command::new("mkfifo")
            .arg(&gate)
            .status()
            .context("cannot start mkfifo")?;
        ensure!(made.success(), "mkfifo ended with {made}");
        let gate = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&gate)
            .context("cannot open a FIFO")?;
        let place = folder.display();
        let script = format!(
            "#!/bin/sh
echo \"began $MARMOT_JOB\" >>{place}/told
read line <{place}/gate
echo \"ended $MARMOT_JOB\" >>{place}/told
"
        );
        fs::write(folder.join("told"), "").context("cannot make a file")?;
        write_hook(&folder.join("hooks/long"), &script)?;
        Ok(Self { folder, gate })
    }

    /// The same folder with no hook in it: housekeeping that is done at once.
    ///
    /// # Errors
    /// As [`LongJob::new`].
    pub fn without_hook(lab: &Lab, name: &str) -> Result<Self> {
        let job = Self::new(lab, name)?;
        fs::remove_file(job.hooks().join("long")).context("cannot remove a hook")?;
        Ok(job)
    }

    /// Settings of a client or gateway that runs the hook.
    pub fn settings(&self, settings: Settings) -> Settings {
        settings
            .with_path("housekeeping.hooks_dir", &self.hooks())
            .with("housekeeping.hook_timeout_s", TIME_LIMIT_S)
    }

    /// The folder of hooks.
    pub fn hooks(&self) -> PathBuf {
        self.folder.join("hooks")
    }

    /// Lets so many hooks go on, those that wait and those to come.
    ///
    /// # Errors
    /// If the gate is broken.
    pub fn let_pass(&self, hooks: usize) -> Result<()> {
        (&self.gate)
            .write_all(&vec![b'\n'; hooks])
            .context("cannot open the gate")
    }

    /// The jobs whose hook began, one for each time.
    ///
    /// # Errors
    /// If the hook's notes cannot be read.
    pub fn began(&self) -> Result<Vec<String>> {
        self.told("began ")
    }

    /// The jobs whose hook came to its end, one for each time.
    ///
    /// # Errors
    /// As [`LongJob::began`].
    pub fn ended(&self) -> Result<Vec<String>> {
        self.told("ended ")
    }

    /// Waits until hooks began more than `before` times.
    ///
    /// # Errors
    /// If they do not.
    pub fn wait_begun(&self, before: usize) -> Result<()> {
        eventually("the long hook to begin", PATIENCE, || {
            Ok((self.began()?.len() > before).then_some(()))
        })
    }

    fn told(&self, what: &str) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.folder.join("told")).context("cannot read what a hook told")?;
        let told = text.lines().filter_map(|line| line.strip_prefix(what));
        Ok(told.map(str::to_owned).collect())
    }
}

/// Writes an executable as hooks must be: nobody else's to change.
///
/// # Errors
/// If it cannot be written.
pub fn write_hook(path: &Path, script: &str) -> Result<()> {
    fs::write(path, script).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(0o700)).context("cannot make a script executable")
}
