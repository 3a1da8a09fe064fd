//! Which tunnel instance something belongs to.

use std::fmt;

/// The number of a tunnel instance, from its start to its stop. Work of one generation cannot touch another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

impl Generation {
    /// The first instance of a process.
    pub const FIRST: Self = Self(1);

    /// The instance after this one. A process would have to stop 2^64 times to reach the end, where it stays.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// 1 for the first.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_only_grow() {
        assert!(Generation::FIRST < Generation::FIRST.next());
        assert_eq!(Generation(u64::MAX).next(), Generation(u64::MAX));
        assert_eq!(Generation::FIRST.to_string(), "g1");
    }
}
