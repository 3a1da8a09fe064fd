//! `X-Marmot-Datagram`: the header by which our own ends know each other's DTLS channel; the same in both directions.
//!
//! ```text
//!   v=1        connection ids, path probes both ways, keys that stay valid over a take-over
//!   v=1;ecn    and marks of congestion are carried from packets to datagrams and back
//! ```

use super::values;

/// Its name.
pub(super) const DATAGRAM: &str = "X-Marmot-Datagram";

/// Says that marks are carried.
const ECN: &str = "ecn";

/// Version 1 of a DTLS channel of ours: it has connection ids, path probes both ways, and keys that stay valid while another connection takes the
/// session over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MarmotDatagram {
    /// What routers mark on a datagram (ECN) is taken over to its packet, so that the other end may send datagrams that can be marked
    /// (RFC 6040 section 4.1).
    pub ecn: bool,
}

impl MarmotDatagram {
    /// Nothing for another version; other words behind this one are passed over.
    pub(super) fn parse(value: &str) -> Option<Self> {
        values::is_version_1(value).then(|| Self {
            ecn: value.split(';').skip(1).any(|word| word == ECN),
        })
    }

    pub(super) fn write(self) -> String {
        match self.ecn {
            true => format!("{};{ECN}", values::VERSION_1),
            false => values::VERSION_1.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_for_ecn_stands_anywhere_behind_the_version() {
        let ecn = |value| MarmotDatagram::parse(value).map(|datagram| datagram.ecn);
        assert_eq!(
            [ecn("v=1;ecn"), ecn("v=1;more=2;ecn"), ecn("v=1;ecn;more")],
            [Some(true); 3]
        );
        for without in ["v=1", "v=1;", "v=1;more=ecn", "v=1;ECN", "v=1;ecn=0", "v=1; ecn"] {
            assert_eq!(ecn(without), Some(false), "{without}");
        }
        for other in ["", "ecn", "ecn;v=1", "v=2;ecn", "v=10;ecn"] {
            assert_eq!(ecn(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for ecn in [true, false] {
            let datagram = MarmotDatagram { ecn };
            assert_eq!(MarmotDatagram::parse(&datagram.write()), Some(datagram));
        }
    }
}
