//! Our tunnel beside others on one machine, in one run, taking turns; and a record beside its cryptography alone.
//!
//! ```text
//!   main --> run: for each round, for each peer --> start, load, stop --> figures --> floors, report, plot
//!              rig    the hosts, their cables, what they carried       peers   who is measured, and how each is set up
//!              load   iperf3                                           echo    round trips, the first answer
//!              usage  processor time and memory of both ends           comparison   of two functions, without any network
//! ```
//! What else the machine does strikes all who take turns alike, so ratios count. Absolute figures are only printed.

pub mod comparison;
mod echo;
pub mod figures;
pub mod floors;
mod load;
pub mod peers;
pub mod plot;
pub mod report;
pub mod rig;
pub mod run;
mod usage;
