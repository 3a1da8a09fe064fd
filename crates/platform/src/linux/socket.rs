//! Local sockets: the same as on every Unix.

pub use crate::unix::socket::{UnixListener, adopt_unix, listen_unix};
