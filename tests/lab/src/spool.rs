//! What a daemon has written down: the ledger's folders, counted from outside.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{Lab, PATIENCE, until};

/// The folders of jobs that somebody still has to do.
const OWED: [&str; 4] = ["open", "due", "running", "waiting"];

/// A ledger.
#[derive(Clone, Debug)]
pub struct Spool(PathBuf);

impl Spool {
    /// That of the tunnel of this name, as [`client_settings`](crate::client_settings) configures it.
    pub fn of(lab: &Lab, tunnel: &str) -> Self {
        Self(lab.folder().join("state").join(tunnel))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// The jobs of one folder, by name without `.job`; hidden files are not counted.
    ///
    /// # Errors
    /// If it cannot be read; a folder that is not there is empty.
    pub fn jobs(&self, folder: &str) -> Result<Vec<String>> {
        let Ok(entries) = fs::read_dir(self.0.join(folder)) else {
            return Ok(Vec::new());
        };
        let mut jobs = Vec::new();
        for entry in entries {
            let name = entry.context("cannot list jobs")?.file_name();
            let name = name.to_string_lossy();
            if !name.starts_with('.') {
                jobs.push(name.trim_end_matches(".job").to_owned());
            }
        }
        jobs.sort();
        Ok(jobs)
    }

    /// How many jobs somebody still has to do, or will have to when their session ends.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn owed(&self) -> Result<usize> {
        OWED.iter()
            .try_fold(0, |sum, folder| Ok(sum + self.jobs(folder)?.len()))
    }

    /// Waits until nothing is owed.
    ///
    /// # Errors
    /// If something stays.
    pub fn wait_settled(&self) -> Result<()> {
        let what = format!("the end of what is owed in {}", self.0.display());
        until(&what, PATIENCE * 3, || Ok(self.owed()? == 0))
    }

    /// Every file and how large it is, by its path in the ledger; hidden ones too.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn files(&self) -> Result<BTreeMap<PathBuf, u64>> {
        let mut files = BTreeMap::new();
        collect(&self.0, &self.0, &mut files)?;
        Ok(files)
    }
}

/// Every file below a folder.
fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, u64>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry.context("cannot list a folder")?;
        let path = entry.path();
        let Ok(about) = entry.metadata() else { continue };
        if about.is_dir() {
            collect(root, &path, files)?;
        } else if let Ok(inside) = path.strip_prefix(root) {
            files.insert(inside.to_owned(), about.len());
        }
    }
    Ok(())
}
