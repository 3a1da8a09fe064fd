//! The folder of a ledger: the same as on every Unix. Never run on this system yet.

pub use crate::unix::disk::{FolderDisk, WorkerLock};
