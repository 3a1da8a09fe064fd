//! Passwords: from a file, a systemd credential, standard input or the terminal. Never from the command line.

use std::env;
use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use config::client::{Login, PasswordSource};
use platform::files::check_private;
use wire::Secret;
use wire::text::escape;
use zeroize::Zeroizing;

use crate::ClientError;

/// The most bytes of a password. No gateway takes more.
const MAX_PASSWORD: u64 = 4096;

/// What messages call standard input, as the configuration does.
const STDIN: &str = "-";

/// Where the passwords of this process come from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Secrets {
    /// The line read from standard input at the start; it cannot be read twice.
    stdin: Option<Secret>,
}

impl Secrets {
    /// Reads standard input if `password_file` is `-`. Blocks until a line is there.
    pub(crate) fn read_stdin(login: &Login) -> Result<Self, ClientError> {
        if login.password != Some(PasswordSource::Stdin) {
            return Ok(Self::default());
        }
        let path = Path::new(STDIN);
        let password = if io::stdin().is_terminal() {
            ask_terminal("Password: ", true)?
        } else {
            read_password(path, io::stdin().lock())?
        };
        Ok(Self { stdin: Some(password) })
    }

    /// The configured password; `None` if there is no source, and the terminal is to be asked.
    pub(crate) fn password(&self, login: &Login) -> Result<Option<Secret>, ClientError> {
        let path = match &login.password {
            None => return Ok(None),
            Some(PasswordSource::Stdin) => return self.stdin.clone().map(Some).ok_or_else(nothing_read),
            Some(PasswordSource::File(path)) => path.clone(),
            Some(PasswordSource::Credential(name)) => credential(name)?,
        };
        let file = File::open(&path).map_err(|source| unreadable(&path, source))?;
        check_private(&path)?;
        read_password(&path, io::BufReader::new(file)).map(Some)
    }
}

/// Whether somebody sits at a terminal who could answer.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal()
}

/// Asks on the terminal, without blocking the runtime. `label` is the gateway's text.
pub(crate) async fn ask(label: &str, hidden: bool) -> Result<Secret, ClientError> {
    let label = escape(label.trim().trim_end_matches(':'));
    let prompt = format!("{label}: ");
    match tokio::task::spawn_blocking(move || ask_terminal(&prompt, hidden)).await {
        Ok(answer) => answer,
        Err(_) => Err(ClientError::Local("the prompt failed".to_owned())),
    }
}

fn ask_terminal(prompt: &str, hidden: bool) -> Result<Secret, ClientError> {
    let answer = if hidden {
        rpassword::prompt_password(prompt)
    } else {
        let mut line = String::new();
        let mut terminal = io::stderr();
        terminal
            .write_all(prompt.as_bytes())
            .and_then(|()| terminal.flush())
            .and_then(|()| io::stdin().lock().take(MAX_PASSWORD).read_line(&mut line))
            .map(|_| line)
    };
    let answer =
        answer.map_err(|error| ClientError::LoginRefused(format!("nobody answered on the terminal: {error}")))?;
    Ok(Secret::new(answer.trim_end_matches(['\r', '\n']).to_owned()))
}

fn nothing_read() -> ClientError {
    ClientError::Unusable {
        what: "login.password_file",
        path: STDIN.into(),
        problem: "standard input is read at the start only; restart the client, or name a file".to_owned(),
    }
}

fn credential(name: &str) -> Result<PathBuf, ClientError> {
    let folder = env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
        ClientError::Local(format!(
            "cannot find the credential {name}: CREDENTIALS_DIRECTORY is not set; start the client by systemd with \
             LoadCredential={name}:FILE, or use login.password_file"
        ))
    })?;
    Ok(Path::new(&folder).join(name))
}

/// The first line.
fn read_password(path: &Path, source: impl BufRead) -> Result<Secret, ClientError> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD as usize + 1));
    let read = source.take(MAX_PASSWORD + 1).read_until(b'\n', &mut line);
    read.map_err(|error| unreadable(path, error))?;
    let unusable = |problem: &str| ClientError::Unusable {
        what: "login.password_file",
        path: path.to_owned(),
        problem: problem.to_owned(),
    };
    if line.len() as u64 > MAX_PASSWORD {
        return Err(unusable("its first line is longer than 4096 bytes"));
    }
    let text = std::str::from_utf8(&line).map_err(|_| unusable("it is not UTF-8 text"))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(unusable("its first line is empty; it must hold the password"));
    }
    Ok(Secret::from(password))
}

fn unreadable(path: &Path, source: io::Error) -> ClientError {
    ClientError::Unreadable {
        what: "login.password_file",
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pki, client_config};

    fn password(file: &str, text: &str, mode: u32) -> Result<Option<Secret>, ClientError> {
        let pki = Pki::new("vpn.test");
        pki.write(file, text, mode);
        let config = client_config(&pki, "[login]\npassword_file = \"password\"");
        Secrets::default().password(&config.login)
    }

    #[test]
    fn the_first_line_of_a_private_file_is_the_password() {
        let secret = password("password", "s3cret phrase \r\nnot this\n", 0o600)
            .expect("readable")
            .expect("there");
        assert_eq!(secret.expose(), "s3cret phrase ");
    }

    #[test]
    fn a_password_file_that_others_can_read_is_refused() {
        let error = password("password", "secret\n", 0o644).expect_err("refused");
        assert!(error.to_string().contains("chmod 600"), "{error}");
        assert_eq!(error.exit_code(), 3);
    }

    #[test]
    fn a_missing_or_empty_file_is_named() {
        let error = password("other", "", 0o600).expect_err("missing");
        assert!(
            error.to_string().starts_with("cannot read login.password_file "),
            "{error}"
        );
        let error = password("password", "\n", 0o600).expect_err("empty");
        assert!(error.to_string().contains("its first line is empty"), "{error}");
        let error = password("password", &"x".repeat(5000), 0o600).expect_err("long");
        assert!(error.to_string().contains("longer than 4096"), "{error}");
    }

    #[test]
    fn standard_input_that_was_not_read_at_the_start_is_refused() {
        let pki = Pki::new("vpn.test");
        let login = client_config(&pki, "[login]\npassword_file = \"-\"").login;
        let error = Secrets::default().password(&login).expect_err("nothing was read");
        assert!(error.to_string().contains("read at the start only"), "{error}");
        let read = Secrets {
            stdin: Some(Secret::from("right")),
        };
        assert!(read.password(&login).expect("read").is_some());
    }

    #[test]
    fn no_source_means_the_terminal() {
        let pki = Pki::new("vpn.test");
        assert!(
            Secrets::default()
                .password(&client_config(&pki, "").login)
                .expect("no source")
                .is_none()
        );
    }
}
