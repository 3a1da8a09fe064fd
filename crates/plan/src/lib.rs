//! What a tunnel puts on the host, and the checks of what a gateway grants before any of it is used.
//!
//! ```text
//!   grant (as the gateway said it) --vet--> Vetted (harmless, canonical) --with the host's own networks--> NetworkPlan
//! ```
#![forbid(unsafe_code)]

pub mod flows;
mod network;
mod undo;
mod vet;

pub use flows::Flows;
pub use network::{Dns, NetworkPlan, Overlap, Route, RouteKind};
pub use undo::Undo;
pub use vet::{
    Granted, MAX_DNS_SERVERS, MAX_DOMAINS, MAX_MTU, MAX_ROUTES, MIN_MTU, MIN_MTU_V6, Policy, Refused, Vetted, vet,
};
