//! Lifecycle and ledger in virtual time, on a simulated disk, from a seed.
#![forbid(unsafe_code)]

mod attempt;
mod books;
pub mod broken;
pub mod census;
pub mod chance;
mod check;
mod disk;
mod down;
mod fate;
mod finale;
pub mod gateway;
pub mod host;
pub mod planted;
pub mod platter;
mod process;
pub mod run;
mod shell;
mod tasks;
mod weather;
mod worker;
mod world;
