//! Control groups of version 2, by which programs are told apart: which there are, and when that changes.
//!
//! ```text
//!   Hierarchy::find --> children of a group, with their numbers      Watch --> something was made or removed
//! ```
//! A group's number is never used again, so one that is removed and made anew is another. Paths go from the root of the hierarchy, without a
//! slash before them; the root is the empty path.

pub use crate::os::cgroup::{Hierarchy, Watch};

/// Where nft begins to look for the path of a control group (SYSFS_CGROUPSV2_PATH of nftables).
pub const NFT_ROOT: &str = "/sys/fs/cgroup";

/// Children of one group that are listed. A host with tens of thousands of containers in one group is beyond what a set of nft is good for.
pub const MAX_CHILDREN: usize = 16_384;
