//! What this process lacks for running a tunnel, in exact sentences.

pub use crate::os::capabilities::{explain_missing, has_net_admin};
