//! The operating system, behind types that are the same everywhere.
//!
//! ```text
//!   shells, demo, tests  --->  src/*.rs        shared types, errors, documentation
//!                                 |
//!                              src/linux/      routes, rules, TUN, namespaces      (complete, tested)
//!                              src/macos/      what is trivially portable          (type-checked, never run)
//!                              src/windows/    what is trivially portable          (type-checked, never run)
//!                              src/unix/       what Linux and macOS share
//! ```
//! The three system folders hold the same file names with the same signatures. A missing ability is
//! [`PlatformError::Unsupported`] (or [`std::io::ErrorKind::Unsupported`]), never a missing function. This is the only crate
//! with `unsafe`, `libc` and `cfg(target_os)`.
//!
//! Everything works in a process with a single thread and a tokio current-thread runtime; the asynchronous parts need its
//! I/O and time drivers.

pub mod capabilities;
pub mod cgroup;
pub mod children;
pub mod clock;
#[cfg(any(test, not(target_os = "linux")))]
mod coarse;
pub mod conntrack;
pub mod disk;
pub mod dns;
mod error;
pub mod files;
pub mod firewall;
pub mod listen;
mod lock;
pub mod netns;
pub mod network;
pub mod power;
pub mod service;
pub mod signals;
pub mod slot;
pub mod socket;
pub mod tcp;
pub mod tun;
pub mod udp;
pub mod users;
pub mod watch;

#[cfg(unix)]
mod unix;

#[cfg(target_os = "linux")]
#[path = "linux/mod.rs"]
mod os;
#[cfg(target_os = "macos")]
#[path = "macos/mod.rs"]
mod os;
#[cfg(target_os = "windows")]
#[path = "windows/mod.rs"]
mod os;

pub use error::PlatformError;
