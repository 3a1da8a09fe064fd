//! What travels between client and gateway, as types: CSTP frames, HTTP heads and bodies, authentication
//! documents, the CONNECT offer and its grant.
//!
//! ```text
//!   bytes --> cstp::Decoder ----> Frame                    (after CONNECT)
//!   bytes --> http::parse_* ----> head --> BodyDecoder     (before CONNECT)
//!                                  |           |
//!               offer::Offer, Grant            auth::{ClientDocument, GatewayDocument}, auth::legacy
//! ```
//! Everything here is pure: bytes in, values out, and back. Every decoder has a hard limit from [`limits`], none of
//! them panics on any input, and each encoder's output is what stock `openconnect` and `ocserv` understand.
//! Source of the facts: draft-mavrogiannopoulos-openconnect and captures in `tests/captures`.
#![forbid(unsafe_code)]

pub mod auth;
pub mod cstp;
pub mod dns;
pub mod error;
pub mod http;
pub mod limits;
pub mod offer;
pub mod secret;
pub mod text;

pub use error::{AuthError, CstpError, Fault, GrantError, HttpError, OfferError};
pub use secret::Secret;
