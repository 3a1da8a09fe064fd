//! What cargo says of the workspace: its members, their manifests and the packages that are really built.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::Finding;
use crate::direction::Edge;

/// The members and their direct dependencies.
#[derive(Debug, Default)]
pub struct Workspace {
    /// Packages in `crates/`.
    pub product: Vec<String>,
    /// Direct dependencies of every member.
    pub edges: Vec<Edge>,
}

/// Crates that must not be built, each with the reason.
const BANNED: &[(&str, &str)] = &[
    (
        "ring",
        "two linked providers make the rustls default panic, and ring has no post-quantum exchange; turn off the default features that pull it in",
    ),
    (
        "openssl",
        "TLS is rustls on aws-lc-rs; a second TLS library doubles what must be patched",
    ),
    (
        "openssl-sys",
        "TLS is rustls on aws-lc-rs; a second TLS library doubles what must be patched",
    ),
    (
        "native-tls",
        "TLS is rustls on aws-lc-rs; a second TLS library doubles what must be patched",
    ),
];

/// Crates of which one version only may be built: their types cross crate borders, or they hold a process-wide default.
const SINGLE: &[&str] = &["rustls", "aws-lc-rs", "aws-lc-sys", "tokio"];

/// Asks cargo for the members and their direct dependencies; needs no network.
///
/// # Panics
/// If cargo cannot read the manifests.
pub fn workspace(top: &Path) -> Workspace {
    let text = cargo(top, &["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let metadata: Value = serde_json::from_str(&text).expect("cargo metadata prints JSON");
    parse(&metadata)
}

/// Every package that any feature, target or test of the workspace really builds, as `name version`.
///
/// Not from Cargo.lock: it also locks what a weak feature names and nothing turns on.
///
/// # Panics
/// If cargo cannot resolve the workspace.
pub fn built_packages(top: &Path) -> BTreeSet<String> {
    let tree = cargo(
        top,
        &[
            "tree",
            "--workspace",
            "--target",
            "all",
            "--edges",
            "normal,build,dev",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ],
    );
    tree.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some(format!("{} {}", words.next()?, words.next()?.trim_start_matches('v')))
        })
        .collect()
}

/// Banned packages, and second versions of those that must be single, among `built`.
pub fn unwanted(built: &BTreeSet<String>) -> Vec<Finding> {
    let name = |package: &str| package.split(' ').next().unwrap_or_default().to_owned();
    let names: Vec<String> = built.iter().map(|package| name(package)).collect();
    let banned = BANNED
        .iter()
        .filter(|(crate_name, _)| names.iter().any(|n| n == crate_name));
    let doubled = SINGLE
        .iter()
        .filter(|one| names.iter().filter(|n| n == *one).count() > 1);
    banned
        .map(|(crate_name, why)| {
            Finding::new(
                "Cargo.lock",
                format!("`{crate_name}` is built: {why} (`cargo tree --target all -i {crate_name}` names who)"),
            )
        })
        .chain(doubled.map(|one| {
            Finding::new(
                "Cargo.lock",
                format!(
                    "`{one}` is built in two versions: their types do not mix (`cargo tree --target all -d` names who)"
                ),
            )
        }))
        .collect()
}

fn cargo(top: &Path, arguments: &[&str]) -> String {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program)
        .args(arguments)
        .current_dir(top)
        .output()
        .expect("cargo can be started: it started this test");
    assert!(
        output.status.success(),
        "cargo {} failed:\n{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn parse(metadata: &Value) -> Workspace {
    let mut workspace = Workspace::default();
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    for package in packages {
        let from = text(&package["name"]);
        if text(&package["manifest_path"]).replace('\\', "/").contains("/crates/") {
            workspace.product.push(from.clone());
        }
        for dependency in package["dependencies"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
        {
            workspace.edges.push(Edge {
                from: from.clone(),
                to: text(&dependency["name"]),
                ours: dependency["path"].is_string(),
                dev: dependency["kind"] == "dev",
            });
        }
    }
    workspace
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(packages: &[&str]) -> BTreeSet<String> {
        packages.iter().map(|package| (*package).to_owned()).collect()
    }

    #[test]
    fn a_second_tls_provider_is_found() {
        let found = unwanted(&built(&["rustls 0.23.46", "ring 0.17.14"]));
        assert_eq!(found.len(), 1);
        assert!(found[0].why.contains("`ring` is built"), "{}", found[0]);
    }

    #[test]
    fn two_versions_of_rustls_are_found_and_two_of_syn_are_not() {
        let found = unwanted(&built(&["rustls 0.23.46", "rustls 0.24.0", "syn 2.0.0", "syn 3.0.0"]));
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn a_crate_whose_name_begins_like_a_banned_one_is_not_found() {
        assert_eq!(unwanted(&built(&["openssl-probe 0.2.2", "ringbuf 1.0.0"])), []);
    }

    #[test]
    fn members_and_edges_are_read_from_metadata() {
        let metadata = serde_json::json!({"packages": [{
            "name": "session",
            "manifest_path": "/x/crates/session/Cargo.toml",
            "dependencies": [
                {"name": "wire", "path": "/x/crates/wire", "kind": null},
                {"name": "proptest", "kind": "dev"},
            ],
        }]});
        let workspace = parse(&metadata);
        assert_eq!(workspace.product, ["session"]);
        assert!(workspace.edges[0].ours && !workspace.edges[0].dev);
        assert!(!workspace.edges[1].ours && workspace.edges[1].dev);
    }
}
