//! Users of this host: they have no numbers on this system. Never run on this system yet.

/// There is none.
pub fn number_of(_name: &str) -> Option<u32> {
    None
}
