//! What an installation did, for people and for programs.

use std::path::Path;

use serde_json::json;

use crate::exit::answer;

/// What was done, in this order.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Files that were written anew or replaced.
    pub(super) written: Vec<String>,
    /// Files that were there already, as they should be.
    pub(super) unchanged: Vec<String>,
    /// Files that were removed.
    pub(super) removed: Vec<String>,
    /// Files that stay, each with the reason.
    pub(super) kept: Vec<String>,
    /// Commands that were run.
    pub(super) ran: Vec<String>,
    /// What remains to be done or known.
    pub(super) remarks: Vec<String>,
}

impl Report {
    /// Writes it to standard output.
    pub(super) fn print(&self, unit: &str, json: bool) {
        answer(&if json { self.json(unit) } else { self.text() });
    }

    fn json(&self, unit: &str) -> String {
        let object = json!({
            "version": 1,
            "unit": unit,
            "written": self.written,
            "unchanged": self.unchanged,
            "removed": self.removed,
            "kept": self.kept,
            "ran": self.ran,
            "remarks": self.remarks,
        });
        format!("{object}\n")
    }

    fn text(&self) -> String {
        let lists = [
            ("wrote", &self.written),
            ("is there already:", &self.unchanged),
            ("removed", &self.removed),
            ("kept", &self.kept),
            ("ran", &self.ran),
        ];
        let mut text = String::new();
        for (verb, list) in lists {
            for item in list {
                text.push_str(&format!("{verb} {item}\n"));
            }
        }
        for remark in &self.remarks {
            text.push_str(&format!("{remark}\n"));
        }
        if text.is_empty() {
            text.push_str("nothing was installed, so nothing was removed\n");
        }
        text
    }
}

/// A path as it is named in a report.
pub(super) fn named(path: &Path) -> String {
    path.display().to_string()
}
