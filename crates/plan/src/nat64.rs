//! IPv4 addresses in IPv6 addresses: what a translator (NAT64) understands, and how it is found out which.
//!
//! ```text
//!   ipv4only.arpa AAAA?  -->  64:ff9b::c000:aa   -->  prefix 64:ff9b::/96        RFC 7050: the name has the addresses 192.0.0.170 and .171 alone
//!   198.51.100.1         -->  64:ff9b::c633:6401                                 RFC 6052 section 2.2
//! ```

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The name that every network with a translator answers with IPv6 addresses (RFC 7050 section 2.2).
pub const WELL_KNOWN_NAME: &str = "ipv4only.arpa";

/// Its IPv4 addresses.
const WELL_KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];

/// Prefixes of one network that are used at most: there is one, or an old and a new one.
const MAX_PREFIXES: usize = 4;

/// How long a prefix may be in bits, and which bytes hold the IPv4 address then: byte 8 is always zero (RFC 6052 section 2.2).
const SHAPES: [(u8, [usize; 4]); 6] = [
    (96, [12, 13, 14, 15]),
    (64, [9, 10, 11, 12]),
    (56, [7, 9, 10, 11]),
    (48, [6, 7, 9, 10]),
    (40, [5, 6, 7, 9]),
    (32, [4, 5, 6, 7]),
];

/// Where a translator's IPv4 world begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat64Prefix {
    bits: [u8; 16],
    length: u8,
    places: [usize; 4],
}

impl Nat64Prefix {
    /// The prefixes that the addresses of [`WELL_KNOWN_NAME`] tell of, in their order, each once.
    pub fn found(answers: impl IntoIterator<Item = Ipv6Addr>) -> Vec<Self> {
        let mut prefixes: Vec<Self> = Vec::new();
        for prefix in answers.into_iter().filter_map(Self::of) {
            if prefixes.len() < MAX_PREFIXES && !prefixes.contains(&prefix) {
                prefixes.push(prefix);
            }
        }
        prefixes
    }

    /// An answer that holds a well-known address in more than one place says nothing (RFC 7050 section 3).
    fn of(answer: Ipv6Addr) -> Option<Self> {
        let bytes = answer.octets();
        let mut fitting = SHAPES.into_iter().filter(|(length, places)| {
            let held = Ipv4Addr::from(places.map(|place| bytes[place]));
            WELL_KNOWN.contains(&held) && (*length == 96 || bytes[8] == 0)
        });
        let (length, places) = fitting.next()?;
        if fitting.next().is_some() {
            return None;
        }
        let mut bits = bytes;
        bits[usize::from(length / 8)..].fill(0);
        Some(Self { bits, length, places })
    }

    /// The address by which this host reaches `v4` through the translator.
    pub fn synthesize(&self, v4: Ipv4Addr) -> Ipv6Addr {
        let mut bytes = self.bits;
        for (place, byte) in self.places.into_iter().zip(v4.octets()) {
            bytes[place] = byte;
        }
        bytes.into()
    }
}

impl fmt::Display for Nat64Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv6Addr::from(self.bits), self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().expect("test address")
    }

    #[test]
    fn every_length_of_a_prefix_is_found_and_used_as_rfc_6052_says() {
        // The table in RFC 6052 section 2.4, and what a network with that prefix says of the well-known name.
        let table = [
            ("2001:db8::/32", "2001:db8:c000:221::", "2001:db8:c000:aa::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::", "2001:db8:1c0:0:aa::"),
            (
                "2001:db8:122::/48",
                "2001:db8:122:c000:2:2100::",
                "2001:db8:122:c000:0:aa00::",
            ),
            (
                "2001:db8:122:300::/56",
                "2001:db8:122:3c0:0:221::",
                "2001:db8:122:3c0:0:aa::",
            ),
            (
                "2001:db8:122:344::/64",
                "2001:db8:122:344:c0:2:2100:0",
                "2001:db8:122:344:c0:0:aa00:0",
            ),
            (
                "2001:db8:122:344::/96",
                "2001:db8:122:344::c000:221",
                "2001:db8:122:344::c000:aa",
            ),
        ];
        for (prefix, synthesized, answer) in table {
            let found = Nat64Prefix::found([v6(answer)]);
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [prefix]);
            let translated = found[0].synthesize(Ipv4Addr::new(192, 0, 2, 33));
            assert_eq!(translated, v6(synthesized), "{prefix}");
        }
    }

    #[test]
    fn the_well_known_prefix_is_one_like_any_other() {
        let found = Nat64Prefix::found(["64:ff9b::c000:aa", "64:ff9b::c000:ab", "64:ff9b::192.0.0.170"].map(v6));
        assert_eq!(found.len(), 1, "two answers, one prefix");
        assert_eq!(found[0].to_string(), "64:ff9b::/96");
        assert_eq!(
            found[0].synthesize(Ipv4Addr::new(198, 51, 100, 1)),
            v6("64:ff9b::c633:6401")
        );
    }

    #[test]
    fn other_answers_tell_nothing() {
        let nothing = [
            "2001:db8::1",
            "::",
            // A lie: the address is somebody else's.
            "64:ff9b::c000:ac",
            // In two places at once.
            "2001:db8:c000:aa::c000:aa",
            // Bits where there have to be none.
            "2001:db8:c000:aa:100::",
        ];
        assert!(Nat64Prefix::found(nothing.map(v6)).is_empty());
        let many = (0..100).map(|n| v6(&format!("2001:db8:{n:x}::c000:aa")));
        assert_eq!(Nat64Prefix::found(many).len(), MAX_PREFIXES);
    }
}
