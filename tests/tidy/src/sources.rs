//! Rules over single source files.

use crate::Finding;
use crate::code::{code_only, has_word};
use crate::direction::RULES;
use crate::tree::File;

/// Longest source file, in lines. Typical files have 100 to 250; past 600 there is a second idea in it, and 700 leaves
/// room to finish a thought before the split.
pub const LINES_MAX: usize = 700;

/// Fewest words of a file's first sentence: fewer say no more than the file's name.
const HEADER_WORDS_MIN: usize = 3;

/// Source files longer than [`LINES_MAX`].
pub fn too_long(file: &File) -> Vec<Finding> {
    let lines = file.text.lines().count();
    if !file.is_rust() || lines <= LINES_MAX {
        return Vec::new();
    }
    let why = format!("{lines} lines, at most {LINES_MAX}: find the second idea in it and give it a file");
    vec![Finding::new(file.at(LINES_MAX + 1), why)]
}

/// Source files that do not begin by saying what they are.
pub fn without_header(file: &File) -> Vec<Finding> {
    if !file.is_rust() {
        return Vec::new();
    }
    let first = file.text.lines().next().unwrap_or_default();
    let header = first.strip_prefix("//!").unwrap_or_default();
    if header.split_whitespace().count() >= HEADER_WORDS_MIN {
        return Vec::new();
    }
    let why = "the first line is no `//!` sentence: a reader must learn here what the file is, before any code";
    vec![Finding::new(file.at(1), why)]
}

/// `unsafe`, `libc` and conditions on the operating system outside `platform`. Tests beside the product are free.
pub fn system_outside_platform(file: &File) -> Vec<Finding> {
    if !file.is_rust() || file.product_crate().is_none_or(|name| name == "platform") {
        return Vec::new();
    }
    code_lines(file)
        .filter_map(|(number, line)| system_word(&line).map(|what| (number, what)))
        .map(|(number, what)| {
            Finding::new(
                file.at(number),
                format!("{what} outside crates/platform: everything that differs between systems, or that the compiler cannot check, is in one place; give `platform` a function"),
            )
        })
        .collect()
}

/// A sleep in a test. It is too short on a slow machine and wasted on a fast one.
pub fn sleep_in_test(file: &File) -> Vec<Finding> {
    if !file.is_rust() {
        return Vec::new();
    }
    let test_file = file.path.starts_with("tests/") || file.path.contains("/tests/") || file.path.contains("/benches/");
    let mut in_tests = test_file;
    let mut findings = Vec::new();
    for (number, line) in code_lines(file) {
        in_tests |= line.contains("#[cfg(test)]");
        if in_tests && sleeps(&line) {
            let why = "a sleep in a test is too short on a slow machine and wasted on a fast one: wait for an event with a deadline";
            findings.push(Finding::new(file.at(number), why));
        }
    }
    findings
}

/// Marks of unfinished work.
pub fn unfinished(file: &File) -> Vec<Finding> {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let lines = file.text.lines().enumerate();
    lines
        .filter(|(_, line)| marks.iter().any(|mark| has_word(line, mark)))
        .map(|(index, _)| {
            let why = "a mark of unfinished work: do it, or file an issue that somebody will find";
            Finding::new(file.at(index + 1), why)
        })
        .collect()
}

/// Pure crates that do not forbid unsafe code, or whose `clippy.toml` is missing or not the common one.
pub fn impure(files: &[File]) -> Vec<Finding> {
    let text = |path: &str| {
        files
            .iter()
            .find(|file| file.path == path)
            .map(|file| file.text.as_str())
    };
    let pure: Vec<&str> = RULES.iter().filter(|rule| rule.pure).map(|rule| rule.name).collect();
    let common = pure
        .first()
        .and_then(|name| text(&format!("crates/{name}/clippy.toml")));
    let mut findings = Vec::new();
    for name in pure {
        let root = format!("crates/{name}/src/lib.rs");
        if !text(&root).is_some_and(|source| code_only(source).contains("#![forbid(unsafe_code)]")) {
            let why = "`#![forbid(unsafe_code)]` is missing: pure crates read what strangers send";
            findings.push(Finding::new(format!("{root}:1"), why));
        }
        let lints = format!("crates/{name}/clippy.toml");
        if text(&lints).is_none() || text(&lints) != common {
            let why = "is missing or differs from that of the first pure crate: it keeps clocks, files, sockets and threads out; copy it";
            findings.push(Finding::new(lints, why));
        }
    }
    findings
}

fn code_lines(file: &File) -> impl Iterator<Item = (usize, String)> {
    let code = code_only(&file.text);
    let lines: Vec<String> = code.lines().map(str::to_owned).collect();
    lines.into_iter().enumerate().map(|(index, line)| (index + 1, line))
}

fn system_word(line: &str) -> Option<&'static str> {
    let condition = line.contains("cfg(") || line.contains("cfg!(") || line.contains("cfg_attr(");
    let named = ["target_os", "target_family", "unix", "windows"];
    if has_word(line, "unsafe") {
        Some("`unsafe`")
    } else if has_word(line, "libc") {
        Some("`libc`")
    } else if condition && named.iter().any(|word| has_word(line, word)) {
        Some("a condition on the operating system")
    } else {
        None
    }
}

