//! The CONNECT exchange: what a client offers, what the gateway grants, and how it refuses.
//!
//! ```text
//! client                                        gateway
//!   Offer: CONNECT /CSCOSSLC/tunnel, cookie -->
//!         <--  Grant: 200 CONNECTED, addresses, routes, timers  -- then CSTP on the same connection
//!         <--  Refusal: 401 cookie is dead, 409 epoch is old, 503 come back, 30x elsewhere
//! ```
//! Header names of the reply are compared with case, as both stock peers do. Source: protocol draft section 2.2,
//! openconnect 9.01 and ocserv 1.1.6 (captures).

mod datagram;
mod grant;
mod logout;
mod park;
mod read;
mod refusal;
mod request;
mod values;
mod write;

pub use datagram::MarmotDatagram;
pub use grant::{DtlsGrant, Grant, MarmotSession, Rekey, RekeyMethod};
pub use logout::{LOGOUT_PATH, Logout};
pub use park::{KEY_BYTES, ParkKey, Resume, SIGNATURE_BYTES};
pub use refusal::{ConnectRefused, Refusal, parse_connect_reply};
pub use request::{Offer, PSK_NEGOTIATE, TUNNEL_PATH, user_agent};
