//! Hooks: not supported yet. Never run on this system yet.

use std::io;
use std::path::{Path, PathBuf};

use crate::children::{Finished, Hook};

/// Not supported.
pub(crate) async fn run(_hook: &Hook, _stop: impl Future<Output = ()>) -> io::Result<Finished> {
    Err(io::ErrorKind::Unsupported.into())
}

/// No executable is trusted on this system: hooks are not supported.
pub fn trusted_executable(_path: &Path) -> Result<PathBuf, String> {
    Err("hooks are not supported on this system".to_owned())
}
