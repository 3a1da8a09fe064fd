//! What an acknowledgement of a stop has to show.

use lifecycle::Proofs;
use platform::network::Restored;

/// The proofs of this shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proven;

impl Proofs for Proven {
    type Restored = Proof;
    type Owed = ledger::Owed;
}

/// An input of the machine with the proofs of this shell.
pub(crate) type Input = lifecycle::Input<Proven>;

/// Proof that the host is as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Nothing was put on it.
    Untouched,
    /// What the platform removed, and what it could not.
    Restored(Restored),
    /// Something is on the host, and the platform is still at it.
    Unfinished,
}

impl Proof {
    /// What is left, one sentence each.
    pub(crate) fn residue(&self) -> Vec<String> {
        match self {
            Self::Untouched => Vec::new(),
            Self::Restored(restored) => restored.residue().to_vec(),
            Self::Unfinished => vec!["routes and rules of the tunnel are still being removed".to_owned()],
        }
    }
}
