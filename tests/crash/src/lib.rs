//! Real processes killed, and refused by their disk, at every durable call of starting, stopping and housekeeping.
//!
//! ```text
//!   for each call (write, fsync, rename, ...)  for each fault (killed, ENOSPC, EIO)  for n = 1, 2, ... until none is hit:
//!     a fresh ledger --> the program under strace, which injects the fault at the n-th such call --> the end of the program
//!     --> `marmot cleanup`, `marmot housekeep` until nothing is owed --> the promises
//! ```
//! Killed before the n-th call is killed after the one before it, so that both sides of each call are met.
#![forbid(unsafe_code)]

mod books;
mod census;
mod strace;

pub use books::Books;
pub use census::Census;
pub use strace::{Fault, Injection, Outcome};

/// The calls that change what is on a disk. `openat` makes files, and fails for reading too; `write` may meet the pipe by
/// which threads wake each other, which is found out afterwards.
pub const CALLS: [&str; 6] = ["mkdirat", "openat", "write", "fsync", "renameat", "unlinkat"];

/// The session that a `session.start` line names.
pub fn session_of(line: &str) -> Option<String> {
    let rest = line.split_once(" session=\"")?.1;
    Some(rest.split('"').next()?.to_owned())
}
