//! Signals as values. The handler writes one byte to a socket pair and does nothing else (signal-hook).

pub use crate::os::signals::{Signals, continue_process, is_alive, kill_process, send, stop_process};

/// What somebody wants from this process.
///
/// Two different signals that arrive together may be reported in either order, and a repeated one once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// `SIGTERM`: stop and exit.
    Terminate,
    /// `SIGINT`: stop and exit.
    Interrupt,
    /// `SIGQUIT`: a stop that is a restart, where the service manager keeps descriptors; else stop and exit.
    Quit,
    /// `SIGUSR1`: take the tunnel down, stay running.
    TunnelDown,
    /// `SIGUSR2`: bring the tunnel up, or reconnect now.
    TunnelUp,
    /// `SIGHUP`: read the configuration again.
    Reload,
}
