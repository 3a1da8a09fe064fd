//! Sessions as both ends see them, without a socket in sight: bytes and a `Now` in, bytes, events and deadlines out.
//!
//! ```text
//!  client   Authenticating <-> Asking -> Authenticated -> Requesting -> Established -> ended
//!                forms          cookie      CONNECT         frames
//!  gateway  Front (one TLS connection) -> Sessions (who, which address, which epoch) -> Established (frames)
//! ```
//! Each phase is a type of its own and is consumed by the step that leaves it, so a tunnel cannot be asked for without a
//! cookie, nor a packet sent before a grant.
#![forbid(unsafe_code)]

pub mod client;
mod datagrams;
mod end;
mod fit;
pub mod gateway;
mod liveness;
pub mod park;
mod path_mtu;
pub mod resume;
mod round_trip;
pub mod ticket;
mod timers;
mod traffic;

pub use datagrams::{PathVerdict, PathWatch};
pub use end::EndReason;
pub use fit::{Fit, Fitter};
pub use liveness::Liveness;
pub use path_mtu::{PathMtu, Probe, Search, parse_probe, probe_payload};
pub use traffic::{Output, Received, Traffic};
