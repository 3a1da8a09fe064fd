//! The client shell.
#![forbid(unsafe_code)]

mod dial;
mod error;
#[cfg(test)]
mod testing;
mod trust;
mod verify;

pub use dial::DialError;
pub use error::ClientError;
