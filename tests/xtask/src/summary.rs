//! What cargo's test output says in the end.

use std::fmt;

/// Results over all test programs of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Tests that held, among them those that were skipped by a line of their own.
    ok: usize,
    /// Tests that did not hold.
    failed: usize,
    /// What is known of those by name, or as a sentence.
    failures: Vec<String>,
    /// What was skipped, with the reason given.
    skipped: Vec<String>,
}

impl Summary {
    /// Reads the lines that Rust's test harness and ours print, the `SKIPPED name: reason` lines of tests that found
    /// something missing, and the `SKIPPED: reason` lines of programs that ran no test for that. `held` is whether cargo
    /// was content.
    pub(crate) fn read(output: &str, held: bool) -> Self {
        let mut summary = Self::default();
        for line in output.lines().map(str::trim) {
            if let Some(result) = line.strip_prefix("test result: ") {
                summary.ok += count(result, "passed");
                summary.failed += count(result, "failed");
            } else if let Some((name, _)) = result_of(line, "FAILED") {
                summary.failures.push(name.to_owned());
            } else if line.starts_with("SKIPPED") || result_of(line, "ignored").is_some() {
                summary.skipped.push(line.to_owned());
            } else if let Some((_, said)) = result_of(line, "SKIPPED") {
                summary.skipped.push(said.to_owned());
            }
        }
        if !held && summary.failed == 0 {
            summary.failed = 1;
            let sentence = "a test program ended without a result: see above";
            summary.failures.push(sentence.to_owned());
        }
        summary
    }

    /// Whether no test ran at all: then nothing has been shown.
    pub(crate) fn is_empty(&self) -> bool {
        self.ok == 0 && self.failed == 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.skipped {
            writeln!(out, "  {line}")?;
        }
        for name in &self.failures {
            writeln!(out, "  FAILED {name}")?;
        }
        let said = self.skipped.iter().filter(|line| line.starts_with("SKIPPED ")).count();
        let passed = self.ok.saturating_sub(said);
        write!(
            out,
            "{passed} passed, {} failed, {} skipped",
            self.failed,
            self.skipped.len()
        )
    }
}

/// The name in `test NAME ... RESULT`, and the result with what follows it.
fn result_of<'a>(line: &'a str, result: &str) -> Option<(&'a str, &'a str)> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
    rest.starts_with(result).then_some((name, rest))
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

SKIPPED: tests on a real kernel: no namespaces
SKIPPED interop_password: ocserv is not installed
test interop_password ... ok
test interop_certificate ... SKIPPED interop_certificate: certtool is not installed
ok
test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s
";

    #[test]
    fn results_of_several_programs_are_added_up() {
        let text = Summary::read(OUTPUT, false).to_string();
        assert!(text.ends_with("\n3 passed, 1 failed, 4 skipped"), "{text}");
        assert!(text.contains("FAILED frame::broken"));
        assert!(text.contains("SKIPPED interop_password: ocserv is not installed"));
        assert!(text.contains("SKIPPED interop_certificate: certtool is not installed"));
    }

    #[test]
    fn a_program_that_died_without_a_result_is_a_failure() {
        let text = Summary::read("test long ... ", false).to_string();
        assert!(text.ends_with("\n0 passed, 1 failed, 0 skipped"), "{text}");
    }

    #[test]
    fn a_run_without_tests_is_empty() {
        let output = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.00s";
        assert!(Summary::read(output, true).is_empty());
        assert!(!Summary::read(OUTPUT, false).is_empty());
    }
}
