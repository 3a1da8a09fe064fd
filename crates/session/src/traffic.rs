//! What both ends share once frames flow: results of receiving, things to send, and counters.

use packet::{Bundle, DropCounters, DropReason};
use wire::cstp::Kind;

use crate::EndReason;

/// What became of a frame that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Its payload is an IP packet that may go on.
    Packet,
    /// Its payload is several IP packets of one flow that may go on, as this says.
    Bundle(Bundle),
    /// It was for the session itself.
    Nothing,
    /// It was a packet that may not go on; it has been counted.
    Dropped(DropReason),
}

/// What an established session wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this frame before any packet.
    Send(Kind, Vec<u8>),
    /// The control channel is of no use any more; the session itself may live. The phrase says why.
    Dead(&'static str),
    /// The session is over.
    Ended(EndReason),
}

/// Packets and bytes carried, inner IP packets only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets taken from the peer.
    pub packets_in: u64,
    /// Bytes taken from the peer.
    pub bytes_in: u64,
    /// Packets given to the peer.
    pub packets_out: u64,
    /// Bytes given to the peer.
    pub bytes_out: u64,
    /// Packets that went nowhere.
    pub drops: DropCounters,
}

impl Traffic {
    pub(crate) fn came_in(&mut self, packets: usize, bytes: usize) {
        self.packets_in += packets as u64;
        self.bytes_in += bytes as u64;
    }

    pub(crate) fn went_out(&mut self, packets: usize, bytes: usize) {
        self.packets_out += packets as u64;
        self.bytes_out += bytes as u64;
    }

    /// Adds what another stretch of the same session carried.
    pub fn add(&mut self, other: &Self) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        self.drops.add(&other.drops);
    }
}