fn sleeps(line: &str) -> bool {
    let path = ["thread", "time"].iter().any(|module| {
        let call = format!("{module}::sleep");
        let import = format!("{module}::{{");
        has_word(line, &call) || (line.contains(&import) && has_word(line, "sleep"))
    });
    path && has_word(line, "sleep")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.place.as_str()).collect()
    }

    #[test]
    fn a_file_of_701_lines_is_found_and_one_of_700_is_not() {
        assert_eq!(too_long(&File::new("a.rs", &"x\n".repeat(LINES_MAX))), []);
        let found = too_long(&File::new("a.rs", &"x\n".repeat(LINES_MAX + 1)));
        assert_eq!(places(&found), ["a.rs:701"]);
    }

    #[test]
    fn a_file_without_a_sentence_at_its_top_is_found() {
        assert_eq!(without_header(&File::new("a.rs", "//! What this file is for.\n")), []);
        for text in [
            "",
            "use std::fs;\n",
            "//! (placeholder)\n",
            "// Not a doc comment at all.\n",
        ] {
            assert_eq!(
                places(&without_header(&File::new("a.rs", text))),
                ["a.rs:1"],
                "{text:?}"
            );
        }
    }

    #[test]
    fn system_code_is_found_outside_platform_only() {
        for line in [
            "let x = unsafe { y() };",
            "libc::close(3);",
            "use libc as c;",
            "#[cfg(target_os = \"linux\")]",
            "if cfg!(windows) {",
            "#[cfg(not(unix))]",
            "#[cfg_attr(target_family = \"unix\", path = \"x.rs\")]",
        ] {
            let text = format!("//! x\n{line}\n");
            let found = system_outside_platform(&File::new("crates/client/src/a.rs", &text));
            assert_eq!(places(&found), ["crates/client/src/a.rs:2"], "{line}");
            assert_eq!(
                system_outside_platform(&File::new("crates/platform/src/a.rs", &text)),
                []
            );
            assert_eq!(system_outside_platform(&File::new("tests/lab/src/a.rs", &text)), []);
        }
    }

    #[test]
    fn words_that_only_look_like_system_code_are_not_found() {
        let text =
            "#![forbid(unsafe_code)]\n// unsafe\nlet x = \"libc::close\";\n#[cfg(test)]\nlet windows = v.windows(2);\n";
        assert_eq!(system_outside_platform(&File::new("crates/client/src/a.rs", text)), []);
    }

    #[test]
    fn a_sleep_is_found_in_tests_and_left_alone_in_the_product() {
        let calls = [["thread", "sleep(x)"], ["tokio::time", "sleep(x)"]].map(|path| path.join("::"));
        for call in calls {
            let inside = format!("//! x\n#[cfg(test)]\nmod tests {{\n{call};\n}}\n");
            assert_eq!(
                places(&sleep_in_test(&File::new("crates/a/src/b.rs", &inside))),
                ["crates/a/src/b.rs:4"]
            );
            let test = format!("{call};\n");
            assert_eq!(
                places(&sleep_in_test(&File::new("tests/lab/src/b.rs", &test))),
                ["tests/lab/src/b.rs:1"]
            );
            assert_eq!(sleep_in_test(&File::new("crates/a/src/b.rs", &test)), []);
        }
        let import = File::new("tests/lab/src/b.rs", "use std::thread::{self, sleep};\n");
        assert_eq!(sleep_in_test(&import).len(), 1);
    }

    #[test]
    fn waiting_with_a_deadline_is_no_sleep() {
        let until = ["tokio::time::", "sleep_until(deadline).await;"].concat();
        let text = format!("{until}\ntokio::time::timeout(x, y).await;\nfn sleep() {{}}\n");
        assert_eq!(sleep_in_test(&File::new("tests/lab/src/b.rs", &text)), []);
    }

    #[test]
    fn a_mark_of_unfinished_work_is_found_in_any_text() {
        let text = format!("fine\n# {}: later\n", ["TO", "DO"].concat());
        assert_eq!(places(&unfinished(&File::new("docs/a.md", &text))), ["docs/a.md:2"]);
    }

    #[test]
    fn a_pure_crate_without_its_fences_is_found() {
        let pure = RULES.iter().filter(|rule| rule.pure);
        let mut files: Vec<File> = pure
            .flat_map(|rule| {
                [
                    File::new(
                        &format!("crates/{}/src/lib.rs", rule.name),
                        "//! x\n#![forbid(unsafe_code)]\n",
                    ),
                    File::new(&format!("crates/{}/clippy.toml", rule.name), "same\n"),
                ]
            })
            .collect();
        assert_eq!(impure(&files), []);
        for file in &mut files {
            match file.path.as_str() {
                "crates/wire/src/lib.rs" => file.text = "//! x\n// #![forbid(unsafe_code)]\n".to_owned(),
                "crates/plan/clippy.toml" => file.text = "other\n".to_owned(),
                _ => {}
            }
        }
        files.retain(|file| file.path != "crates/session/clippy.toml");
        let found = impure(&files);
        assert_eq!(
            places(&found),
            [
                "crates/wire/src/lib.rs:1",
                "crates/plan/clippy.toml",
                "crates/session/clippy.toml"
            ]
        );
    }
}
