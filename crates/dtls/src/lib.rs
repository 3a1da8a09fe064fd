//! DTLS 1.2 with plain pre-shared keys (RFC 6347, RFC 4279), without sockets and clocks: datagrams in, datagrams and
//! deadlines out.
//!
//! ```text
//!   client                                                server
//!   ClientHello (session id = App-ID)  ------------------>  peek, Cookies::check        no state
//!                                <--------------------  HelloVerifyRequest (cookie)     no state
//!   ClientHello (cookie)         -------------------->  Server::new
//!                                <--------------------  ServerHello, ServerHelloDone
//!   ClientKeyExchange, CCS, Finished  --------------->
//!                                <--------------------  CCS, Finished
//!   Established { SealHalf, OpenHalf, Tail }            Established { SealHalf, OpenHalf, Tail }
//! ```
//! There is no renegotiation, no resumption and no certificate. A record that cannot be opened, was seen before or makes no
//! sense is counted and forgotten; nothing that is not authenticated ends an established connection.
#![forbid(unsafe_code)]

mod client;
mod codec;
mod connection_id;
mod counters;
mod error;
mod finish;
mod flight;
mod handshake;
mod held;
mod hello;
mod inbox;
mod listener;
mod message;
mod open;
mod protection;
mod psk;
mod record;
mod replay;
mod schedule;
mod seal;
mod server;
mod suite;
mod tail;

pub use client::{Client, ClientConfig, MAX_IDENTITY};
pub use connection_id::ConnectionId;
pub use counters::{Counters, Discard};
pub use error::{Error, Incompatibility, Misbehaviour, Unusable};
pub use flight::{FIRST_RETRANSMISSION, LONGEST_RETRANSMISSION, MIN_MTU};
pub use handshake::{Established, Facts, HANDSHAKE_LIMIT};
pub use held::{MAX_EARLY_BYTES, MAX_EARLY_RECORDS};
pub use inbox::{MAX_AHEAD, MAX_MESSAGE};
pub use listener::{CookieCheck, Cookies, HelloView, MAX_HELLO_SEQUENCE, Peek, ProvenHello, peek};
pub use open::{Content, INTEGRITY_LIMIT, OpenHalf, Record};
pub use psk::Psk;
pub use replay::WINDOW;
pub use seal::{SealError, SealHalf};
pub use server::{Server, ServerConfig};
pub use suite::Suite;
pub use tail::Tail;
