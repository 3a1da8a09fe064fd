//! The replay window (RFC 6347 section 4.1.2.6): which of the last sequences were seen.

/// Width of the window, in records. 64, as the RFC suggests, drops what merely came late over parallel queues; 8,192 is
/// 80 ms of full-size packets at 1 Gbit/s.
pub const WINDOW: u64 = 8192;

const WORDS: usize = (WINDOW / 64) as usize;

/// Sequences seen, as a ring of bits: that of sequence s is bit s mod [`WINDOW`].
#[derive(Clone, Debug)]
pub(crate) struct ReplayWindow {
    /// One above the highest sequence seen; the window ends before it.
    next: u64,
    seen: [u64; WORDS],
}

impl ReplayWindow {
    pub(crate) fn new() -> Self {
        Self {
            next: 0,
            seen: [0; WORDS],
        }
    }

    /// Whether a record of this sequence may be opened. To be asked before the record is authenticated.
    pub(crate) fn admits(&self, sequence: u64) -> bool {
        if sequence >= self.next {
            return true;
        }
        let (word, bit) = place(sequence);
        self.next - sequence <= WINDOW && self.seen[word] & bit == 0
    }

    /// Notes a record that was admitted and is authentic. True if it is newer than all before.
    pub(crate) fn note(&mut self, sequence: u64) -> bool {
        let newest = sequence >= self.next;
        if newest {
            self.forget(sequence);
            self.next = sequence + 1;
        }
        let (word, bit) = place(sequence);
        self.seen[word] |= bit;
        newest
    }

    /// Clears the places that `self.next` up to `sequence` take over from older sequences.
    fn forget(&mut self, sequence: u64) {
        if sequence - self.next >= WINDOW {
            self.seen.fill(0);
            return;
        }
        let mut at = self.next;
        while at <= sequence {
            let (word, bit) = place(at);
            if at.is_multiple_of(64) && sequence - at >= 63 {
                self.seen[word] = 0;
                at += 64;
            } else {
                self.seen[word] &= !bit;
                at += 1;
            }
        }
    }
}

fn place(sequence: u64) -> (usize, u64) {
    (((sequence / 64) % (WORDS as u64)) as usize, 1 << (sequence % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The definition: everything seen is remembered.
    #[derive(Default)]
    struct Naive(BTreeSet<u64>);

    impl Naive {
        fn admits(&self, sequence: u64) -> bool {
            let top = self.0.last().copied().unwrap_or(0);
            !self.0.contains(&sequence) && sequence + WINDOW > top
        }
    }

    fn agree(window: &mut ReplayWindow, naive: &mut Naive, sequence: u64) {
        assert_eq!(window.admits(sequence), naive.admits(sequence), "{sequence}");
        if naive.admits(sequence) {
            let newest = naive.0.last().is_none_or(|top| sequence > *top);
            assert_eq!(window.note(sequence), newest);
            naive.0.insert(sequence);
            while naive.0.len() > WINDOW as usize + 1 {
                naive.0.pop_first();
            }
        }
    }

    #[test]
    fn a_sequence_is_admitted_once_and_only_inside_the_window() {
        let mut window = ReplayWindow::new();
        assert!(window.admits(0) && window.note(0) && !window.admits(0));
        assert!(window.note(WINDOW));
        assert!(!window.admits(0) && window.admits(1));
        assert!(!window.note(1) && !window.admits(1));
    }

    #[test]
    fn a_jump_to_the_end_of_the_sequences_is_no_overflow() {
        let mut window = ReplayWindow::new();
        window.note(5);
        assert!(window.note((1 << 48) - 1));
        assert!(!window.admits(5) && !window.admits((1 << 48) - 1) && window.admits((1 << 48) - 2));
    }

    proptest! {
        #[test]
        fn the_window_is_the_naive_one(steps in prop::collection::vec((0u64..3, 0u64..20_000), 1..400)) {
            let (mut window, mut naive, mut at) = (ReplayWindow::new(), Naive::default(), 0u64);
            for (kind, by) in steps {
                let sequence = match kind {
                    0 => at + by % 130,
                    1 => at.saturating_sub(by % 9000),
                    _ => at + by,
                };
                at = at.max(sequence);
                agree(&mut window, &mut naive, sequence);
            }
        }
    }

    /// 10 million with `MARMOT_LONG`, 1 million without.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the long run is asked for in the environment")]
    fn a_long_random_walk_agrees_with_the_naive_window() {
        let steps = if std::env::var_os("MARMOT_LONG").is_some() {
            10_000_000
        } else {
            1_000_000
        };
        let (mut window, mut naive, mut at) = (ReplayWindow::new(), Naive::default(), 20_000u64);
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..steps {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let sequence = match state % 16 {
                0 => at + (state >> 8) % 200,
                1 => at.saturating_sub((state >> 8) % (WINDOW + 200)),
                _ => at + 1 + (state >> 8) % 3 - (state >> 16) % 3,
            };
            at = at.max(sequence);
            agree(&mut window, &mut naive, sequence);
        }
    }
}
