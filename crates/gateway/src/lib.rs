//! The gateway shell.

pub mod password;
