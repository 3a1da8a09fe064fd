//! Records that came before their time: kept within a limit, and looked at again when it has come.

/// Early records that are kept. A reordered flight and the first packets behind it fit; a lost one is sent again anyway.
pub const MAX_EARLY_RECORDS: usize = 16;

/// Bytes of early records that are kept.
pub const MAX_EARLY_BYTES: usize = 32 * 1024;

/// A bounded list of byte strings.
#[derive(Debug, Default)]
pub(crate) struct Held {
    records: Vec<Vec<u8>>,
    bytes: usize,
}

impl Held {
    /// Keeps a copy; false if there is no room.
    pub(crate) fn keep(&mut self, record: &[u8]) -> bool {
        let fits = self.records.len() < MAX_EARLY_RECORDS && self.bytes + record.len() <= MAX_EARLY_BYTES;
        if fits {
            self.bytes += record.len();
            self.records.push(record.to_vec());
        }
        fits
    }

    /// Gives out everything, in the order in which it came.
    pub(crate) fn take(&mut self) -> Vec<Vec<u8>> {
        self.bytes = 0;
        std::mem::take(&mut self.records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_kept_within_both_limits() {
        let mut held = Held::default();
        (0..MAX_EARLY_RECORDS).for_each(|_| assert!(held.keep(b"x")));
        assert!(!held.keep(b"x"));
        assert_eq!(held.take().len(), MAX_EARLY_RECORDS);
        assert!(held.keep(&vec![0; MAX_EARLY_BYTES]) && !held.keep(b"x"));
    }
}
