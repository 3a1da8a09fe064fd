//! What the administrator decided about housekeeping, as the worker needs it.

use std::path::PathBuf;
use std::time::Duration;

use crate::Collector;

/// How hooks are run and where summaries go. How often and how long jobs are tried, and what is kept, is in the limits of
/// the ledger.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder with the administrator's executables; one that does not exist is an empty one.
    pub hooks_dir: PathBuf,
    /// How long one executable may run.
    pub hook_timeout: Duration,
    /// How many bytes of one executable's output are kept, first and last together.
    pub hook_output: usize,
    /// Where summaries are sent to, if anywhere.
    pub collector: Option<Collector>,
}
