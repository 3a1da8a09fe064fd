//! The programs of systemd that an installation calls.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// systemd makes this folder when it is the host's first process (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// What of systemd there is to talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// It runs this host.
    Running,
    /// Its files are looked after, but it does not run: an image, a container.
    Files,
}

/// Below another root nothing is running, whatever runs here.
pub(super) fn reach(root: &Path) -> Reach {
    if root == Path::new("/") && Path::new(BOOTED).is_dir() {
        Reach::Running
    } else {
        Reach::Files
    }
}

/// Runs a program and returns what it wrote to standard output. `ran` gets the command as a line.
pub(super) fn run(words: &[&str], root: &Path, ran: &mut Vec<String>) -> Result<String> {
    let (program, arguments) = words.split_first().context("a command has a name")?;
    let mut all: Vec<OsString> = Vec::new();
    if root != Path::new("/") {
        let mut option = OsString::from("--root=");
        option.push(root);
        all.push(option);
    }
    all.extend(arguments.iter().map(OsString::from));
    let line = std::iter::once((*program).to_owned()).chain(all.iter().map(|word| word.to_string_lossy().into_owned()));
    let line = line.collect::<Vec<_>>().join(" ");
    let output = Command::new(program).args(&all).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed with {}: {}", output.status, said.trim());
    }
    ran.push(line);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
