//! Where passwords come from: a file, standard input, the terminal. Never the command line, which everybody can read.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

/// The longest line that is read as a password, in bytes; the gateway takes [`gateway::password::MAX_PASSWORD_BYTES`].
const MAX_LINE_BYTES: u64 = 4096;

/// 32 characters that are not mistaken for each other; 5 bits each.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Four groups of five characters: 100 bits.
const RANDOM_GROUPS: [usize; 4] = [5; 4];

/// The password of `user`: from `file` (`-` is standard input) if there is one, else asked for twice on the terminal,
/// or one line of standard input if that is no terminal.
pub(crate) fn obtain(file: Option<&Path>, user: &str) -> anyhow::Result<Zeroizing<String>> {
    let password = match file {
        Some(path) if path == Path::new("-") => from_stdin()?,
        Some(path) => from_file(path)?,
        None if std::io::stdin().is_terminal() => from_terminal(user)?,
        None => from_stdin()?,
    };
    if password.is_empty() {
        bail!("the password is empty");
    }
    Ok(password)
}

/// A password nobody has to think of, such as `k7mwq-...`.
pub(crate) fn random() -> anyhow::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0; 20]);
    rand::fill(bytes.as_mut()).map_err(|_| anyhow::anyhow!("no random numbers from the system"))?;
    let mut characters = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
    let groups = RANDOM_GROUPS.map(|length| characters.by_ref().take(length).collect::<String>());
    Ok(Zeroizing::new(groups.join("-")))
}

fn from_file(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let file =
        std::fs::File::open(path).with_context(|| format!("cannot read the password from {}", path.display()))?;
    first_line(file).with_context(|| format!("cannot read the password from {}", path.display()))
}

fn from_stdin() -> anyhow::Result<Zeroizing<String>> {
    first_line(std::io::stdin().lock()).context("cannot read the password from standard input")
}

fn first_line(input: impl std::io::Read) -> anyhow::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::new());
    std::io::BufReader::new(input.take(MAX_LINE_BYTES)).read_line(&mut line)?;
    let length = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(length);
    Ok(line)
}

fn from_terminal(user: &str) -> anyhow::Result<Zeroizing<String>> {
    let ask = |prompt: String| {
        let answer = rpassword::prompt_password(prompt).context("cannot ask for the password on the terminal")?;
        anyhow::Ok(Zeroizing::new(answer))
    };
    let password = ask(format!("Password of {user}: "))?;
    if *ask("Once more: ".to_string())? != *password {
        bail!("the two passwords differ; nothing was changed");
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_without_its_end() {
        assert_eq!(*first_line(&b"secret\r\nmore\n"[..]).expect("a line"), "secret");
        assert_eq!(*first_line(&b" spaces stay "[..]).expect("a line"), " spaces stay ");
        assert!(first_line(&b"\xff\xfe"[..]).is_err());
    }

    #[test]
    fn random_passwords_are_long_and_not_the_same() {
        let (one, other) = (random().expect("random"), random().expect("random"));
        assert_ne!(*one, *other);
        assert_eq!(one.len(), 23);
        assert!(one.bytes().all(|byte| byte == b'-' || ALPHABET.contains(&byte)));
    }
}
