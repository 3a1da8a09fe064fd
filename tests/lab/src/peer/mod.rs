//! Ends written by hand, that do what no honest program does: split and join frames, grant nonsense, stop halfway.
//!
//! ```text
//!   line     one TLS connection, whose records are under control        cstp    frames
//!   gateway  serves logins, a grant of choice, and answers pings        client  logs in and sends any packet
//! ```
//! They share no code with the product, so that an error in its frames or heads cannot cancel itself out.

mod client;
mod cstp;
mod gateway;
mod line;

pub use client::{PeerClient, echo_packet, spoofed_packet};
pub use cstp::{Cstp, DATA, DISCONNECT, DPD_REQUEST, DPD_RESPONSE, KEEPALIVE, TERMINATE};
pub(crate) use gateway::COOKIE;
pub use gateway::{Answer, PeerGateway, Records};
pub use line::Line;
