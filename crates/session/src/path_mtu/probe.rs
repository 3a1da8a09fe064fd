//! The payload of a probe of the path MTU.
//!
//! ```text
//!   dead-peer detection request   | 3 |  "PMTU"  | id, big endian | zeros ...        |
//!   data                          | 0 |  inner packet of the same length             |
//! ```
//! One byte of type stands before either, so the record that carries a probe is exactly as long as the one that carries a
//! packet of the probed size. The peer sends the payload back as it came. The id is a counter: only who holds the keys of
//! the channel can answer, and that is the peer, which is asked what reaches it; there is nobody to keep from guessing.

const TAG: [u8; 4] = *b"PMTU";
const HEADER: usize = 8;

/// The payload of a probe, `length` bytes long; at least the 8 bytes that name it.
pub fn probe_payload(id: u32, length: u16) -> Vec<u8> {
    let mut payload = vec![0; usize::from(length).max(HEADER)];
    payload[..4].copy_from_slice(&TAG);
    payload[4..HEADER].copy_from_slice(&id.to_be_bytes());
    payload
}

/// The id of a probe of ours in the payload of a dead-peer detection response; its size is the length of the payload.
/// `None` if it answers something else.
pub fn parse_probe(payload: &[u8]) -> Option<u32> {
    let (tag, rest) = payload.split_first_chunk()?;
    let (id, _) = rest.split_first_chunk()?;
    (*tag == TAG).then_some(u32::from_be_bytes(*id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_payloads_are_no_probes() {
        assert_eq!(parse_probe(b""), None);
        assert_eq!(parse_probe(b"PMTU\0\0\0"), None);
        assert_eq!(parse_probe(b"PMTV\0\0\0\x01\0"), None);
    }

    proptest! {
        #[test]
        fn a_probe_is_as_long_as_asked_and_names_itself(id: u32, length in 8u16..) {
            let payload = probe_payload(id, length);
            prop_assert_eq!(payload.len(), usize::from(length));
            prop_assert_eq!(parse_probe(&payload), Some(id));
        }

        #[test]
        fn no_payload_panics(payload in proptest::collection::vec(any::<u8>(), 0..20)) {
            prop_assert!(parse_probe(&payload).is_none() || payload.len() >= 8);
        }
    }
}
