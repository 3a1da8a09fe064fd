//! Word of changes of this host's network, as soon as they are made, whoever makes them.
//!
//! Coarse on purpose: what a change means is found out by looking at the host, and a look that was not needed costs little. So nothing is
//! lost with a word that is lost.

pub use crate::os::watch::NetworkWatch;

/// A part of the host's network that is not as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// An interface came, went, or changed.
    Link,
    /// An address came, went, or changed.
    Address,
    /// A route or a policy rule came, went, or changed.
    Route,
    /// Something that a tunnel put on the host went, or the tunnel's device went down.
    Ours,
}

impl Change {
    const EVERY: [Self; 4] = [Self::Link, Self::Address, Self::Route, Self::Ours];

    const fn bit(self) -> u8 {
        match self {
            Self::Link => 1,
            Self::Address => 2,
            Self::Route => 4,
            Self::Ours => 8,
        }
    }
}

/// Changes since somebody looked: each of them once, however often it happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes(u8);

impl Changes {
    /// Whatever can change: words were lost, or nobody knows.
    pub const ALL: Self = Self(15);

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this one is among them.
    pub const fn has(self, change: Change) -> bool {
        self.0 & change.bit() != 0
    }

    /// These, too.
    pub const fn join(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Change> {
        Change::EVERY.into_iter().filter(move |change| self.has(*change))
    }
}

impl From<Change> for Changes {
    fn from(change: Change) -> Self {
        Self(change.bit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_a_set() {
        let mut changes = Changes::default();
        assert!(changes.is_empty());
        changes.join(Change::Address.into());
        changes.join(Change::Ours.into());
        changes.join(Change::Address.into());
        assert_eq!(changes.iter().collect::<Vec<_>>(), [Change::Address, Change::Ours]);
        assert!(Changes::ALL.iter().eq(Change::EVERY));
    }
}
