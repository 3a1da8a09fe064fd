//! What a check found, line by line.

use std::path::Path;

/// The findings of one file.
#[derive(Debug)]
pub(crate) struct Report {
    lines: Vec<(Verdict, String)>,
    title: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Doubtful,
    Wrong,
}

impl Report {
    pub(crate) fn new(title: String) -> Self {
        Report {
            lines: Vec::new(),
            title,
        }
    }

    /// Something was looked at and is as it should be.
    pub(crate) fn good(&mut self, text: String) {
        self.lines.push((Verdict::Good, text));
    }

    /// Something works today and may not be meant so.
    pub(crate) fn doubtful(&mut self, text: String) {
        self.lines.push((Verdict::Doubtful, text));
    }

    /// Something will not work.
    pub(crate) fn wrong(&mut self, text: String) {
        self.lines.push((Verdict::Wrong, text));
    }

    /// Looks at who may read a file with secrets; returns whether only those may who should.
    pub(crate) fn private(&mut self, key: &str, path: &Path) -> bool {
        let checked = platform::files::check_private(path);
        if let Err(error) = &checked {
            self.wrong(format!("{key}: {error}"));
        }
        checked.is_ok()
    }

    /// How many things will not work.
    pub(crate) fn mistakes(&self) -> usize {
        self.lines
            .iter()
            .filter(|(verdict, _)| *verdict == Verdict::Wrong)
            .count()
    }

    /// The report for people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n", self.title);
        for (verdict, line) in &self.lines {
            let word = match verdict {
                Verdict::Good => "good   ",
                Verdict::Doubtful => "warning",
                Verdict::Wrong => "error  ",
            };
            text.push_str(&format!("  {word}  {}\n", line.replace('\n', "\n           ")));
        }
        if self.mistakes() == 0 {
            text.push_str("  good     no mistakes\n");
        }
        text
    }
}
