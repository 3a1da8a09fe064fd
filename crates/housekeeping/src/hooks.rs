//! The administrator's executables: which there are, and running one of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf, absolute};

use platform::children::{Ending, Finished, Hook, trusted_executable};
use platform::files::is_executable;
use platform::service::Descriptor;
use tracing::{debug, info};

use crate::Settings;

/// Most executables in the folder. Each may take its whole time limit, one after the other.
pub const MAX_HOOKS: usize = 64;

/// Longest name of an executable, in bytes: it is noted in the job.
const MAX_NAME: usize = 64;

/// Characters of a hook's last line of output that an error repeats.
const MAX_LAST_WORDS: usize = 160;

/// One executable of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) name: String,
    /// Where it is, or why it is not run, as the end of a sentence about it.
    pub(crate) program: Result<PathBuf, String>,
}

impl Found {
    /// The word under which it is noted as done.
    pub(crate) fn word(&self) -> String {
        format!("hooks/{}", self.name)
    }
}

/// The executables in a folder, sorted by name. Hidden files, backups (`~`), folders and files that are not executable are
/// none. A folder that does not exist has none. Blocks.
///
/// # Errors
/// Why the folder cannot be read, in words.
pub(crate) fn list(folder: &Path) -> Result<Vec<Found>, String> {
    let failed = |error: io::Error| format!("cannot read {}: {error}", folder.display());
    let folder = &absolute(folder).map_err(failed)?;
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        let path = entry.path();
        let program = match is_executable(&path) {
            Ok(false) => continue,
            Ok(true) if !is_plain(&name) => {
                Err("has a name with characters other than A-Z, a-z, 0-9, _, . and -, or a long one".to_owned())
            }
            Ok(true) => trusted_executable(&path),
            Err(error) => Err(format!("cannot be looked at: {error}")),
        };
        found.push(Found {
            name: shown(&name),
            program,
        });
        if found.len() > MAX_HOOKS {
            return Err(format!("{} has more than {MAX_HOOKS} executables", folder.display()));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// What became of a hook.
pub(crate) enum Run {
    Done,
    Failed(String),
    /// A stop came first.
    Stopped,
}

/// Runs a hook until it ends, its time is over, or `stop` is ready. Whatever becomes of us, `lock` is held until nothing is left
/// of the hook: nobody else may run it meanwhile.
pub(crate) async fn run(
    name: &str,
    program: PathBuf,
    (env, lock): (Vec<(String, String)>, Descriptor),
    settings: &Settings,
    stop: impl Future<Output = ()>,
) -> Run {
    let hook = Hook {
        program,
        env,
        time_limit: settings.hook_timeout,
        output_limit: settings.hook_output,
        keep: Some(lock),
    };
    match hook.run_until(stop).await {
        Err(error) => Run::Failed(format!("hook {name} could not be started: {error}")),
        Ok(Finished {
            ending: Ending::Stopped,
            ..
        }) => Run::Stopped,
        Ok(finished) => judge(name, &finished, settings),
    }
}

fn judge(name: &str, finished: &Finished, settings: &Settings) -> Run {
    let (took_ms, left_out) = (finished.took.as_millis(), finished.left_out);
    let output = finished.output.as_str();
    if finished.succeeded() {
        debug!(hook = name, took_ms, left_out, output, "hook done");
        return Run::Done;
    }
    let ending = match finished.ending {
        Ending::TimedOut => format!("timed out after {} s", settings.hook_timeout.as_secs_f64()),
        ending @ (Ending::Exited(_) | Ending::Killed(_) | Ending::Stopped) => ending.to_string(),
    };
    info!(hook = name, %ending, took_ms, left_out, output, "hook failed");
    let words = last_words(output);
    let separator = if words.is_empty() { "" } else { ": " };
    Run::Failed(format!("hook {name}: {ending}{separator}{words}"))
}

/// The last line that is not empty.
fn last_words(output: &str) -> String {
    let last = output.lines().rev().map(str::trim).find(|line| !line.is_empty());
    last.unwrap_or_default().chars().take(MAX_LAST_WORDS).collect()
}

fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    name.len() <= MAX_NAME && name.bytes().all(plain)
}

fn shown(name: &str) -> String {
    let printable = |c: char| if c.is_control() { '?' } else { c };
    name.chars().take(MAX_NAME).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_repeats_the_last_line_and_not_more_of_it_than_fits() {
        assert_eq!(last_words("one\n two \n\n  \n"), "two");
        assert_eq!(last_words(""), "");
        assert_eq!(last_words(&"x".repeat(5000)).len(), MAX_LAST_WORDS);
    }

    #[test]
    fn only_plain_names_are_run_and_noted() {
        assert!(is_plain("10-accounting.sh"));
        for bad in ["a b", "a;b", "ä", "$(x)", &"x".repeat(65)] {
            assert!(!is_plain(bad), "{bad}");
        }
        assert_eq!(shown("a\nb"), "a?b");
    }
}
