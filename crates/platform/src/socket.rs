//! Local sockets on which a daemon answers its administrator.

pub use crate::os::socket::{UnixListener, adopt_unix, listen_unix, set_access_unix};
