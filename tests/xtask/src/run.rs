//! Building and running the tests.

use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::summary::Summary;
use crate::tools;

/// Runs the tests, or with `long` those that take minutes, and prints what happened.
///
/// Test programs run one after another, as cargo does it: those with namespaces, ports and clocks of their own still
/// share two cores.
pub(crate) fn tests(long: bool, filter: Option<&str>) -> Result<ExitCode> {
    let began = Instant::now();
    let marmot = build()?;
    let mut command = cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .env("MARMOT_BIN", marmot);
    if long {
        // Long tests are programs of their own; the tests beside the code have run before.
        command.args(["--test", "*"]).env("MARMOT_LONG", "1");
    }
    command.args(filter);
    let (status, output) = run_and_listen(&mut command)?;
    report(&Summary::read(&output, status.success()), status, began)
}

fn report(summary: &Summary, status: ExitStatus, began: Instant) -> Result<ExitCode> {
    println!("\nEverything took {} s.\n{summary}", began.elapsed().as_secs());
    ensure!(!summary.is_empty(), "no test ran, so nothing was shown");
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds everything that `cargo test` needs, and the `marmot` program that lab and interop tests start, in one go: built
/// apart, both would want the same libraries with different features, twice. MARMOT_BIN chooses another program.
fn build() -> Result<PathBuf> {
    let output = cargo()
        .args([
            "build",
            "--workspace",
            "--all-targets",
            "--message-format",
            "json-render-diagnostics",
        ])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the build failed");
    }
    if let Some(chosen) = env::var_os("MARMOT_BIN") {
        return Ok(chosen.into());
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(executable)
        .context("cargo built no program named `marmot`")
}

/// The path of the `marmot` program, if this message of cargo announces it.
pub(crate) fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let program = message["target"]["name"] == "marmot" && message["target"]["kind"] == serde_json::json!(["bin"]);
    let product = message["profile"]["test"] == false;
    let path = message["executable"].as_str()?;
    (program && product).then(|| path.into())
}

fn run_and_listen(command: &mut Command) -> Result<(ExitStatus, String)> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let mut pipe = child.stdout.take().context("cargo has no output")?;
    let mut heard = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let length = pipe.read(&mut chunk).context("cannot read what the tests say")?;
        if length == 0 {
            break;
        }
        io::stdout().write_all(&chunk[..length])?;
        io::stdout().flush()?;
        heard.extend_from_slice(&chunk[..length]);
    }
    let status = child.wait().context("cannot wait for cargo")?;
    Ok((status, String::from_utf8_lossy(&heard).into_owned()))
}

pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.env("PATH", tools::search_path());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_and_its_test_build_is_not() {
        let message = |kind: &str, test: bool| {
            serde_json::json!({
                "target": {"name": "marmot", "kind": [kind]},
                "profile": {"test": test},
                "executable": "/x/marmot",
            })
            .to_string()
        };
        assert_eq!(executable(&message("bin", false)), Some(PathBuf::from("/x/marmot")));
        assert_eq!(executable(&message("bin", true)), None);
        assert_eq!(executable(&message("test", false)), None);
        assert_eq!(executable("not json"), None);
    }
}
