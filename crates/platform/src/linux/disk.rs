//! The folder of a ledger: the same as on every Unix.

pub use crate::unix::disk::{FolderDisk, WorkerLock};
