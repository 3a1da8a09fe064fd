//! Data for the download: an endless stream from a seed, and its SHA-256.

use aws_lc_rs::digest::{Context, SHA256};

/// Pseudo-random bytes, the same for the same seed (SplitMix64, Steele, Lea and Flood 2014). Not compressible, so that
/// throughput is honest; not secret.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Stream {
    /// The stream of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            state: seed,
            word: [0; 8],
            used: 8,
        }
    }

    /// Fills `out` with the next bytes.
    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.used == self.word.len() {
                self.word = self.next().to_le_bytes();
                self.used = 0;
            }
            *byte = self.word[self.used];
            self.used += 1;
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A running SHA-256.
pub(crate) struct Hash(Context);

impl Hash {
    /// The hash of nothing yet.
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Takes more bytes in.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash in hex.
    pub(crate) fn finish(self) -> String {
        let digest = self.0.finish();
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// SHA-256 of the first `bytes` of the stream of `seed`, computed where the data never travelled.
pub(crate) fn expected_hash(seed: u64, bytes: u64) -> String {
    let mut stream = Stream::new(seed);
    let mut hash = Hash::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        stream.fill(&mut buffer[..take]);
        hash.update(&buffer[..take]);
        left -= take as u64;
    }
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_does_not_depend_on_how_it_is_read() {
        let mut whole = [0; 100];
        Stream::new(7).fill(&mut whole);
        let mut parts = [0; 100];
        let mut stream = Stream::new(7);
        for part in parts.chunks_mut(13) {
            stream.fill(part);
        }
        assert_eq!(whole, parts);
        let mut other = [0; 100];
        Stream::new(8).fill(&mut other);
        assert_ne!(whole, other);
    }

    #[test]
    fn the_hash_is_sha_256() {
        assert_eq!(
            Hash::new().finish(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let mut hash = Hash::new();
        hash.update(b"a");
        hash.update(b"bc");
        assert_eq!(
            hash.finish(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
