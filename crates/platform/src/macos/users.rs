//! Users of this host: the same as on every Unix. Never run on this system yet.

pub use crate::unix::users::number_of;
