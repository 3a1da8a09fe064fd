//! IP packets as validated views, and the reasons for which one is dropped.
#![forbid(unsafe_code)]

pub mod drop;
pub mod ip;

pub use drop::{DropCounters, DropReason};
pub use ip::{IpPacket, Version};
