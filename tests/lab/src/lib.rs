//! A laboratory for the real programs: hosts in network namespaces, cables between them, stock peers, and eyes.
//!
//! ```text
//!   harness   what a test program starts with       process   a program under test
//!   topology  hosts and addresses                   wait      for events, with a deadline
//!   pki       certificates, good and bad            settings  configuration files
//!   marmot, ocserv, openconnect   the ends          peer      an end that misbehaves on purpose
//!   ping, transfer                traffic           sockets   what the kernel knows of a connection
//! ```
//! Everything works as root and, where the kernel allows user namespaces, without.

mod harness;
mod host;
mod marmot;
mod ocserv;
mod openconnect;
pub mod peer;
mod ping;
mod pki;
mod process;
mod settings;
mod sockets;
mod topology;
mod transfer;
mod wait;

pub use harness::{Test, run, run_long};
pub use marmot::{
    PASSWORD, USER, Users, client_interface, client_settings, gateway_settings, marmot, spawn_client, spawn_gateway,
    start_client, start_gateway, users_file,
};
pub use ocserv::{Ocserv, StockFigures, StockLogin, stop_ocserv};
pub use openconnect::{Openconnect, STOCK_INTERFACE, stock_addresses};
pub use ping::Ping;
pub use pki::{Identity, Pki};
pub use process::{Mark, Process};
pub use rustix::process::Signal;
pub use settings::Settings;
pub use sockets::Connection;
pub use topology::{GATEWAY_NAME, Lab, SITE_A, SITE_B, Site, SitePlan};
pub use transfer::{Flow, Rates, Server, transfer};
pub use wait::{PATIENCE, eventually, until};
