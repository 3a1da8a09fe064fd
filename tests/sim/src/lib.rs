//! Lifecycle and ledger in virtual time, on a simulated disk, from a seed.
#![forbid(unsafe_code)]

pub mod chance;
pub mod platter;
