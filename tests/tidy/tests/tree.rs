//! Every rule of tidy over the real tree.

use tidy::tree::{File, files, top};
use tidy::{Finding, assert_clean, direction, documents, graph, sources};

fn each(rule: fn(&File) -> Vec<Finding>) -> Vec<Finding> {
    files().iter().flat_map(rule).collect()
}

fn text<'a>(files: &'a [File], path: &str) -> &'a str {
    let file = files.iter().find(|file| file.path == path);
    &file.unwrap_or_else(|| panic!("{path} is missing")).text
}

#[test]
fn dependencies_point_down() {
    let workspace = graph::workspace(&top());
    assert!(workspace.product.len() >= 12, "the crates were not found");
    assert_clean(&direction::wrong_way(&workspace.edges));
}

#[test]
fn every_crate_has_a_rule() {
    assert_clean(&direction::unruled(&graph::workspace(&top()).product));
}

#[test]
fn pure_crates_are_fenced() {
    assert_clean(&sources::impure(&files()));
}

#[test]
fn one_tls_provider_and_one_runtime_are_built() {
    let built = graph::built_packages(&top());
    assert!(
        built.iter().any(|package| package.starts_with("rustls ")),
        "the packages were not found"
    );
    assert_clean(&graph::unwanted(&built));
}

#[test]
fn only_platform_touches_the_system() {
    assert_clean(&each(sources::system_outside_platform));
}

#[test]
fn source_files_hold_one_idea() {
    assert_clean(&each(sources::too_long));
}

#[test]
fn source_files_say_what_they_are() {
    assert_clean(&each(sources::without_header));
}

#[test]
fn tests_wait_for_events() {
    assert_clean(&each(sources::sleep_in_test));
}

#[test]
fn nothing_is_marked_unfinished() {
    assert_clean(&each(sources::unfinished));
}

#[test]
fn decisions_are_numbered_and_listed() {
    assert_clean(&documents::misnumbered(&files()));
}

#[test]
fn every_external_crate_has_its_reason() {
    let files = files();
    assert_clean(&documents::unexplained(
        text(&files, "Cargo.toml"),
        text(&files, documents::DEPENDENCIES),
    ));
}

#[test]
fn members_inherit_lints_and_versions() {
    let members = |file: &File| {
        let folder = file.path.starts_with("crates/") || file.path.starts_with("tests/");
        let apart = ["tests/bench/", "tests/differential/", "tests/fuzz/"];
        let apart = apart.iter().any(|folder| file.path.starts_with(folder));
        let member = folder && file.path.ends_with("/Cargo.toml") && !apart;
        if member { documents::unpinned(file) } else { Vec::new() }
    };
    assert_clean(&each(members));
}
