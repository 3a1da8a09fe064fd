//! Users of this host: the same as on every Unix.

pub use crate::unix::users::number_of;
