//! Listening sockets: the same as on every Unix.

pub use crate::unix::listen::{inherited, listen};
