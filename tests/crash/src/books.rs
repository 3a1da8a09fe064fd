//! The ledger of a tunnel and the promises about it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lab::{Lab, PATIENCE, Process, Settings, Spool, client_settings, marmot, until, write_hook};

/// A tunnel whose housekeeping is done by `marmot housekeep` only, and writes down what it does.
#[derive(Debug)]
pub struct Books<'a> {
    lab: &'a Lab,
    folder: PathBuf,
    config: PathBuf,
    /// Its ledger.
    pub spool: Spool,
    rounds: std::cell::Cell<usize>,
}

impl<'a> Books<'a> {
    /// A tunnel of this name with an empty ledger and one hook.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn new(lab: &'a Lab, name: &str) -> Result<Self> {
        let folder = lab.folder().join(format!("crash-{name}"));
        let hooks = folder.join("hooks");
        fs::create_dir_all(&hooks).context("cannot make a folder")?;
        let told = folder.join("told");
        write_hook(
            &hooks.join("note"),
            &format!("#!/bin/sh\necho $MARMOT_JOB >>{}\n", told.display()),
        )?;
        let settings = Self::settings(lab, name, &hooks)?;
        let config = settings.write(&folder.join(format!("{name}.toml")))?;
        Ok(Self {
            lab,
            config,
            folder,
            spool: Spool::of(lab, name),
            rounds: std::cell::Cell::new(0),
        })
    }

    fn settings(lab: &Lab, name: &str, hooks: &Path) -> Result<Settings> {
        Ok(client_settings(lab, lab.site())?
            .with("tunnel.name", name)
            .with("tunnel.start", "down")
            .with("housekeeping.run", "unit")
            .with("housekeeping.retry_first_s", 1)
            .with("housekeeping.retry_max_s", 1)
            .with("housekeeping.attempts", 1000)
            .with_path("housekeeping.hooks_dir", hooks))
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Runs `marmot WORD -c CONFIG` to its end, which must be a good one.
    ///
    /// # Errors
    /// If it fails.
    pub fn run(&self, word: &str) -> Result<()> {
        let process = self.start(word)?;
        let status = process.wait_exit(PATIENCE)?;
        ensure!(
            status.success(),
            "`marmot {word}` ended with {status}:\n{}",
            process.output()
        );
        Ok(())
    }

    fn start(&self, word: &str) -> Result<Process> {
        self.rounds.set(self.rounds.get() + 1);
        let mut command = marmot(self.lab, self.lab.client(), &[word, "-c"])?;
        command.arg(&self.config);
        self.lab.spawn(&format!("{word}-{}", self.rounds.get()), command)
    }

    /// Restores the host, works off what is owed, and checks that what was promised holds. `sessions` are those that began,
    /// as `id;epoch`.
    ///
    /// # Errors
    /// Which promise was broken.
    pub fn settle(&self, sessions: &[String]) -> Result<()> {
        self.run("cleanup")?;
        until("the end of what is owed", PATIENCE, || {
            self.run("housekeep")?;
            Ok(self.spool.owed()? == 0)
        })?;
        let failed = self.spool.jobs("failed")?;
        ensure!(failed.is_empty(), "given up: {failed:?}");
        let history = self.history()?;
        for session in sessions {
            let id = session.split(';').next().unwrap_or_default();
            let entries = history.iter().filter(|(_, text)| text.contains(id)).count();
            ensure!(entries == 1, "session {session} is {entries} times in the history");
        }
        let told = fs::read_to_string(self.folder.join("told")).unwrap_or_default();
        for (job, _) in &history {
            let times = told.lines().filter(|line| *line == job).count();
            ensure!(times >= 1, "the hook never ran for {job}");
        }
        Ok(())
    }

    /// Jobs and texts of the sessions that the history has.
    fn history(&self) -> Result<Vec<(String, String)>> {
        let read = |job: &String| {
            let path = self.spool.folder().join("history").join(format!("{job}.job"));
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok((job.clone(), String::from_utf8_lossy(&bytes).into_owned()))
        };
        self.spool.jobs("history")?.iter().map(read).collect()
    }

    /// Replaces the ledger, and what hooks told, by a copy of another.
    ///
    /// # Errors
    /// If a file cannot be copied.
    pub fn restore(&self, template: &Path) -> Result<()> {
        let _ = fs::remove_dir_all(self.spool.folder());
        let _ = fs::remove_file(self.folder.join("told"));
        copy(template, self.spool.folder())
    }

    /// Copies the ledger.
    ///
    /// # Errors
    /// If a file cannot be copied.
    pub fn save(&self) -> Result<PathBuf> {
        let to = self.folder.join("template");
        copy(self.spool.folder(), &to)?;
        Ok(to)
    }

    /// An empty ledger again.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn clear(&self) -> Result<()> {
        let folder = self.spool.folder();
        if folder.exists() {
            fs::remove_dir_all(folder).context("cannot remove a ledger")?;
        }
        let _ = fs::remove_file(self.folder.join("told"));
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = std::process::Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status()
        .context("cannot start cp")?;
    ensure!(status.success(), "cp ended with {status}");
    Ok(())
}
