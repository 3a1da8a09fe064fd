//! What a tunnel puts on the host, and the checks of what a gateway grants before any of it is used.
//!
//! ```text
//!   grant (as the gateway said it) --vet--> Vetted (harmless, canonical) --with the host's own networks--> NetworkPlan
//! ```
#![forbid(unsafe_code)]

mod dns;
pub mod flows;
mod guard;
mod local;
mod lockdown;
pub mod nat64;
mod network;
pub mod resolv_conf;
mod translation;
mod undo;
mod vet;

pub use dns::{Dns, Domain};
pub use flows::Flows;
pub use guard::guard;
pub use local::{LocalNetworks, PRIVATE, private_networks};
pub use lockdown::{Lockdown, MAX_OPENINGS, OWNER, Openings, Place, Transport};
pub use network::{NetworkPlan, Overlap, Route, RouteKind};
pub use translation::Translation;
pub use undo::Undo;
pub use vet::{
    Granted, MAX_DNS_SERVERS, MAX_DOMAINS, MAX_MTU, MAX_ROUTES, MIN_MTU, MIN_MTU_V6, Policy, Refused, Vetted, domain,
    is_name_server, vet,
};
