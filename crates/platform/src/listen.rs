//! Listening sockets: opened here, or handed over by the service manager.

pub use crate::os::listen::{inherited, listen};
