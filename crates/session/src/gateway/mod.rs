//! The gateway's side of a session.
//!
//! ```text
//!   TLS connection --HTTP--> Front --Verify--> (password check) --verdict--> Front
//!                              |--Login--> Sessions::login  --cookie--> Front
//!                              '--Connect-> Sessions::connect --Lease--> Established --frames-->
//! ```
//! [`Front`] forgets everything when its TLS connection ends: stock clients log in over one connection and ask for the
//! tunnel over another. What lasts is in [`Sessions`].

mod datagrams;
mod established;
mod front;
mod lease;
mod sessions;

pub use datagrams::{DatagramTerms, Datagrams, GatewayData, Key};
pub use established::Established;
pub use front::{Front, FrontOutput, FrontPolicy, MAX_TRIES, Verdict};
pub use lease::{Lease, Leases, PoolExhausted, Reservation};
pub use sessions::{
    Claim, ConnectRefused, Connected, CookieHash, Ended, Entrance, Entry, FORGOTTEN_AT_ONCE, Kept, Limits, Login,
    LoginRefused, MAX_REVOKED, Parked, Presence, Proof, SessionId, Sessions, Shown, Since, Standing, TokenHash,
    WrongToken,
};
