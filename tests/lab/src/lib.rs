//! A laboratory for the real programs: hosts in network namespaces, cables between them, stock peers, and eyes.
//!
//! ```text
//!   harness   what a test program starts with       process   a program under test
//!   topology  hosts and addresses                   wait      for events, with a deadline
//!   pki       certificates, good and bad            settings  configuration files
//!   marmot, ocserv, openconnect   the ends          peer      an end that misbehaves on purpose
//!   openvpn, wireguard            other tunnels     devices   when a device goes
//!   ping, transfer                traffic           sockets   what the kernel knows of a connection
//!   figures   medians of repeated measurements      longjob   a hook that waits at a gate
//!   stage     what measurements start with, instead of tests
//!   control   the local socket                      spool     what a daemon wrote down
//!   hole, names, meter, steady   packets that vanish, names, a count on a cable, a flow in which each packet counts
//!   marks     marks of congestion, asked for and set
//!   nat, roam   what happens to addresses on the way      capture  datagrams, written down
//!   logind    a bus with a logind that says what the test wants
//!   systemd   a service manager, and our units in it  pulse   a flow that does not wait for answers
//!   nameserver  servers that remember, and who asks   resolved  systemd-resolved on a bus of its own
//!   clock     hours that pass in no time              freezer a program that stands still without a signal
//!   group     control groups that come and go
//!   delay     a long way to the gateway               starvation  a program without the processor
//!   probe     a program that tries to get out, and what of it did
//!   course    bytes of each 10 ms                     allocations what a program asks its allocator for
//!   numbered  datagrams that know their number and time  herd, flock  many clients that sleep, or are awake (member: one of them)
//!                                                     machine   systemd as the first process, with a logind of its own
//! ```
//! Everything works as root and, where the kernel allows user namespaces, without.

mod allocations;
mod capture;
mod clock;
mod control;
mod course;
mod delay;
mod devices;
mod figures;
mod flock;
mod freezer;
mod group;
mod harness;
mod herd;
mod hole;
mod host;
mod logind;
mod longjob;
mod machine;
mod marks;
mod marmot;
mod member;
mod meter;
mod names;
mod nameserver;
mod nat;
mod numbered;
mod ocserv;
mod openconnect;
mod openvpn;
pub mod peer;
mod ping;
mod pki;
mod probe;
mod process;
mod pulse;
mod resolved;
mod roam;
mod settings;
mod sockets;
mod spool;
mod stage;
mod starvation;
mod steady;
mod systemd;
mod topology;
mod transfer;
mod translator;
mod uplink;
mod wait;
mod wireguard;

pub use allocations::{Allocated, Allocations};
pub use capture::{Capture, Datagram};
pub use clock::{Clock, Sleeper};
pub use control::{Control, Events, answer};
pub use course::{Course, Direction, STEP, Stream};
pub use delay::Delay;
pub use devices::{has_device, name_free};
pub use figures::{Times, ms};
pub use flock::{Flock, Shares, Thin};
pub use freezer::Freezer;
pub use group::Group;
pub use harness::{Test, is_long, run, run_long, run_scaled, run_scaled_together};
pub use herd::Herd;
pub use hole::Hole;
pub use logind::{Inhibitor, Logind};
pub use longjob::{LongJob, write_hook};
pub use machine::{Machine, Sleep};
pub use marks::{CongestedRouter, MARKED_PORT, Marked};
pub use marmot::{
    PASSWORD, USER, Users, client_interface, client_settings, gateway_settings, marmot, spawn_client, spawn_gateway,
    start_client, start_gateway, status, users_file,
};
pub use meter::Meter;
pub use names::Names;
pub use nameserver::{NameServer, look_up};
pub use nat::{Forgetting, Nat};
pub use numbered::{Fared, Numbered, burst};
pub use ocserv::{Ocserv, StockFigures, StockLogin, stop_ocserv};
pub use openconnect::{Openconnect, STOCK_INTERFACE, stock_addresses, stock_channel};
pub use openvpn::{OPENVPN_INTERFACE, Openvpn};
pub use ping::{Ping, Series};
pub use pki::{Identity, Pki};
pub use probe::{Clear, Prober, WAYS};
pub use process::{Mark, Process};
pub use pulse::Pulse;
pub use resolved::{LinkNames, Resolved, extracted};
pub use roam::move_client;
pub use rustix::process::Signal;
pub use settings::Settings;
pub use sockets::{Connection, send_queue};
pub use spool::Spool;
pub use stage::stage;
pub use starvation::Starvation;
pub use steady::{Steady, Tally};
pub use systemd::Systemd;
pub use topology::{GATEWAY_NAME, Lab, SITE_A, SITE_B, Site, SitePlan};
pub use transfer::{Flow, Rates, Server, transfer};
pub use translator::{Translator, synthesized};
pub use uplink::{UPLINK, Uplink, Uplinks};
pub use wait::{PATIENCE, eventually, until};
pub use wireguard::{WIREGUARD_INTERFACE, WgQuick};
