//! Control groups: there are none on this system. Never run on this system yet.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// There is none here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    never: std::convert::Infallible,
}

impl Hierarchy {
    /// Not supported.
    pub fn find() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never called: there is no such value.
    pub fn nft_root(&self) -> String {
        match self.never {}
    }

    /// Never called: there is no such value.
    pub fn folder(&self, _group: &str) -> PathBuf {
        match self.never {}
    }

    /// Never called: there is no such value.
    pub fn children(&self, _group: &str) -> io::Result<Option<BTreeMap<String, u64>>> {
        match self.never {}
    }

    /// Never called: there is no such value.
    pub fn make(&self, _group: &str) -> io::Result<()> {
        match self.never {}
    }

    /// Never called: there is no such value.
    pub fn enter(&self, _group: &str) -> io::Result<()> {
        match self.never {}
    }

    /// Never called: there is no such value.
    pub fn remove_empty(&self, _group: &str) {
        match self.never {}
    }
}

/// There is none here.
#[derive(Debug)]
pub struct Watch {
    never: std::convert::Infallible,
}

impl Watch {
    /// Not supported.
    pub fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never called: there is no such value.
    pub fn add(&self, _folder: &Path) -> io::Result<()> {
        match self.never {}
    }

    /// Never called: there is no such value.
    pub async fn changed(&mut self) -> io::Result<()> {
        match self.never {}
    }
}
