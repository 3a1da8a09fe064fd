//! Every packet ends delivered, or counted under exactly one reason.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $word:literal,)+) => {
        /// Why a packet was not delivered.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason {
            $($(#[$doc])* $name,)+
        }

        impl DropReason {
            /// All reasons, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The word used in logs, status and metrics.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

reasons! {
    /// Not an IPv4 or IPv6 packet, or shorter than its headers say.
    Malformed => "malformed",
    /// The source address is not one the sender was granted.
    ForeignSource => "foreign_source",
    /// The destination address is not one the receiver was granted.
    ForeignDestination => "foreign_destination",
    /// No session and no route leads to the destination.
    NoRoute => "no_route",
    /// Longer than the tunnel carries.
    TooBig => "too_big",
    /// The queue towards the peer was full.
    QueueFull => "queue_full",
    /// Nothing to send it on: the channel is down.
    ChannelDown => "channel_down",
    /// For a client that sleeps, is stopped or cannot be reached.
    Parked => "parked",
    /// The data channel brings nothing back, and the client has not asked for the control channel.
    Unanswered => "unanswered",
    /// From one client to another, which the gateway does not allow.
    ClientToClient => "client_to_client",
    /// Its datagram was marked by a router that has too many packets, and it cannot be marked itself (RFC 6040 section 4.2).
    Congestion => "congestion",
    /// The device refused it.
    DeviceRefused => "device_refused",
    /// It waited through a gap and is too old to be of use.
    Stale => "stale",
    /// The host sleeps, or is awake for its own purposes only, and nothing is to be carried then.
    Asleep => "asleep",
    /// A destination that never leaves the host or the link: multicast, link-local, loopback.
    NotForwardable => "not_forwardable",
    /// The rules of the client's group do not allow it.
    Access => "access",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One counter for each [`DropReason`]; owned by whoever drops, so it needs no lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCounters([u64; DropReason::ALL.len()]);

impl DropCounters {
    /// Counts one packet.
    pub fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// Counts several packets.
    pub fn count_many(&mut self, reason: DropReason, packets: u64) {
        self.0[reason as usize] += packets;
    }

    /// Packets dropped for `reason`.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Packets dropped for any reason.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds the counts of another owner.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// The reasons that occurred, with their counts.
    pub fn nonzero(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|reason| (*reason, self.of(*reason)))
            .filter(|(_, count)| *count > 0)
    }
}

impl fmt::Display for DropCounters {
    /// `foreign_source=3 queue_full=1`, or `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.total() == 0 {
            return f.write_str("none");
        }
        for (index, (reason, count)) in self.nonzero().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{reason}={count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_counted_under_one_reason() {
        let mut counters = DropCounters::default();
        counters.count(DropReason::ForeignSource);
        counters.count(DropReason::ForeignSource);
        counters.count(DropReason::QueueFull);
        assert_eq!(counters.total(), 3);
        assert_eq!(counters.of(DropReason::ForeignSource), 2);
        assert_eq!(counters.to_string(), "foreign_source=2 queue_full=1");
    }

    #[test]
    fn words_are_unique() {
        let mut words: Vec<_> = DropReason::ALL.iter().map(|reason| reason.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), DropReason::ALL.len());
    }
}
