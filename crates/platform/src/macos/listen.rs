//! Listening sockets: the same as on every Unix. Never run on this system yet.

pub use crate::unix::listen::{inherited, listen};
