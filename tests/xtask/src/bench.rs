//! Our tunnel beside others: builds ours as it is shipped, fetches and builds theirs, and runs `tests/bench`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::run::{cargo, executable};
use crate::tools;

/// Tunnels of the Rust registry: what the measurement calls them, and the crates with their programs. Built with their own lock files, outside our
/// tree of dependencies.
const CRATES: &[(&str, &[&str])] = &[
    ("boringtun", &["boringtun-cli@0.7.1"]),
    ("quincy", &["quincy-client@3.1.1", "quincy-server@3.1.1"]),
];

const MANIFEST: &str = "tests/bench/Cargo.toml";

/// What is measured, and how.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How often everybody takes a turn; the medians are told.
    #[arg(long, default_value_t = 3)]
    rounds: u16,
    /// Whom to measure, such as marmot,openconnect; a wrong name lists all. Everybody without this.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// How long each load lasts, in seconds.
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// The document that gets the tables, such as docs/PERFORMANCE.md; the picture goes beside it.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Measures.
pub(crate) fn beside_others(arguments: &Arguments) -> Result<ExitCode> {
    tools::provide_for_bench();
    let marmot = build_marmot()?;
    // TARGET/release/marmot
    let target = marmot
        .ancestors()
        .nth(2)
        .context("a program lies in a folder of a profile")?;
    let peers = target.join("bench-peers");
    for (name, crates) in CRATES {
        if arguments.peers.is_empty() || arguments.peers.iter().any(|peer| peer == name) {
            for one in *crates {
                install(one, &peers, target);
            }
        }
    }
    let mut command = cargo();
    command
        .args([
            "run",
            "--release",
            "--quiet",
            "--manifest-path",
            MANIFEST,
            "--target-dir",
        ])
        .arg(target)
        .args([
            "--",
            "--rounds",
            &arguments.rounds.to_string(),
            "--seconds",
            &arguments.seconds.to_string(),
        ])
        .env("MARMOT_BIN", &marmot)
        .env("MARMOT_BENCH_BIN", &peers);
    if !arguments.peers.is_empty() {
        command.args(["--peers", &arguments.peers.join(",")]);
    }
    if let Some(out) = &arguments.out {
        command.arg("--out").arg(out);
    }
    let status = command.status().context("cannot start cargo")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// As it is shipped.
fn build_marmot() -> Result<PathBuf> {
    let output = cargo()
        .args([
            "build",
            "--release",
            "--package",
            "marmot",
            "--message-format",
            "json-render-diagnostics",
        ])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "the build failed");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(executable)
        .context("cargo built no program named `marmot`")
}

/// Builds a program of the registry unless it is there. Whoever cannot be built is named as missing by the measurement.
fn install(one: &str, root: &Path, target: &Path) {
    let built = fs::read_to_string(root.join(".crates.toml")).unwrap_or_default();
    if built.contains(&format!("\"{} ", one.replace('@', " "))) {
        return;
    }
    println!("Building {one} to compare with");
    let status = cargo()
        .args(["install", "--locked", "--quiet", one, "--root"])
        .arg(root)
        .arg("--target-dir")
        .arg(target.join("bench-build"))
        .status();
    if !status.is_ok_and(|status| status.success()) {
        eprintln!("{one} cannot be built");
    }
}
