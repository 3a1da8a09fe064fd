//! Connection tracking: there is none that we know of. Never run on this system yet.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::PlatformError;

/// Nothing is tracked.
pub fn forget(_addresses: &BTreeSet<IpAddr>) -> Result<usize, PlatformError> {
    Ok(0)
}
