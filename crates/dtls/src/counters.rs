//! Records that were discarded, by reason.

/// Why a record was discarded. None of these ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Discard {
    /// No record, or one that contradicts itself.
    Malformed,
    /// Of an epoch without keys, or plaintext where only sealed records count.
    WrongEpoch,
    /// Without our connection id, where one was agreed on.
    WrongConnectionId,
    /// Seen before, or too old for the replay window.
    Replayed,
    /// Not sealed with the key of this connection, or changed on the way.
    Forged,
    /// More was to be kept than a limit allows.
    OverLimit,
    /// Of a kind that has no meaning here: renegotiation, a second ChangeCipherSpec, messages out of order.
    Unexpected,
    /// An alert that is not authenticated, or only a warning.
    Alert,
    /// The key has seen its last failed attempt; nothing is opened any more.
    Exhausted,
}

impl Discard {
    /// Every reason, in the order of its declaration.
    pub const ALL: [Self; 9] = [
        Self::Malformed,
        Self::WrongEpoch,
        Self::WrongConnectionId,
        Self::Replayed,
        Self::Forged,
        Self::OverLimit,
        Self::Unexpected,
        Self::Alert,
        Self::Exhausted,
    ];
}

/// How many records were discarded, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters([u64; Discard::ALL.len()]);

impl Counters {
    /// Discarded for this reason.
    pub fn count(&self, reason: Discard) -> u64 {
        self.0[reason as usize]
    }

    /// Discarded for any reason.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    pub(crate) fn add(&mut self, reason: Discard) {
        let count = &mut self.0[reason as usize];
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let mut counters = Counters::default();
        for (times, reason) in Discard::ALL.into_iter().enumerate() {
            (0..=times).for_each(|_| counters.add(reason));
        }
        for (times, reason) in Discard::ALL.into_iter().enumerate() {
            assert_eq!(counters.count(reason), times as u64 + 1);
        }
        assert_eq!(counters.total(), 45);
    }
}
