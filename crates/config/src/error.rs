//! What is wrong with a configuration file, and where: the error and how it looks on a terminal.

use std::fmt;
use std::ops::Range;

/// Errors shown for one file; more would only scroll the first ones away.
const SHOWN_ERRORS: usize = 20;

/// Characters of a source line that are shown around the mistake.
const EXCERPT_CHARS: usize = 100;

/// Characters of a value that a message repeats.
const SHOWN_VALUE_CHARS: usize = 60;

/// One mistake in a file: where it is, which key it concerns, what is wrong, and what was probably meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Name of the file as given by the caller.
    pub file: String,
    /// Line, counted from 1; 0 when the mistake has no place, such as a section that is missing altogether.
    pub line: usize,
    /// Column in characters, counted from 1; 0 with line 0.
    pub column: usize,
    /// Path of the key, such as `listen.addresses`; empty when the file is not TOML.
    pub key: String,
    /// What is wrong, in lower case.
    pub message: String,
    /// What to do, or the nearest valid key.
    pub help: Option<String>,
    /// The line of the file with the mistake.
    pub excerpt: Option<Excerpt>,
}

/// A line of the file, ready for a terminal: escaped, cut to size, passwords blanked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// The text.
    pub text: String,
    /// Characters before the first caret.
    pub offset: usize,
    /// Number of carets, at least 1.
    pub carets: usize,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(help) = &self.help {
            write!(f, "; {help}")?;
        }
        if let Some(excerpt) = &self.excerpt {
            let number = self.line.to_string();
            let gutter = " ".repeat(number.len());
            write!(f, "\n  {number} | {}", excerpt.text)?;
            write!(
                f,
                "\n  {gutter} | {}{}",
                " ".repeat(excerpt.offset),
                "^".repeat(excerpt.carets)
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Every mistake found in one file, in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// For a file that cannot be read at all.
    pub fn unreadable(file: &str, message: impl Into<String>) -> Self {
        ConfigErrors(vec![ConfigError::without_place(
            file,
            String::new(),
            message.into(),
            None,
        )])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().take(SHOWN_ERRORS).enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        match self.0.len().checked_sub(SHOWN_ERRORS) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for ConfigErrors {}

impl ConfigError {
    /// A mistake that is nowhere in the file.
    pub(crate) fn without_place(file: &str, key: String, message: String, help: Option<String>) -> Self {
        ConfigError {
            file: file.to_string(),
            line: 0,
            column: 0,
            key,
            message,
            help,
            excerpt: None,
        }
    }

    /// A mistake in the bytes `span` of `text`.
    pub(crate) fn at(
        file: &str,
        text: &str,
        span: Range<usize>,
        key: String,
        message: String,
        help: Option<String>,
    ) -> Self {
        let start = floor_boundary(text, span.start);
        let end = floor_boundary(text, span.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let before = text[line_start..start].chars().count();
        let length = text[start..end.min(line_end)].chars().count();
        ConfigError {
            file: file.to_string(),
            line: text[..start].matches('\n').count() + 1,
            column: before + 1,
            key,
            message,
            help,
            excerpt: (!line.trim().is_empty()).then(|| excerpt(line, before, length)),
        }
    }
}

/// The largest character boundary of `text` that is not behind `index`.
fn floor_boundary(text: &str, index: usize) -> usize {
    (0..=index.min(text.len()))
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0)
}

fn excerpt(line: &str, before: usize, length: usize) -> Excerpt {
    let shown = blank_password(line);
    let fits = shown.chars().count() <= EXCERPT_CHARS;
    let skip = if fits {
        0
    } else {
        before.saturating_sub(EXCERPT_CHARS / 2)
    };
    let text: String = shown.chars().skip(skip).take(EXCERPT_CHARS).map(printable).collect();
    let offset = (before - skip).min(text.chars().count());
    let carets = length.min(text.chars().count() - offset).max(1);
    Excerpt { text, offset, carets }
}

/// Cuts off what stands behind `password =`, so that a password (or its hash) never gets into a log.
fn blank_password(line: &str) -> String {
    let mut from = 0;
    while let Some(found) = line[from..].find("password") {
        let end = from + found + "password".len();
        let rest = line[end..].trim_start_matches([' ', '\t', '"', '\'']);
        if rest.starts_with('=') {
            return format!("{} = ***", &line[..end]);
        }
        from = end;
    }
    line.to_string()
}

/// Keeps escape sequences of a file away from the terminal.
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// A value as a message repeats it: in back quotes, escaped, cut to size.
pub(crate) fn shown(value: &str) -> String {
    let mut text: String = value.chars().take(SHOWN_VALUE_CHARS).map(printable).collect();
    if value.chars().count() > SHOWN_VALUE_CHARS {
        text.push_str("...");
    }
    format!("`{text}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, span: Range<usize>) -> String {
        ConfigError::at(
            "f.toml",
            text,
            span,
            "a.b".into(),
            "wrong".into(),
            Some("do this".into()),
        )
        .to_string()
    }

    #[test]
    fn an_error_names_file_line_column_key_and_shows_the_place() {
        assert_eq!(
            at("[a]\nb = 12\n", 8..10),
            "f.toml:2:5: a.b: wrong; do this\n  2 | b = 12\n    |     ^^"
        );
    }

    #[test]
    fn columns_are_characters_and_spans_inside_a_character_do_not_panic() {
        let text = "b = \"äöü\" x";
        let span = text.find('x').expect("there is an x")..text.len();
        assert!(at(text, span).starts_with("f.toml:1:11:"));
        for start in 0..=text.len() + 2 {
            for end in 0..=text.len() + 2 {
                at(text, start..end);
            }
        }
    }

    #[test]
    fn a_password_is_blanked_and_a_password_file_is_not() {
        assert!(at("password = \"hunter2\"", 0..8).contains("password = ***"));
        assert!(!at("x = { \"password\" = \"hunter2\" }", 0..1).contains("hunter2"));
        assert!(at("password_file = \"pw\"", 0..8).contains("password_file = \"pw\""));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let text = at("b = \"\u{1b}[31m\"", 0..1);
        assert!(!text.contains('\u{1b}'));
        assert_eq!(shown("\u{1b}[0m"), "`\u{fffd}[0m`");
    }

    #[test]
    fn a_long_line_is_cut_around_the_mistake() {
        let line = format!("{}X{}", "a".repeat(5000), "b".repeat(5000));
        let error = ConfigError::at("f", &line, 5000..5001, String::new(), "wrong".into(), None);
        let excerpt = error.excerpt.expect("there is a line");
        assert_eq!(excerpt.text.chars().count(), EXCERPT_CHARS);
        assert_eq!(excerpt.text.chars().nth(excerpt.offset), Some('X'));
    }
}
