//! The authentication dialogue: XML documents over POST, and the legacy form.
//!
//! ```text
//! client                                   gateway
//!   Init  ------------------------------->
//!         <-------------------------------  Form           (any number of rounds)
//!   Reply (Form::answer) ---------------->
//!         <-------------------------------  Complete       with Set-Cookie: webvpn=...
//! ```
//! Both directions are encoded and parsed here, so that each end can be tested against the other and against the
//! stock peers. Source: draft-mavrogiannopoulos-openconnect, section 2.1; openconnect 9.01, ocserv 1.1.6 (captures).

mod answer;
mod client;
mod gateway;
pub mod legacy;
mod xml;

pub use answer::Unanswered;
pub use client::{ClientDocument, Init, Reply, parse_client};
pub use gateway::{Choice, Form, GatewayDocument, Input, InputKind, parse_gateway};

use crate::secret::Secret;

/// Name of the cookie that opens the tunnel.
pub const COOKIE: &str = "webvpn";

/// Name of the cookie that stock `ocserv` sets between two rounds and wants back on another connection.
pub const CONTEXT_COOKIE: &str = "webvpncontext";

/// Name of the select that chooses a group.
pub const GROUP_LIST: &str = "group_list";

/// One answered field of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name, `username` or `password` for instance.
    pub name: String,
    /// What was answered.
    pub value: Secret,
}
