//! What Linux and macOS do alike.

pub(crate) mod clock;
pub(crate) mod disk;
pub(crate) mod files;
pub(crate) mod listen;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod users;
