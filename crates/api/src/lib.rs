//! The local API of a running daemon: versioned JSON over a Unix socket, both ends of it.
//!
//! ```text
//!   marmot up, curl, ... --Client--> socket --serve--> Daemon (implemented by the client shell)
//!
//!   GET  /v1/status                   Status
//!   POST /v1/up          UpOrder      Up             accepted at once; the tunnel comes up behind the answer
//!   POST /v1/down                     Down           the acknowledgement of a stop
//!   GET  /v1/events                   Event, Event   one JSON object a line; the first is the status
//!   GET  /v1/history?last=N           History
//!   GET  /v1/housekeeping             Housekeeping
//!   POST /v1/housekeeping/{id}/retry  Housekeeping   root, or the user the daemon runs as
//!   POST /v1/housekeeping/run         Housekeeping   root, or the user the daemon runs as
//!
//!   marmot sessions, kick  --Client--> socket --serve_gateway--> GatewayDaemon (implemented by the gateway shell)
//!
//!   GET  /v1/status                   GatewayStatus
//!   GET  /v1/sessions                 GatewaySessions
//!   POST /v1/sessions/{id}/kick       Kicked         root, or the user the daemon runs as
//! ```
//! Every answer is one JSON object with `"version": 1`; a refusal is `{"version": 1, "error": {"code", "message"}}`. Within
//! a version members are only added, so a reader ignores what it does not know.
//!
//! Whoever can open the socket may ask and may order up and down; the mode of the socket and of its folder say who can.
//! What more there is asks for the peer's credentials ([`Privilege`]).
#![forbid(unsafe_code)]

mod access;
mod client;
mod daemon;
mod denied;
mod gateway;
mod limits;
mod patient;
mod routes;
mod server;
mod stream;
mod types;

pub use access::{Peer, Privilege, owner};
pub use client::{Client, ClientError, EventStream};
pub use daemon::{Daemon, Refused};
pub use gateway::{GatewayDaemon, serve_gateway};
pub use limits::{EVENT_QUEUE, MAX_CONNECTIONS, MAX_HISTORY, MAX_JOBS, MAX_SESSIONS};
pub use server::serve;
pub use types::{
    Attendance, Counts, Dns, Down, Event, FlowRule, Flows, GatewayCounters, GatewaySession, GatewaySessions,
    GatewayStatus, Happening, History, Housekeeping, Job, JobState, Kicked, Lockdown, Owed, Problem, Session,
    SessionCounts, Sleep, State, Status, Totals, Traffic, Tunnel, Up, UpOrder, Wanted, line,
};

/// The version of the JSON, in each answer and in each path.
pub const VERSION: u32 = 1;
