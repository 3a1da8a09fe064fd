//! The rules of the source tree that no compiler checks, each a function that returns what it finds.
//!
//! A rule takes text or a graph, never a path, so that its tests can plant a fault and see it found; `tests/tree.rs`
//! runs every rule over the real tree. A finding names its place as `file:line` and says why the rule exists: whoever
//! meets one should be able to decide between changing the code and changing the rule.

pub mod code;
pub mod direction;
pub mod documents;
pub mod graph;
pub mod sources;
pub mod tree;

use std::fmt;

/// One breach of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where: `file:line`, a file, or a package.
    pub place: String,
    /// What is wrong there, and the reason for the rule.
    pub why: String,
}

impl Finding {
    /// A finding at `place`, with the breach and the reason for the rule in `why`.
    pub fn new(place: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            why: why.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.place, self.why)
    }
}

/// Fails the running test with every finding on a line of its own.
///
/// # Panics
/// If there is a finding.
pub fn assert_clean(findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(|finding| format!("  {finding}\n")).collect();
    assert!(lines.is_empty(), "{} found:\n{}", lines.len(), lines.concat());
}
