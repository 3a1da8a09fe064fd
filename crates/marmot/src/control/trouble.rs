//! Why one of these commands failed: a word for programs, a sentence for people, an exit code for scripts.

use api::ClientError;
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};

/// A command that did not do what was asked.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) exit: u8,
    /// The words of the API, and some of our own.
    pub(super) code: String,
    pub(super) message: String,
}

impl Trouble {
    pub(super) fn new(exit: impl Into<u8>, code: &str, message: impl Into<String>) -> Self {
        Self {
            exit: exit.into(),
            code: code.to_owned(),
            message: message.into(),
        }
    }

    /// One without a code of its own.
    pub(super) fn error(message: impl Into<String>) -> Self {
        Self::new(Exit::Error, "error", message)
    }

    /// One that has been answered already: the exit code is all there is to add.
    pub(super) fn silent(exit: Exit) -> Self {
        Self::new(exit, "", "")
    }

    /// Whether there is something to say.
    pub(super) fn speaks(&self) -> bool {
        !self.message.is_empty()
    }

    /// Neither the daemon nor its ledger answers.
    pub(super) fn ledger(error: client::ClientError) -> Self {
        let message = format!("no daemon runs, and its ledger says: {error}");
        Self::new(Exit::NoDaemon, "not_running", message)
    }

    /// What a program gets to read.
    pub(super) fn line(&self) -> String {
        api::line(&json!({ "error": self.words() }))
    }

    /// The words of it as an object.
    pub(super) fn words(&self) -> Value {
        json!({ "code": self.code, "message": self.message, "exit_code": self.exit })
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Failure::with_code(trouble.exit, trouble.message)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        let code = match failure.exit == Exit::Config as u8 {
            true => "config",
            false => "error",
        };
        Self::new(failure.exit, code, failure.to_string())
    }
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::NotRunning(_) => {
                let help = "start it with `marmot client` or its service";
                Self::new(Exit::NoDaemon, "not_running", format!("{message}; {help}"))
            }
            ClientError::NotPermitted(_) => Self::new(Exit::NotPermitted, "not_permitted", message),
            ClientError::Refused { status: 403, code, .. } => Self::new(Exit::NotPermitted, &code, message),
            ClientError::Refused { code, .. } => Self::new(Exit::Error, &code, message),
            ClientError::TooSlow(_) => Self::new(Exit::Error, "too_slow", message),
            ClientError::Closed => Self::new(Exit::NoDaemon, "closed", message),
            // System, Strange, and what may come.
            _ => Self::error(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_of_the_socket_has_its_exit_code_and_its_word() {
        let refused = |status, code: &str| ClientError::Refused {
            status,
            code: code.to_owned(),
            message: "no".to_owned(),
        };
        for (error, exit, code) in [
            (ClientError::NotRunning("/run/marmot/a.sock".into()), 7, "not_running"),
            (
                ClientError::NotPermitted("/run/marmot/a.sock".into()),
                5,
                "not_permitted",
            ),
            (refused(403, "not_permitted"), 5, "not_permitted"),
            (refused(409, "conflict"), 1, "conflict"),
            (ClientError::Closed, 7, "closed"),
            (ClientError::Strange("what?".to_owned()), 1, "error"),
        ] {
            let trouble = Trouble::from(error);
            assert_eq!(
                (trouble.exit, trouble.code.as_str()),
                (exit, code),
                "{}",
                trouble.message
            );
        }
    }

    #[test]
    fn a_program_reads_the_failure_as_one_line_of_json() {
        let line = Trouble::new(Exit::NoDaemon, "not_running", "no daemon").line();
        let json: Value = serde_json::from_str(&line).expect("json");
        assert_eq!((&json["version"], &json["error"]["exit_code"]), (&1.into(), &7.into()));
        assert!(line.ends_with("}\n"));
    }
}
