//! What the story claimed, and whether it was true. The exit code is made of this.

/// How a claim ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was seen.
    True,
    /// Something else was seen.
    False,
    /// It could not be tried here, and why.
    Skipped(String),
}

/// Every claim in order.
#[derive(Debug, Default)]
pub(crate) struct Claims(Vec<(u32, String, Outcome)>);

impl Claims {
    /// Adds a claim of act `act`.
    pub(crate) fn add(&mut self, act: u32, text: String, outcome: Outcome) {
        self.0.push((act, text, outcome));
    }

    /// Act, text and outcome of each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &str, &Outcome)> {
        self.0.iter().map(|(act, text, outcome)| (*act, text.as_str(), outcome))
    }

    /// Whether something was claimed and nothing was false. What was skipped does not count either way.
    pub(crate) fn hold(&self) -> bool {
        self.count(|outcome| *outcome == Outcome::True) > 0 && self.count(|outcome| *outcome == Outcome::False) == 0
    }

    /// How many ended so.
    pub(crate) fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        self.0.iter().filter(|(_, _, outcome)| which(outcome)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_false_claim_spoils_the_story_and_an_empty_one_proves_nothing() {
        let mut claims = Claims::default();
        assert!(!claims.hold());
        claims.add(1, "skipped".into(), Outcome::Skipped("no TUN".into()));
        assert!(!claims.hold());
        claims.add(1, "true".into(), Outcome::True);
        assert!(claims.hold());
        claims.add(2, "false".into(), Outcome::False);
        assert!(!claims.hold());
    }
}
