//! The other end of the socket.

use std::path::PathBuf;

/// Speaks with a daemon; one connection a request.
#[derive(Clone, Debug)]
pub struct Client {
    _socket: PathBuf,
}

/// Why a daemon gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {}

/// Events as they come.
#[derive(Debug)]
pub struct EventStream {}
