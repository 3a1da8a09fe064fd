//! A gateway in this process, on a device in memory, against a client written by hand over loopback.

mod access;
mod accounts;
mod client;
mod datagrams;
mod house;
mod limits;
mod logout;
mod parking;
mod tunnels;
mod upkeep;
