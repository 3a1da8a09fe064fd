//! Rules over manifests and decision records.

use std::collections::BTreeSet;

use toml::Table;

use crate::Finding;
use crate::tree::File;

/// Folder of the decision records.
pub const DECISIONS: &str = "docs/decisions/";

/// Record that has one line per external crate.
pub const DEPENDENCIES: &str = "docs/decisions/0002-dependencies.md";

/// Decision records that are misnamed, out of sequence, mistitled, or missing from the index.
pub fn misnumbered(files: &[File]) -> Vec<Finding> {
    let records: Vec<&File> = files.iter().filter(|file| file.path.starts_with(DECISIONS)).collect();
    let index = records.iter().find(|file| file.path.ends_with("/README.md"));
    let mut findings = Vec::new();
    let numbered = records.iter().filter(|file| !file.path.ends_with("/README.md"));
    for (before, file) in numbered.enumerate() {
        let name = &file.path[DECISIONS.len()..];
        let number = format!("{:04}", before + 1);
        if !name.starts_with(&format!("{number}-")) || !name.ends_with(".md") {
            let why = format!(
                "should be named {number}-what-it-is-about.md: records are numbered in the order of the decisions, without gaps"
            );
            findings.push(Finding::new(&file.path, why));
        } else if !file.text.starts_with(&format!("# {number}: ")) {
            findings.push(Finding::new(
                file.at(1),
                format!("the title should begin with `# {number}: `, as others cite it by number"),
            ));
        }
        if !index.is_some_and(|index| index.text.contains(name)) {
            findings.push(Finding::new(
                &file.path,
                format!("is not listed in {DECISIONS}README.md, so nobody will find it"),
            ));
        }
    }
    findings
}

/// External crates in the root manifest without a line in `record`, and lines there for crates that are gone.
///
/// # Panics
/// If `manifest` is no TOML: cargo has read it before.
pub fn unexplained(manifest: &str, record: &str) -> Vec<Finding> {
    let manifest: Table = manifest.parse().expect("cargo has read this manifest");
    let wanted = external(&manifest);
    let explained: BTreeSet<&str> = record
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let missing = wanted
        .iter()
        .filter(|name| !explained.contains(name.as_str()))
        .map(|name| {
            Finding::new(
                "Cargo.toml",
                format!(
                    "`{name}` has no line in {DEPENDENCIES}: say what for, who keeps it and what we would write instead"
                ),
            )
        });
    let stale = explained.iter().filter(|name| !wanted.contains(**name)).map(|name| {
        Finding::new(
            DEPENDENCIES,
            format!("explains `{name}`, which is no longer in [workspace.dependencies]"),
        )
    });
    missing.chain(stale).collect()
}

/// A member's manifest that does not inherit the lints, or names a version of its own.
///
/// # Panics
/// If a manifest is no TOML: cargo has read it before.
pub fn unpinned(file: &File) -> Vec<Finding> {
    let manifest: Table = file.text.parse().expect("cargo has read this manifest");
    let inherits = |table: Option<&toml::Value>| {
        table.and_then(|t| t.get("workspace")).and_then(toml::Value::as_bool) == Some(true)
    };
    let mut findings = Vec::new();
    if !inherits(manifest.get("lints")) {
        findings.push(Finding::new(
            &file.path,
            "lacks `[lints] workspace = true`: the same lints hold everywhere",
        ));
    }
    for (table, dependencies) in dependency_tables(&manifest) {
        for (name, value) in dependencies {
            if !inherits(Some(value)) {
                let why =
                    format!("`{name}` in [{table}] should say `workspace = true`: versions are pinned in one place");
                findings.push(Finding::new(&file.path, why));
            }
        }
    }
    findings
}

/// The dependency tables of a manifest by name, those for one system included.
fn dependency_tables(manifest: &Table) -> Vec<(&'static str, &Table)> {
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let targets = targets
        .into_iter()
        .flatten()
        .filter_map(|(_, target)| target.as_table());
    std::iter::once(manifest)
        .chain(targets)
        .flat_map(|place| {
            let tables = ["dependencies", "dev-dependencies", "build-dependencies"];
            tables.map(|name| Some((name, place.get(name)?.as_table()?)))
        })
        .flatten()
        .collect()
}

fn external(manifest: &Table) -> BTreeSet<String> {
    let dependencies = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get("dependencies"))
        .and_then(toml::Value::as_table);
    dependencies
        .into_iter()
        .flatten()
        .filter(|(_, value)| value.get("path").is_none())
        .map(|(name, _)| name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, text: &str) -> File {
        File::new(&format!("{DECISIONS}{name}"), text)
    }

    #[test]
    fn records_in_order_with_their_titles_are_clean() {
        let files = [
            record("0001-a.md", "# 0001: A\n"),
            record("0002-b.md", "# 0002: B\n"),
            record("README.md", "0001-a.md 0002-b.md"),
        ];
        assert_eq!(misnumbered(&files), []);
    }

    #[test]
    fn a_gap_a_wrong_title_and_an_unlisted_record_are_found() {
        let files = [
            record("0001-a.md", "# A\n"),
            record("0003-b.md", "# 0003: B\n"),
            record("README.md", "0001-a.md"),
        ];
        let found: Vec<String> = misnumbered(&files).into_iter().map(|finding| finding.place).collect();
        assert_eq!(
            found,
            [
                "docs/decisions/0001-a.md:1",
                "docs/decisions/0003-b.md",
                "docs/decisions/0003-b.md"
            ]
        );
    }

    #[test]
    fn a_crate_without_a_reason_and_a_reason_without_a_crate_are_found() {
        let manifest = "[workspace.dependencies]\nours = { path = \"x\" }\nbytes = \"1\"\nleft-pad = \"1\"\n";
        let found = unexplained(manifest, "| `bytes` | buffers |\n| `gone` | nothing |\n");
        assert_eq!(found.len(), 2);
        assert!(found[0].why.contains("left-pad"));
        assert!(found[1].why.contains("gone"));
    }

    #[test]
    fn a_version_outside_the_workspace_table_and_missing_lints_are_found() {
        let good = "[lints]\nworkspace = true\n[dependencies]\na.workspace = true\nb = { workspace = true, optional = true }\n";
        assert_eq!(unpinned(&File::new("crates/a/Cargo.toml", good)), []);
        let bad = "[dev-dependencies]\na = \"1\"\n[target.'cfg(windows)'.dependencies]\nb = \"1\"\n";
        assert_eq!(unpinned(&File::new("crates/a/Cargo.toml", bad)).len(), 3);
    }
}
