//! The service manager: telling it how we are, and leaving descriptors with it over a restart (sd_notify(3),
//! sd_pid_notify_with_fds(3), sd_listen_fds(3)).
//!
//! ```text
//!   store("tun", fd)     FDSTORE=1 FDNAME=tun FDPOLL=0 + the descriptor     kept over restart and kill -9, gone after stop
//!   unstore("tun")       FDSTOREREMOVE=1 FDNAME=tun
//!   taken()              what comes back: LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES, descriptors from 3 on
//!   sealed / unseal      a few secret bytes in memory that can cross in the store and that nobody can change
//! ```
//! A message is a datagram that is sent without waiting: a manager that hangs costs the message, never the stop.

pub use crate::os::service::{Descriptor, Manager, sealed, taken, unseal};

/// The most bytes in a sealed memory file. A restart ticket has some hundreds.
pub const MAX_SEALED: usize = 16 * 1024;

/// The longest name of a stored descriptor in bytes (`FDNAME_MAX` of systemd).
pub const MAX_STORED_NAME: usize = 255;
