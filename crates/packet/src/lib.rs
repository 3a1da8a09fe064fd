//! IP packets as validated views, the reasons for which one is dropped, and what is done to packets that are too long.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod drop;
pub mod fragment;
pub mod ip;
pub mod mss;
#[cfg(test)]
mod sample;
pub mod too_big;
mod upper;

pub use drop::{DropCounters, DropReason};
pub use fragment::{Fragments, fragment};
pub use ip::{IpPacket, Version};
pub use mss::clamp_mss;
pub use too_big::{TooBigLimit, too_big};
