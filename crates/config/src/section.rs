//! One section of a file: its keys as typed values.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::client::PasswordSource;
use crate::document::{Document, Key, Step, kind};
use crate::error::shown;

/// The longest path, as Linux has it (PATH_MAX).
const MAX_PATH_BYTES: usize = 4096;

/// One section of a file, there or not.
pub(crate) struct Section<'d, 't> {
    pub(crate) document: &'d Document<'t>,
    /// As in the file: `network`, `users.alice`.
    pub(crate) path: String,
    /// As in the list of keys: `network`, `users.NAME`.
    pub(crate) name: &'static str,
    /// The way to it from the top of the file.
    pub(crate) steps: Vec<Step>,
    pub(crate) header: Option<Range<usize>>,
    pub(crate) table: Option<&'d DeTable<'t>>,
}

impl<'d, 't> Section<'d, 't> {
    /// Whether the file has this key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Whether the file has this key with an empty string.
    pub(crate) fn is_empty(&self, key: &str) -> bool {
        self.value(key)
            .is_some_and(|value| value.get_ref().as_str() == Some(""))
    }

    /// Number of entries of a list, if it is there.
    pub(crate) fn length(&self, key: &str) -> Option<usize> {
        Some(self.value(key)?.get_ref().as_array()?.len())
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self, key: &'static str, default: bool) -> bool {
        self.declare(key, Some(default.to_string()), "true or false".into());
        let Some(value) = self.value(key) else { return default };
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.wrong_kind(key, value, "true or false");
            default
        })
    }

    /// A whole number.
    pub(crate) fn integer(&self, key: &'static str, default: u32, range: RangeInclusive<u32>) -> u32 {
        self.declare(
            key,
            Some(default.to_string()),
            format!("{} to {}", range.start(), range.end()),
        );
        let number = self.number(
            key,
            default.into(),
            f64::from(*range.start())..=f64::from(*range.end()),
            false,
            true,
        );
        number as u32
    }

    /// A whole number, or 0 for "not set".
    pub(crate) fn integer_or_zero(&self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        self.declare(
            key,
            Some("0".into()),
            format!("0 or {} to {}", range.start(), range.end()),
        );
        let number = self.number(
            key,
            0.0,
            f64::from(*range.start())..=f64::from(*range.end()),
            true,
            true,
        );
        (number > 0.0).then_some(number as u32)
    }

    /// A time in seconds; fractions are allowed.
    pub(crate) fn seconds(&self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> Duration {
        self.declare(
            key,
            Some(default.to_string()),
            format!("{} to {}", range.start(), range.end()),
        );
        Duration::from_secs_f64(self.number(key, default, range, false, false))
    }

    /// A time in whole seconds, because the kernel takes no fractions.
    pub(crate) fn whole_seconds(&self, key: &'static str, default: u32, range: RangeInclusive<u32>) -> Duration {
        Duration::from_secs(self.integer(key, default, range).into())
    }

    /// A time in seconds, or 0 (the default) for "not set".
    pub(crate) fn seconds_or_zero(&self, key: &'static str, range: RangeInclusive<f64>) -> Option<Duration> {
        self.default_seconds_or_zero(key, 0.0, range)
    }

    /// A time in seconds, or 0 for "not set", which need not be the default.
    pub(crate) fn default_seconds_or_zero(
        &self,
        key: &'static str,
        default: f64,
        range: RangeInclusive<f64>,
    ) -> Option<Duration> {
        self.declare(
            key,
            Some(default.to_string()),
            format!("0 or {} to {}", range.start(), range.end()),
        );
        let number = self.number(key, default, range, true, false);
        (number > 0.0).then(|| Duration::from_secs_f64(number))
    }

    /// One word of a few.
    pub(crate) fn choice<T: Copy>(&self, key: &'static str, default: &'static str, words: &[(&str, T)]) -> Option<T> {
        let all: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let parse = |text: &str| {
            let found = words.iter().find(|(word, _)| *word == text);
            found
                .map(|(_, value)| *value)
                .ok_or_else(|| "is not known here".to_string())
        };
        self.parsed(key, default, &all.join(", "), parse)
    }

    /// A string with a meaning, never empty. `None` only after a mistake.
    pub(crate) fn parsed<T>(
        &self,
        key: &'static str,
        default: &'static str,
        limit: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        if self.is_empty(key) {
            self.missing(key, &format!("expected: {limit}"));
        }
        self.default_or_none(key, default, limit, parse)
    }

    /// A string with a meaning, or the empty string (the default) for "not set".
    pub(crate) fn optional<T>(
        &self,
        key: &'static str,
        limit: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.default_or_none(key, "", limit, parse)
    }

    /// A string with a meaning, or the empty string for "not set", which is not the default.
    pub(crate) fn default_or_none<T>(
        &self,
        key: &'static str,
        default: &'static str,
        limit: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.declare(key, Some(format!("{default:?}")), limit.to_string());
        match self.value(key) {
            Some(value) => self.parse_string(key, value, limit, &parse),
            None if default.is_empty() => None,
            None => Some(parse(default).expect("a default is within its own limit")),
        }
    }

    /// As `parsed`, for a key that has no default.
    pub(crate) fn required<T>(
        &self,
        key: &'static str,
        limit: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.declare(key, None, limit.to_string());
        match self.value(key) {
            Some(value) if !self.is_empty(key) => self.parse_string(key, value, limit, &parse),
            Some(_) | None => {
                self.missing(key, &format!("it is required: {limit}"));
                None
            }
        }
    }

    /// A list of strings with a meaning, at most `max`.
    pub(crate) fn list<T>(
        &self,
        key: &'static str,
        default: &[&'static str],
        max: usize,
        what: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        self.declare(key, Some(format!("{default:?}")), format!("at most {max} {what}"));
        let Some(value) = self.value(key) else {
            return default
                .iter()
                .map(|text| parse(text).expect("a default is within its own limit"))
                .collect();
        };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_kind(key, value, "a list, as in [\"...\"]");
            return Vec::new();
        };
        if items.len() > max {
            self.wrong(
                key,
                format!("{} entries are too many", items.len()),
                Some(format!("at most {max} {what}")),
            );
            return Vec::new();
        }
        for (index, _) in items
            .iter()
            .enumerate()
            .filter(|(_, item)| item.get_ref().as_str() == Some(""))
        {
            self.wrong_item(key, index, "an empty entry", None);
        }
        items
            .iter()
            .filter_map(|item| self.parse_string(key, item, what, &parse))
            .collect()
    }

    /// A path with a default, relative to the folder of the file.
    pub(crate) fn path(&self, key: &'static str, default: &'static str) -> Option<PathBuf> {
        self.parsed(key, default, PATH, |text| self.absolute(text))
    }

    /// A path with a default, or the empty string for "not set".
    pub(crate) fn path_or_none(&self, key: &'static str, default: &'static str) -> Option<PathBuf> {
        self.default_or_none(key, default, PATH, |text| self.absolute(text))
    }

    /// A path that may be left out.
    pub(crate) fn optional_path(&self, key: &'static str) -> Option<PathBuf> {
        self.optional(key, PATH, |text| self.absolute(text))
    }

    /// A path, or `-` for standard input.
    pub(crate) fn password_source(&self, key: &'static str) -> Option<PasswordSource> {
        self.optional(key, PATH, |text| match text {
            "-" => Ok(PasswordSource::Stdin),
            path => self.absolute(path).map(PasswordSource::File),
        })
    }

    /// A path that must be there.
    pub(crate) fn required_path(&self, key: &'static str) -> Option<PathBuf> {
        self.required(key, PATH, |text| self.absolute(text))
    }

    /// Says that the value of `key` is wrong, for whatever reason.
    pub(crate) fn wrong(&self, key: &str, message: impl Into<String>, help: Option<String>) {
        let span = self.value(key).map(Spanned::span).or_else(|| self.header.clone());
        self.document
            .fault(span, format!("{}.{key}", self.path), message.into(), help);
    }

    /// Says that the section should not be there like this.
    pub(crate) fn wrong_section(&self, message: impl Into<String>) {
        self.document
            .fault(self.header.clone(), self.path.clone(), message.into(), None);
    }

    /// The same, and what to do about it.
    pub(crate) fn wrong_section_with(&self, message: impl Into<String>, help: &str) {
        self.document.fault(
            self.header.clone(),
            self.path.clone(),
            message.into(),
            Some(help.into()),
        );
    }

    /// Says that one entry of the list `key` is wrong.
    pub(crate) fn wrong_item(&self, key: &str, index: usize, message: impl Into<String>, help: Option<String>) {
        let item = self.value(key).and_then(|value| value.get_ref().as_array()?.get(index));
        match item {
            Some(item) => self
                .document
                .fault(Some(item.span()), format!("{}.{key}", self.path), message.into(), help),
            None => self.wrong(key, message, help),
        }
    }

    /// Says that `key` should be there.
    pub(crate) fn missing(&self, key: &str, why: &str) {
        let span = match self.value(key) {
            Some(value) => Some(value.span()),
            None => self.header.clone(),
        };
        let message = if self.has(key) { "is empty" } else { "is missing" };
        self.document.fault(
            span,
            format!("{}.{key}", self.path),
            message.into(),
            Some(why.to_string()),
        );
    }

    fn declare(&self, name: &'static str, default: Option<String>, limit: String) {
        self.document.declare(Key {
            section: self.name,
            name,
            default,
            limit,
        });
    }

    fn value(&self, key: &str) -> Option<&'d Spanned<DeValue<'t>>> {
        self.table.and_then(|table| table.get(key))
    }

    fn parse_string<T>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'t>>,
        limit: &str,
        parse: &impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_kind(key, value, "a string in quotes");
            return None;
        };
        if text.is_empty() {
            return None;
        }
        let fault = |why| {
            let message = if key == "password" {
                why
            } else {
                format!("{} {why}", shown(text))
            };
            let key = format!("{}.{key}", self.path);
            self.document
                .fault(Some(value.span()), key, message, Some(format!("expected: {limit}")));
        };
        parse(text).map_err(fault).ok()
    }

    fn number(&self, key: &str, default: f64, range: RangeInclusive<f64>, zero: bool, whole: bool) -> f64 {
        let Some(value) = self.value(key) else { return default };
        let number = match value.get_ref() {
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .map(|n| n as f64),
            DeValue::Float(float) if !whole => float.as_str().parse().ok(),
            _ => {
                self.wrong_kind(key, value, if whole { "a whole number" } else { "a number" });
                return default;
            }
        };
        match number {
            Some(number) if range.contains(&number) || (zero && number == 0.0) => number,
            Some(_) | None => {
                let or_zero = if zero { "0, or " } else { "" };
                let help = format!("allowed: {or_zero}{} to {}", range.start(), range.end());
                self.wrong(key, "out of range", Some(help));
                default
            }
        }
    }

    fn wrong_kind(&self, key: &str, value: &Spanned<DeValue<'t>>, expected: &str) {
        let message = format!("expected {expected}, found {}", kind(value.get_ref()));
        self.document
            .fault(Some(value.span()), format!("{}.{key}", self.path), message, None);
    }

    fn absolute(&self, text: &str) -> Result<PathBuf, String> {
        if text.len() > MAX_PATH_BYTES || text.contains('\0') {
            return Err("is not a path".into());
        }
        Ok(self.document.base.join(text))
    }
}

const PATH: &str = "a path";
