//! Lifecycle and ledger in virtual time, on a simulated disk, from a seed.
//!
//! ```text
//!   seed --> chance --> fate, power (orders, nights, crashes)  weather (odds of what goes wrong)
//!                         |                                   |
//!                         v                                   v
//!   lifecycle::Machine <--> shell --> down, attempt --> host, gateway
//!                             |
//!                             +--> tasks, worker --> ledger::Ledger --> disk --> platter
//! ```
//! Real are the machine and the ledger. The shell, the host, the gateway, the workers, the service manager and the disk are
//! models, as small as the promises allow. A schedule is some dozens of events with faults, then a calm end in which all
//! that was promised must come true ([`broken::Promise`] lists it). Inside a call of the ledger everything else may go on
//! between any two calls of the disk, and the process or the host may die there.
//!
//! What the simulation can see is shown by the faults that are planted at the borders ([`planted::Planted`]); what it has
//! seen, by the counts that a run prints ([`census::Census`]). It cannot see what the models leave out: two calls of the
//! ledger overlap like brackets, never crosswise; a chore of a separate process may begin before the acknowledgement (the
//! unit sees the job as soon as it is in due/); DNS, firewall and routes are marks without content.
#![forbid(unsafe_code)]

mod attempt;
mod books;
pub mod broken;
pub mod census;
pub mod chance;
mod check;
mod demand;
mod disk;
mod down;
mod fate;
mod finale;
pub mod gateway;
pub mod host;
pub mod night;
pub mod planted;
pub mod platter;
mod power;
mod process;
pub mod run;
mod shell;
mod tasks;
mod weather;
mod worker;
mod world;
