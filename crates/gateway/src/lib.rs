//! The gateway: many clients, one device.
//!
//! ```text
//!  TCP --listener--> connection ------------------> tunnel <--packets--> switch <--> device
//!        admission   TLS (tls), HTTP (session::      frames (channel,               TUN or memory
//!        (limits)    gateway::Front), grant          session::gateway::Established)
//!                       |  ^                           |  ^
//!               Question|  |Answer                left |  | Order
//!                       v  |                           v  |
//!                    authentication (users, argon2)   sessions (table, leases, counters)
//!                                                       |--records--> accounts --> housekeep
//!                                                       '--state----> sessions.redb
//! ```
//! A shell: it owns sockets, the loop and the files, and asks the pure crates what to do. One thread, one tokio
//! current-thread runtime, one task per TCP connection, and some threads that wait for the disk; rooms share nothing but
//! messages or a `RefCell` that is never borrowed across an await. Every limit is in [`admission`] or beside its queue.

mod accounts;
pub mod admission;
mod authentication;
mod buffer;
mod certificate;
mod clock;
mod connection;
mod datagrams;
mod datapath;
mod device;
mod error;
mod grant;
mod housekeep;
mod listener;
mod load;
mod local;
mod outlet;
pub mod password;
mod queue;
mod run;
mod sessions;
mod settings;
mod shell;
mod state;
mod switch;
mod tally;
mod tls;
mod tunnel;

pub use device::{Device, MemoryDevice};
pub use error::GatewayError;
pub use housekeep::housekeep;
pub use local::local_socket;
pub use run::run;
pub use shell::{Gateway, Reload};
pub use tls::TlsError;
