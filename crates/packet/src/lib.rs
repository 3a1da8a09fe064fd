//! IP packets as validated views, the reasons for which one is dropped, what is done to packets that are too long, who may talk to whom, and
//! the work that a device with offloads leaves to us.
#![forbid(unsafe_code)]

pub mod access;
pub mod batch;
pub mod bundle;
pub mod checksum;
pub mod coalesce;
pub mod drop;
pub mod ecn;
pub mod fragment;
pub mod ip;
pub mod mss;
#[cfg(test)]
mod sample;
pub mod segment;
pub mod too_big;
mod upper;
pub mod virtio;

pub use access::AccessList;
pub use batch::Batch;
pub use bundle::Bundle;
pub use coalesce::{Coalescer, Place};
pub use drop::{DropCounters, DropReason};
pub use ecn::Ecn;
pub use fragment::{Fragments, fragment};
pub use ip::{IpPacket, Version};
pub use mss::clamp_mss;
pub use segment::{Segments, Step};
pub use too_big::{TooBigLimit, prohibited, too_big, unreachable};
