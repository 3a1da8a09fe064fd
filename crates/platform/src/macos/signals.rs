//! Signals: the same as on every Unix. Never run on this system yet.

pub use crate::unix::signals::{Signals, continue_process, is_alive, kill_process, send, stop_process};
