//! Which network a slot belongs to.

use std::io;
use std::os::unix::fs::MetadataExt;

/// The inode number of this thread's network namespace: rules and tables of different namespaces never meet, so neither need
/// the daemons, even if they share a `/run`.
pub(crate) fn network_identity() -> io::Result<String> {
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino().to_string())
}
