//! What a program asks its allocator for, counted by a library that is preloaded into it (`shim/allocations.rs`).

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::Lab;

/// The library, as the build script made it.
const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/liballocations.so"));

/// The variable that names the file with the counts.
const VARIABLE: &str = "MARMOT_LAB_ALLOCATIONS";

/// The count of one program. A program that is linked statically is not reached, nor is one with another C library than that of GNU.
#[derive(Debug)]
pub struct Allocations {
    library: PathBuf,
    path: PathBuf,
    file: File,
}

/// How much so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    /// Calls that asked for memory.
    pub calls: u64,
    /// Bytes that they asked for.
    pub bytes: u64,
}

impl Allocations {
    /// Nothing yet.
    ///
    /// # Errors
    /// If its files cannot be written.
    pub fn new(lab: &Lab) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let library = lab.folder().join("liballocations.so");
        if !library.exists() {
            fs::write(&library, LIBRARY).context("cannot write the library that counts")?;
        }
        let path = lab.folder().join(format!("allocations-{number}"));
        fs::write(&path, [0; 16]).context("cannot write a count")?;
        let file = OpenOptions::new().read(true).open(&path);
        Ok(Self {
            library,
            path,
            file: file.context("cannot open a count")?,
        })
    }

    /// Has it count what a command asks for, and what that starts.
    pub fn watch(&self, command: &mut Command) {
        command.env(VARIABLE, &self.path).env("LD_PRELOAD", &self.library);
    }

    /// The count so far.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn so_far(&self) -> Result<Allocated> {
        let mut bytes = [0; 16];
        self.file.read_exact_at(&mut bytes, 0).context("cannot read a count")?;
        let number = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
        Ok(Allocated {
            calls: number(0),
            bytes: number(8),
        })
    }

    /// What was asked for since `before`.
    ///
    /// # Errors
    /// As [`Allocations::so_far`].
    pub fn since(&self, before: Allocated) -> Result<Allocated> {
        let now = self.so_far()?;
        Ok(Allocated {
            calls: now.calls - before.calls,
            bytes: now.bytes - before.bytes,
        })
    }
}
