//! What cargo's test output says in the end.

use std::fmt;

/// Results over all test programs of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Tests that held, among them those that were skipped by a line of their own.
    ok: usize,
    /// Names of the tests that did not hold.
    failed: Vec<String>,
    /// What was skipped, with the reason given.
    skipped: Vec<String>,
}

impl Summary {
    /// Reads the lines that Rust's test harness and ours print, and the `SKIPPED name: reason` lines of tests that found
    /// something missing.
    pub(crate) fn read(output: &str) -> Self {
        let mut summary = Self::default();
        for line in output.lines().map(str::trim) {
            if let Some(result) = line.strip_prefix("test result: ") {
                summary.ok += count(result, "passed");
            } else if let Some(name) = result_of(line, "FAILED") {
                summary.failed.push(name.to_owned());
            } else if line.starts_with("SKIPPED") || result_of(line, "ignored").is_some() {
                summary.skipped.push(line.to_owned());
            }
        }
        summary
    }

    /// Whether no test ran at all: then nothing has been shown.
    pub(crate) fn is_empty(&self) -> bool {
        self.ok == 0 && self.failed.is_empty()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.skipped {
            writeln!(out, "  {line}")?;
        }
        for name in &self.failed {
            writeln!(out, "  FAILED {name}")?;
        }
        let said = self.skipped.iter().filter(|line| line.starts_with("SKIPPED")).count();
        let passed = self.ok.saturating_sub(said);
        write!(
            out,
            "{passed} passed, {} failed, {} skipped",
            self.failed.len(),
            self.skipped.len()
        )
    }
}

/// The name in `test NAME ... RESULT`, also when a reason follows.
fn result_of<'a>(line: &'a str, result: &str) -> Option<&'a str> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
    rest.starts_with(result).then_some(name)
}

/// The number before `word` in "ok. 5 passed; 0 failed; ...".
fn count(result: &str, word: &str) -> usize {
    let mut words = result.split([' ', ';', ',']).filter(|part| !part.is_empty());
    let mut before = "";
    words
        .find_map(|part| {
            let number = (part == word).then(|| before.parse().ok()).flatten();
            before = part;
            number
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 3 tests
test frame::a_frame_is_a_record ... ok
test frame::broken ... FAILED
test slow ... ignored, takes an hour
test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

SKIPPED interop_password: ocserv is not installed
test interop_password ... ok
test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s
";

    #[test]
    fn results_of_several_programs_are_added_up() {
        let text = Summary::read(OUTPUT).to_string();
        assert!(text.ends_with("\n4 passed, 1 failed, 2 skipped"), "{text}");
        assert!(text.contains("FAILED frame::broken"));
        assert!(text.contains("ocserv is not installed"));
    }

    #[test]
    fn a_run_without_tests_is_empty() {
        let output = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.00s";
        assert!(Summary::read(output).is_empty());
        assert!(!Summary::read(OUTPUT).is_empty());
    }
}
