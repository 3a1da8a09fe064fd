//! How the program ends: exit codes, and what is said on standard error.

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use config::ConfigErrors;

/// Exit codes; scripts and service managers rely on them. [`crate::cli`] repeats them in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It worked.
    Ok = 0,
    /// It did not work; trying again may help.
    Error = 1,
    /// The arguments make no sense; clap's code, too.
    Usage = 2,
    /// A configuration file, or a file that it names, is wrong.
    Config = 3,
    // 4 and 6 are the client's.
    /// This host does not allow it.
    NotPermitted = 5,
    /// No daemon runs for this tunnel.
    NoDaemon = 7,
    /// The tunnel is not up.
    NotUp = 8,
    /// The tunnel runs.
    Running = 9,
}

impl From<Exit> for u8 {
    fn from(exit: Exit) -> Self {
        exit as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// A command that failed: what to say, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: u8,
    message: String,
}

impl Failure {
    /// Any failure with one of our codes.
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self::with_code(exit as u8, message)
    }

    /// A failure of a shell, which knows its exit code.
    pub(crate) fn with_code(exit: u8, message: impl fmt::Display) -> Self {
        Failure {
            exit,
            message: message.to_string(),
        }
    }

    /// Says what went wrong, unless a command has said all in its answer. That nobody listens is no second failure.
    pub(crate) fn print(&self) {
        if self.message.is_empty() {
            return;
        }
        let _ = writeln!(std::io::stderr().lock(), "marmot: {}", self.message);
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::new(Exit::Error, format!("{error:#}"))
    }
}

impl From<platform::PlatformError> for Failure {
    fn from(error: platform::PlatformError) -> Self {
        Failure::new(Exit::Error, error)
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Failure::new(Exit::Config, format!("the configuration is wrong\n{errors}"))
    }
}

/// Writes a command's answer to standard output. A reader that went away (`| head`) is no failure.
pub(crate) fn answer(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
