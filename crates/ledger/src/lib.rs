//! What is owed after a tunnel: one durable file for each session, over a disk that is an argument.
//!
//! ```text
//!   open/ --close--> due/ --claim--> running/ --finish--> done/ ---+
//!  (session lives)    ^ ^                | |                       +--prune--> gone
//!                     | |    requeue,    | +--fail, given up--> failed/
//!                     | +-- recover -----+                        |
//!                     |                  +--fail--> waiting/      |
//!                     +-------- drain_waiting ---------+          |
//!                     +-------- retry -----------------+----------+
//! ```
//! Every arrow is a file that is complete and durable in the later folder before it leaves the earlier one, so a crash
//! leaves at most the same job twice; of two, the one further to the right counts (done > failed > waiting > running >
//! due > open), and the other is removed. What cannot be read is moved to failed/ under a name of its own, unchanged.
//!
//! The tunnel's process writes open/ and due/ without a lock. All else needs [`Work`], the proof that the worker lock is
//! held and that what the worker before left in running/ has been looked at.
//!
//! Assumed of the file system: a file published by rename after a sync of its content is there completely or not at all,
//! and a rename from folder to folder never loses the file, though after a loss of power it may be found in both.
#![forbid(unsafe_code)]

mod chore;
mod close;
mod disk;
mod error;
mod frame;
mod job;
mod keep;
mod limits;
mod record;
mod recover;
mod steps;
mod summary;
mod work;

pub use chore::{Chore, Token};
pub use close::{Owed, Receipt};
pub use disk::{Disk, DiskError, FileName, Folder, MAX_JOBS, NotAName};
pub use error::LedgerError;
pub use frame::{Damage, MAX_RECORD, Record, VERSION};
pub use job::{Job, JobId};
pub use keep::{History, MAX_KEPT, Pruned};
pub use limits::Limits;
pub use record::{End, HistoryEntry, MAX_SLEEPS, OpenRecord, Role, SessionFacts, Sleep, Stamp};
pub use recover::{Recovered, Work};
pub use steps::{Damaged, Ledger};
pub use summary::{Listed, Summary};
pub use work::{Claim, Fate};
