//! The demo without namespaces: the real client and gateway over loopback, with packet devices in memory and a host on an IP
//! stack of our own (smoltcp) behind each.
//!
//! ```text
//!   storyteller --commands--> [ host: pings, downloads ]                    [ LAN host: answers pings, serves HTTP ]
//!               <--answers---        | packets in memory                              | packets in memory
//!                             marmot client  ====== TLS over loopback TCP ======  marmot gateway
//!                             one process, which can be frozen                 another process
//! ```

pub(crate) mod client;
pub(crate) mod gateway;
mod host;
mod lan;
