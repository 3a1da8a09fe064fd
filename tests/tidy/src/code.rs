//! Rust source without its comments and literals, so that a rule sees code and nothing else.

/// `source` with every comment, string and character literal blanked; lines keep their numbers.
pub fn code_only(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skipped = literal_or_comment(rest, out.chars().next_back());
        let taken = skipped.unwrap_or(first.len_utf8());
        let (head, tail) = rest.split_at(taken);
        if skipped.is_some() {
            out.extend(head.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            out.push_str(head);
        }
        rest = tail;
    }
    out
}

/// Whether `word` stands in `line` as a whole word.
pub fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// Length of the comment or literal at the start of `rest`, if one starts there; `before` is the character before it.
fn literal_or_comment(rest: &str, before: Option<char>) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    if before.is_some_and(is_word) {
        return None;
    }
    let prefix = rest.len() - rest.trim_start_matches(['b', 'c', 'r']).len();
    let quoted = &rest[prefix..];
    let hashes = quoted.len() - quoted.trim_start_matches('#').len();
    let raw = rest[..prefix].ends_with('r');
    if prefix > 2 || !quoted[hashes..].starts_with('"') || (hashes > 0 && !raw) {
        return None;
    }
    let start = prefix + hashes + 1;
    Some(if raw {
        raw_string(rest, start, hashes)
    } else {
        plain_string(rest, start)
    })
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_u32;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// A character literal; `None` for a lifetime, which has no closing quote.
fn character(rest: &str) -> Option<usize> {
    let inner = &rest[1..];
    if let Some(after) = inner.strip_prefix('\\') {
        let escaped = 1 + after.chars().next()?.len_utf8();
        return inner[escaped..].find('\'').map(|end| 1 + escaped + end + 1);
    }
    let first = inner.chars().next()?.len_utf8();
    inner[first..].starts_with('\'').then_some(1 + first + 1)
}

fn plain_string(rest: &str, start: usize) -> usize {
    let mut escaped = false;
    for (at, c) in rest[start..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return start + at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_string(rest: &str, start: usize, hashes: usize) -> usize {
    let end = format!("\"{}", "#".repeat(hashes));
    rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        code_only(source).split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn comments_vanish_and_lines_keep_their_numbers() {
        let code = code_only("a // unsafe\n/* unsafe\n /* nested */ unsafe */ b\n");
        assert_eq!(code.lines().count(), 3);
        assert!(!has_word(&code, "unsafe"));
        assert!(has_word(code.lines().nth(2).unwrap_or(""), "b"));
    }

    #[test]
    fn strings_of_every_kind_vanish() {
        for literal in [
            r#""unsafe \" unsafe""#,
            "r\"unsafe\\\"",
            "r#\"unsafe \" unsafe\"#",
            "br##\"unsafe\"# unsafe\"##",
            "b\"unsafe\"",
            "c\"unsafe\"",
        ] {
            assert_eq!(words(&format!("f({literal}) end")), ["f(", ")", "end"], "{literal}");
        }
    }

    #[test]
    fn a_quote_character_does_not_open_a_string_and_a_lifetime_is_code() {
        assert_eq!(words("x('\"') unsafe"), ["x(", ")", "unsafe"]);
        assert_eq!(words(r"x('\'') unsafe"), ["x(", ")", "unsafe"]);
        assert_eq!(words("fn f<'a>(x: &'a u8)"), ["fn", "f<'a>(x:", "&'a", "u8)"]);
    }

    #[test]
    fn a_word_is_found_whole_only() {
        assert!(has_word("unsafe { x }", "unsafe"));
        assert!(!has_word("forbid(unsafe_code)", "unsafe"));
        assert!(!has_word("not_unsafe", "unsafe"));
    }

    #[test]
    fn an_unfinished_literal_ends_with_the_text() {
        for source in ["\"open", "r#\"open\"", "/* open", "'", "'\\", "b'", "r#"] {
            let _ = code_only(source);
        }
    }
}
