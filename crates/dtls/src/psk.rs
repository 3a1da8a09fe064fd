//! The pre-shared key: 32 bytes of a TLS exporter in our protocol, 1 to 64 here.

use std::fmt;

use zeroize::Zeroizing;

/// Longest key, in bytes (RFC 4279 section 5.3 asks for at least 64).
const MAX_PSK: usize = 64;

/// A pre-shared key. It prints as `[psk]`, and its memory is wiped when dropped.
#[derive(Clone)]
pub struct Psk(Zeroizing<Vec<u8>>);

impl Psk {
    /// Copies a key of 1 to 64 bytes; `None` for any other length.
    pub fn new(key: &[u8]) -> Option<Self> {
        (1..=MAX_PSK)
            .contains(&key.len())
            .then(|| Self(Zeroizing::new(key.to_vec())))
    }

    /// The premaster secret (RFC 4279 section 2): as many zeros as the key has bytes, and the key, each with its length.
    pub(crate) fn premaster(&self) -> Zeroizing<Vec<u8>> {
        let length = u16::try_from(self.0.len()).expect("at most 64 bytes").to_be_bytes();
        // The capacity is exact, so that nothing is left behind by a move to a larger buffer.
        let mut premaster = Zeroizing::new(Vec::with_capacity(4 + 2 * self.0.len()));
        premaster.extend(length);
        premaster.resize(2 + self.0.len(), 0);
        premaster.extend(length);
        premaster.extend_from_slice(&self.0);
        premaster
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[psk]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_1_to_64_bytes_and_never_prints_itself() {
        assert!(Psk::new(&[]).is_none() && Psk::new(&[7; 65]).is_none());
        assert!(Psk::new(&[7]).is_some());
        assert_eq!(format!("{:?}", Psk::new(&[7; 64]).unwrap()), "[psk]");
    }

    #[test]
    fn the_premaster_secret_is_zeros_and_the_key_with_their_lengths() {
        let premaster = Psk::new(&[1, 2, 3]).unwrap().premaster();
        assert_eq!(*premaster, [0, 3, 0, 0, 0, 0, 3, 1, 2, 3]);
    }
}
