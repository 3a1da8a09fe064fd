//! The control channel: TLS over TCP with exactly one owner.
//!
//! ```text
//!   tokio-rustls handshake -> Exchange (HTTP heads and bodies) -> CONNECT -> Channel (CSTP frames)
//!
//!   queue(frame) --one write--> rustls --write_tls, many records a call--> TCP
//!   next()  <-- one frame <-- Decoder <-- plaintext <-- rustls <--one record a call-- buffer <--try_read-- TCP
//! ```
//! A stock gateway ends the session when a record carries two frames or half a frame, and a stock client throws such a
//! record away (measured). An async TLS stream can do both: it splits a write at its buffer limit when TCP blocks, and
//! merges vectored writes (here the pieces of one frame are one). So after the HTTP part the stream is taken apart, and one task holds socket and TLS state.
#![forbid(unsafe_code)]

mod exchange;
mod frames;
mod key;

pub use exchange::{Exchange, ExchangeError, Limits, Request, Response};
pub use frames::{Channel, Closed, MAX_PENDING};
pub use key::{data_channel_key, resume_binding_at_client, resume_binding_at_gateway};
