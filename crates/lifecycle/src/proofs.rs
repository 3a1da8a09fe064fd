//! Values that show a step was taken, and that only those who take it can make.

use std::fmt::Debug;

/// The proofs of a shell. An acknowledgement takes one of each, so that a stop cannot be acknowledged before the host was
/// restored and the owed work recorded, or either is known not to be.
pub trait Proofs: Copy + Debug + Eq + 'static {
    /// The host is as it was before the start, or what is left on it is named. The platform makes it.
    type Restored: Clone + Debug + PartialEq;
    /// What the tunnel owes is durable, or there is nothing, or the disk is too slow. The ledger makes it.
    type Owed: Clone + Debug + PartialEq;
}
