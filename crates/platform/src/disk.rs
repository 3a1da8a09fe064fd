//! The folder of a ledger on a real disk: what `ledger::Disk` asks for, against crashes, full disks and planted links.
//!
//! ```text
//!   root (0700)      open/ due/ running/ waiting/ failed/ done/ history/ (0700)    worker.lock keeper.lock (0600)
//!   a record (0600)  .<name>.tmp  --fsync-->  rename to <name>  --fsync of the folder-->  durable
//! ```
//! Every call opens the root and the folder anew, never following a symbolic link at either, and works relative to that
//! descriptor; so nobody who may not write there can turn a call elsewhere, and a folder that somebody removed is made again
//! by the next write. What root makes by hand in a service's folder belongs to the service.

use std::fs::File;

pub use crate::os::disk::{FolderDisk, WorkerLock};

/// The ledger and the tunnel it is about are ours while this lives, whatever network namespace or runtime folder others are
/// in. Free again when dropped, or when the process ends in any way.
#[derive(Debug)]
pub struct KeeperLock(#[expect(dead_code, reason = "holds the lock")] pub(crate) File);

/// Whose a ledger is ([`FolderDisk::lock_keeper`]).
#[derive(Debug)]
pub enum Keeper {
    /// Ours, for as long as we keep the lock.
    Ours(KeeperLock),
    /// Another process has it.
    Another {
        /// Its number, as it wrote it down: a hint only. It may be one of another process namespace.
        pid: Option<u32>,
    },
}
