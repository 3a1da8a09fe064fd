//! Local sockets: the same as on every Unix. Never run on this system yet.

pub use crate::unix::socket::{UnixListener, adopt_unix, listen_unix};
