//! The folder of a ledger on a real disk: what `ledger::Disk` asks for, against crashes, full disks and planted links.
//!
//! ```text
//!   root (0700)      open/ due/ running/ waiting/ failed/ done/ history/ (0700)    worker.lock (0600)
//!   a record (0600)  .<name>.tmp  --fsync-->  rename to <name>  --fsync of the folder-->  durable
//! ```
//! Every call opens the root and the folder anew, never following a symbolic link at either, and works relative to that
//! descriptor; so nobody who may not write there can turn a call elsewhere, and a folder that somebody removed is made again
//! by the next write. What root makes by hand in a service's folder belongs to the service.

pub use crate::os::disk::{FolderDisk, WorkerLock};
