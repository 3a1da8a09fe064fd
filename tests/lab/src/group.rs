//! A control group of version 2 in which a test makes groups of its own, as a service manager would.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::systemd::cgroups::{self, Cgroups};

/// It is removed, with all below and whoever is in there, when this is dropped.
#[derive(Debug)]
pub struct Group {
    folder: PathBuf,
    path: String,
    _groups: Cgroups,
}

impl Group {
    /// Why there can be none here, if so.
    pub fn obstacle() -> Option<String> {
        Self::make().err().map(|e| format!("{e:#}"))
    }

    /// Makes one, below the root of the hierarchy.
    ///
    /// # Errors
    /// If there is no such hierarchy, or this user may not change it.
    pub fn make() -> Result<Self> {
        let root = cgroups::unified().context("there are no control groups of version 2")?;
        let groups = Cgroups::create_in(std::slice::from_ref(&root))?;
        let folder = groups.folders().first().context("a group was made")?.clone();
        let path = folder.strip_prefix(&root).context("it is below the root")?;
        let path = format!("/{}", path.display());
        Ok(Self {
            folder,
            path,
            _groups: groups,
        })
    }

    /// Makes a group in it, and returns its folder.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn child(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        fs::create_dir(&folder).with_context(|| format!("cannot make the control group {}", folder.display()))?;
        Ok(folder)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its path from the root of the hierarchy, with a slash before it.
    pub fn path(&self) -> &str {
        &self.path
    }
}
