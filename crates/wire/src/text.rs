//! Text that a peer chose, made fit for a log or a terminal.

use std::fmt::Write;

use crate::limits::MAX_ESCAPED;

/// Peer text as one line of at most [`MAX_ESCAPED`] characters, `…` for the rest. Control characters, line and
/// bidirectional controls and invisible formatting come out as `\u{..}`, a backslash as `\\`.
pub fn escape(text: &str) -> String {
    escape_within(text, MAX_ESCAPED)
}

/// As [`escape`], with a limit of the caller's in characters of `text`.
pub fn escape_within(text: &str, limit: usize) -> String {
    escape_where(text, limit, |_| false)
}

/// As [`escape_within`], but line breaks stay: for a banner that is shown to a person, never for a log.
pub fn escape_lines(text: &str, limit: usize) -> String {
    escape_where(text, limit, |c| c == '\n')
}

fn escape_where(text: &str, limit: usize, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for (count, c) in text.chars().enumerate() {
        if count == limit {
            out.push('…');
            break;
        }
        match c {
            _ if keep(c) => out.push(c),
            '\\' => out.push_str("\\\\"),
            _ if is_hidden(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out
}

/// Characters that change what a reader sees without being seen (Unicode 16, general categories Cc, Cf, Zl, Zp).
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays_as_it_is() {
        assert_eq!(escape("Grüße, 世界! <b>\"'"), "Grüße, 世界! <b>\"'");
    }

    #[test]
    fn terminal_controls_become_visible() {
        assert_eq!(
            escape("a\x1b[2Jb\r\n\t\0\x7f"),
            "a\\u{1b}[2Jb\\u{d}\\u{a}\\u{9}\\u{0}\\u{7f}"
        );
        assert_eq!(escape("\u{9b}31m"), "\\u{9b}31m");
    }

    #[test]
    fn bidirectional_and_invisible_characters_become_visible() {
        assert_eq!(
            escape("\u{202e}evil\u{2066}\u{200b}\u{feff}"),
            "\\u{202e}evil\\u{2066}\\u{200b}\\u{feff}"
        );
        assert_eq!(escape("\u{2028}\u{e0041}"), "\\u{2028}\\u{e0041}");
    }

    #[test]
    fn an_escape_cannot_be_forged() {
        assert_eq!(escape("\\u{1b}"), "\\\\u{1b}");
    }

    #[test]
    fn long_text_is_cut() {
        let cut = escape(&"x".repeat(1_000));
        assert_eq!(cut.chars().count(), MAX_ESCAPED + 1);
        assert!(cut.ends_with('…'));
        assert_eq!(escape_within("abc", 3), "abc");
        assert_eq!(escape_within("abcd", 3), "abc…");
    }

    #[test]
    fn a_banner_keeps_its_lines_only() {
        assert_eq!(escape_lines("one\ntwo\r\x07", 100), "one\ntwo\\u{d}\\u{7}");
    }
}
