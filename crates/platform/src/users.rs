//! Users of this host.

pub use crate::os::users::number_of;
