//! The gateway: many clients, one device.
//!
//! ```text
//!            main thread                           |            worker: a thread each, the first is the main thread
//!  TCP --listener--> connection ---------Carry-----+--> tunnel <--packets--> switch <--> queue of the device
//!        admission   TLS (tls), HTTP (session::    |    frames (channel,        ^        TUN or memory
//!        (limits)    gateway::Front), grant        |    session::gateway)       | parcels
//!                       |  ^                       |     |  ^                   v
//!               Question|  |Answer                 |     |  |                other workers (team)
//!                       v  |                       |     |  |
//!                authentication (users, argon2)    |     |  |
//!                  sessions (table, leases) <------+Notice  |
//!                    |  |  '--crew--------Command--+--------'
//!                    |  '--records--> accounts --> housekeep
//!                    '-----state----> sessions.redb
//! ```
//! A shell: it owns sockets, the loops and the files, and asks the pure crates what to do. The main thread decides, workers carry; each is one tokio
//! current-thread runtime, and beside them some threads wait for the disk. On a thread, rooms share nothing but
//! messages or a `RefCell` that is never borrowed across an await; between threads, messages, counters and the book of guests. Every limit is in
//! [`admission`] or beside its queue.

mod access;
mod accounts;
pub mod admission;
mod authentication;
mod buffer;
mod certificate;
mod clock;
mod connection;
mod crew;
mod datagrams;
mod datapath;
mod desk;
mod device;
mod error;
mod flows;
mod grant;
mod housekeep;
mod listener;
mod load;
mod local;
mod losses;
mod nat;
mod outlet;
pub mod password;
mod queue;
mod refusal;
mod run;
mod sessions;
mod settings;
mod shell;
mod state;
mod switch;
mod tally;
mod team;
mod tls;
mod tunnel;
mod worker;

pub use device::{Device, MemoryDevice};
pub use error::GatewayError;
pub use housekeep::housekeep;
pub use local::local_socket;
pub use run::run;
pub use shell::{Gateway, Reload};
pub use tls::TlsError;
