//! How the story is told: calm lines of at most 100 columns, with colour on terminals only.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::claims::{Claims, Outcome};

/// The widest line, in columns.
pub(crate) const WIDTH: usize = 100;

/// Column at which the values of facts begin.
const VALUE_COLUMN: usize = 22;

/// What a line is, and so how it looks.
#[derive(Clone, Copy)]
enum Look {
    Bold,
    Dim,
    Good,
    Bad,
}

/// The narrator. Prints, and keeps the claims for the closing table.
pub(crate) struct Story {
    started: Instant,
    colour: bool,
    terminal: bool,
    act: u32,
    claims: Claims,
}

impl Story {
    /// A narrator for standard output. `NO_COLOR` (no-color.org) and a dumb terminal switch colours off.
    pub(crate) fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            started: Instant::now(),
            colour: terminal && !set("NO_COLOR") && !dumb,
            terminal,
            act: 0,
            claims: Claims::default(),
        }
    }

    /// Whether somebody watches, so that lines may move.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Time since the story began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// What was claimed so far.
    pub(crate) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The name of the whole.
    pub(crate) fn title(&self, text: &str) {
        line(&self.paint(Look::Bold, text));
    }

    /// Begins the next act.
    pub(crate) fn act(&mut self, title: &str) {
        self.act += 1;
        let clock = format!("{:.1} s", self.elapsed().as_secs_f64());
        let left = format!("{}  {title}", self.act);
        let gap = WIDTH.saturating_sub(width(&left) + width(&clock)).max(1);
        line("");
        line(&format!(
            "{}{}{}",
            self.paint(Look::Bold, &left),
            " ".repeat(gap),
            self.paint(Look::Dim, &clock)
        ));
    }

    /// A sentence, wrapped.
    pub(crate) fn say(&self, text: &str) {
        for part in wrap(text, WIDTH - 3) {
            line(&format!("   {part}"));
        }
    }

    /// A block that is printed as it is, indented.
    pub(crate) fn block(&self, text: &str) {
        for part in text.lines() {
            line(&self.paint(Look::Dim, &format!("     {part}")));
        }
    }

    /// A named value; a longer one continues below itself.
    pub(crate) fn fact(&self, name: &str, value: impl Display) {
        let mut label = name;
        for part in wrap(&value.to_string(), WIDTH - VALUE_COLUMN) {
            let gap = VALUE_COLUMN.saturating_sub(3 + width(label)).max(1);
            line(&format!("   {}{}{part}", self.paint(Look::Dim, label), " ".repeat(gap)));
            label = "";
        }
    }

    /// States something that is `true` or not; every later word depends on it.
    pub(crate) fn claim(&mut self, text: impl Into<String>, holds: bool) {
        self.settle(text.into(), if holds { Outcome::True } else { Outcome::False });
    }

    /// States what cannot be shown here.
    pub(crate) fn skip(&mut self, text: impl Into<String>, reason: &str) {
        self.settle(text.into(), Outcome::Skipped(reason.to_owned()));
    }

    /// The closing table.
    pub(crate) fn table(&self) {
        for (act, text, outcome) in self.claims.iter() {
            line(&format!("   {act}  {} {}", self.sign(outcome), clip(text, WIDTH - 8)));
        }
    }

    /// The last line: whether all of it was true.
    pub(crate) fn verdict(&self, text: &str, good: bool) {
        line("");
        for part in wrap(text, WIDTH - 3) {
            line(&format!(
                "   {}",
                self.paint(if good { Look::Good } else { Look::Bad }, &part)
            ));
        }
    }

    fn settle(&mut self, text: String, outcome: Outcome) {
        let mut sign = self.sign(&outcome);
        let shown = match &outcome {
            Outcome::Skipped(reason) => format!("{text}: not shown, {reason}"),
            Outcome::True | Outcome::False => text.clone(),
        };
        for part in wrap(&shown, WIDTH - 5) {
            line(&format!("   {sign} {part}"));
            sign = " ".to_owned();
        }
        self.claims.add(self.act, text, outcome);
    }

    fn sign(&self, outcome: &Outcome) -> String {
        match outcome {
            Outcome::True => self.paint(Look::Good, "✓"),
            Outcome::False => self.paint(Look::Bad, "✗"),
            Outcome::Skipped(_) => self.paint(Look::Dim, "-"),
        }
    }

    fn paint(&self, look: Look, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let code = match look {
            Look::Bold => "1",
            Look::Dim => "2",
            Look::Good => "32",
            Look::Bad => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Prints one line. A reader that left is no reason to leave processes behind, so errors are ignored.
pub(crate) fn line(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn clip(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(columns.saturating_sub(3)).collect();
    short.push_str("...");
    short
}

/// `text` in lines of at most `columns`, broken at spaces; a single longer word stays whole.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(last) if last.is_empty() => last.push_str(word),
            Some(last) if width(last) + 1 + width(word) <= columns => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces_and_never_lose_a_word() {
        let text = "one two three four five";
        let lines = wrap(text, 9);
        assert_eq!(lines, ["one two", "three", "four five"]);
        assert_eq!(lines.join(" "), text);
        assert_eq!(wrap("unbreakable-word", 4), ["unbreakable-word"]);
        assert_eq!(wrap("", 4), [""]);
    }

    #[test]
    fn a_clipped_line_says_so() {
        assert_eq!(clip("abcdef", 6), "abcdef");
        assert_eq!(clip("abcdefg", 6), "abc...");
    }
}
