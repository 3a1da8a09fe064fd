//! Configuration files: text in, checked and typed configuration out.
//!
//! Three files are read here: `client.toml`, `gateway.toml` and the gateway's users file. Every key has a default where
//! one makes sense, a limit, and one sentence in `config/*.toml`. This crate is pure: it gets the text, a name for
//! messages and the folder that relative paths start from; the shells do the reading.
#![forbid(unsafe_code)]

pub mod client;
mod document;
mod error;
pub mod gateway;
mod kind;
mod log;
mod names;
mod pin;
mod routes;
mod section;
mod suggest;
mod transport;
mod url;
pub mod users;

pub use document::Key;
pub use error::{ConfigError, ConfigErrors, Excerpt};
pub use kind::Kind;
pub use log::{Log, LogFormat, LogLevel};
pub use pin::Pin;
pub use transport::{Keepalive, TlsVersion};
pub use url::{GatewayUrl, Host};
