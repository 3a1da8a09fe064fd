//! What the host remembers of flows that pass through it: connection tracking.

pub use crate::os::conntrack::forget;
