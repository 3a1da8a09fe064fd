//! A gateway in this process, on a device in memory, against a client written by hand over loopback.

mod access;
mod accounts;
mod bundles;
mod client;
mod datagrams;
mod house;
mod limits;
mod local;
mod logout;
mod parking;
mod resume;
mod tunnels;
mod upkeep;
mod workers;
