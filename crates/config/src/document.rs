//! A TOML file being read, section by section, and what was found wrong in it.
//!
//! Every key is named once, in the code that reads it, together with its default and its limit. From these calls follow
//! the list of valid keys (an unknown key is one that nobody asked for), the defaults, and what the samples in `config/`
//! must say. Mistakes are collected, each with its place in the file; reading goes on with the default.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::section::Section;
use crate::{ConfigError, ConfigErrors, suggest};

/// The largest file that is read; a users file of 50,000 users is below it.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Mistakes that are collected; each costs a walk through the text for its line.
const MAX_ERRORS: usize = 200;

/// One valid key: for the samples in `config/` and the tests that compare them with the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The section without its brackets.
    pub section: &'static str,
    /// The key.
    pub name: &'static str,
    /// The default as TOML; `None` if the key is required.
    pub default: Option<String>,
    /// What a value may be, such as `1 to 120`.
    pub limit: String,
}

/// A parsed file, what was asked of it, and what was found wrong so far.
pub(crate) struct Document<'t> {
    file: &'t str,
    text: &'t str,
    pub(crate) base: &'t Path,
    root: DeTable<'t>,
    /// Valid names of sections at the top.
    sections: RefCell<Vec<&'static str>>,
    opened: RefCell<Vec<Opened>>,
    /// Keys that are lists of sections, with their section.
    lists: RefCell<Vec<(&'static str, &'static str)>>,
    keys: RefCell<Vec<Key>>,
    errors: RefCell<Vec<ConfigError>>,
}

/// A section of keys that was asked for.
struct Opened {
    /// `network`, `users`.
    top: &'static str,
    /// The X of `[users.X]`.
    sub: Option<String>,
    /// The Y of `[[network.Y]]`, and which of them.
    item: Option<(&'static str, usize)>,
    /// As in the list of keys: `network`, `users.NAME`, `flows.rule`.
    name: &'static str,
}

impl<'t> Document<'t> {
    /// Parses the text; all syntax errors at once.
    pub(crate) fn parse(text: &'t str, file: &'t str, base: &'t Path) -> Result<Self, ConfigErrors> {
        if text.len() > MAX_BYTES {
            return Err(ConfigErrors::unreadable(
                file,
                format!("the file is larger than {MAX_BYTES} bytes"),
            ));
        }
        let (root, faults) = DeTable::parse_recoverable(text);
        let syntax_error = |fault: &toml::de::Error| {
            let span = fault.span().unwrap_or(text.len()..text.len());
            ConfigError::at(
                file,
                text,
                span,
                String::new(),
                format!("not TOML: {}", fault.message()),
                None,
            )
        };
        if !faults.is_empty() {
            return Err(ConfigErrors(faults.iter().take(MAX_ERRORS).map(syntax_error).collect()));
        }
        Ok(Document {
            file,
            text,
            base,
            root: root.into_inner(),
            sections: RefCell::default(),
            opened: RefCell::default(),
            lists: RefCell::default(),
            keys: RefCell::default(),
            errors: RefCell::default(),
        })
    }

    /// The section `[name]`; every key in it has its default if the section is not there.
    pub(crate) fn section(&self, name: &'static str) -> Section<'_, 't> {
        self.sections.borrow_mut().push(name);
        self.opened.borrow_mut().push(Opened {
            top: name,
            sub: None,
            item: None,
            name,
        });
        let entry = self.root.get_key_value(name);
        let table = entry.and_then(|(key, value)| self.table(name, key.span(), value));
        Section {
            document: self,
            path: name.to_string(),
            name,
            header: entry.map(|(key, _)| key.span()),
            table,
        }
    }

    /// The sections `[name.X]` with their X, in the order of X. `each` stands for all of them in the list of keys.
    pub(crate) fn sections(&self, name: &'static str, each: &'static str) -> Vec<(String, Section<'_, 't>)> {
        self.sections.borrow_mut().push(name);
        let mut sections = Vec::new();
        let entry = self.root.get_key_value(name);
        let table = entry.and_then(|(key, value)| self.table(name, key.span(), value));
        for (key, value) in table.into_iter().flat_map(|table| table.iter()) {
            let sub = key.get_ref().to_string();
            let path = format!("{name}.{sub}");
            self.opened.borrow_mut().push(Opened {
                top: name,
                sub: Some(sub.clone()),
                item: None,
                name: each,
            });
            let table = self.table(&path, key.span(), value);
            sections.push((
                sub,
                Section {
                    document: self,
                    path,
                    name: each,
                    header: Some(key.span()),
                    table,
                },
            ));
        }
        sections
    }

    /// The sections `[[section.key]]` of a section at the top, in the order of the file; at most `max`. `each` stands for all of them in
    /// the list of keys.
    pub(crate) fn tables<'d>(
        &'d self,
        section: &Section<'d, 't>,
        key: &'static str,
        each: &'static str,
        max: usize,
    ) -> Vec<Section<'d, 't>> {
        self.lists.borrow_mut().push((section.name, key));
        let Some((name, value)) = section.table.and_then(|table| table.get_key_value(key)) else {
            return Vec::new();
        };
        let path = format!("{}.{key}", section.path);
        let wrong = |message: String, help: String| self.fault(Some(name.span()), path.clone(), message, Some(help));
        let Some(items) = value.get_ref().as_array() else {
            let found = kind(value.get_ref());
            wrong(
                format!("expected a list of sections, found {found}"),
                format!("write [[{path}]] and its keys below"),
            );
            return Vec::new();
        };
        if items.len() > max {
            wrong(format!("{} are too many", items.len()), format!("at most {max}"));
            return Vec::new();
        }
        let items = items.iter().enumerate();
        items
            .map(|(index, item)| {
                self.opened.borrow_mut().push(Opened {
                    top: section.name,
                    sub: None,
                    item: Some((key, index)),
                    name: each,
                });
                let path = format!("{path}[{}]", index + 1);
                Section {
                    document: self,
                    table: self.table(&path, item.span(), item),
                    path,
                    name: each,
                    header: Some(item.span()),
                }
            })
            .collect()
    }

    /// Ends the reading: the result, or everything that was found wrong, unknown keys included, in the order of the file.
    pub(crate) fn finish<T>(self, result: Option<T>) -> Result<T, ConfigErrors> {
        self.report_unknown_sections();
        self.report_unknown_keys();
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|error| (error.line, error.column));
        match result {
            Some(result) if errors.is_empty() => Ok(result),
            None if errors.is_empty() => Err(ConfigErrors::unreadable(self.file, "a required key has no value")),
            Some(_) | None => Err(ConfigErrors(errors)),
        }
    }

    /// The keys asked for so far.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.keys.borrow().clone()
    }

    /// Remembers a valid key; of many sections alike (users) only once.
    pub(crate) fn declare(&self, key: Key) {
        let mut keys = self.keys.borrow_mut();
        if !keys
            .iter()
            .any(|known| known.section == key.section && known.name == key.name)
        {
            keys.push(key);
        }
    }

    /// Remembers a mistake; without a `span` it is one of the whole file.
    pub(crate) fn fault(&self, span: Option<Range<usize>>, key: String, message: String, help: Option<String>) {
        if self.errors.borrow().len() >= MAX_ERRORS {
            return;
        }
        let error = match span {
            Some(span) => ConfigError::at(self.file, self.text, span, key, message, help),
            None => ConfigError::without_place(self.file, key, message, help),
        };
        self.errors.borrow_mut().push(error);
    }

    /// Reports every key that nobody asked for.
    fn report_unknown_keys(&self) {
        let keys = self.keys();
        for opened in self.opened.borrow().iter() {
            let top = self.root.get(opened.top);
            let inside = |key: &str| top.and_then(|top| top.get_ref().as_table()?.get(key));
            let value = match (&opened.sub, opened.item) {
                (Some(sub), _) => inside(sub),
                (None, Some((key, index))) => inside(key).and_then(|list| list.get_ref().as_array()?.get(index)),
                (None, None) => top,
            };
            let path = match (&opened.sub, opened.item) {
                (Some(sub), _) => format!("{}.{sub}", opened.top),
                (None, Some((key, index))) => format!("{}.{key}[{}]", opened.top, index + 1),
                (None, None) => opened.top.to_string(),
            };
            let is_list = |name: &str| opened.item.is_none() && self.lists.borrow().contains(&(opened.name, name));
            for (key, _) in value
                .and_then(|value| value.get_ref().as_table())
                .into_iter()
                .flat_map(|table| table.iter())
            {
                let name = key.get_ref();
                let known = keys
                    .iter()
                    .any(|known| known.section == opened.name && known.name == name);
                if !known && !is_list(name) {
                    let help = suggest::for_key(opened.name, name, &keys);
                    let message = format!("unknown key in [{path}]");
                    self.fault(Some(key.span()), format!("{path}.{name}"), message, Some(help));
                }
            }
        }
    }

    fn report_unknown_sections(&self) {
        let keys = self.keys();
        let sections = self.sections.borrow();
        for (key, value) in self
            .root
            .iter()
            .filter(|(key, _)| !sections.contains(&key.get_ref().as_ref()))
        {
            let name = key.get_ref();
            let is_table = value.get_ref().is_table();
            let message = if is_table {
                "unknown section"
            } else {
                "a key outside of any section"
            };
            let help = suggest::for_section(name, is_table, &sections, &keys);
            self.fault(Some(key.span()), name.to_string(), message.to_string(), Some(help));
        }
    }

    fn table<'d>(&self, path: &str, key: Range<usize>, value: &'d Spanned<DeValue<'t>>) -> Option<&'d DeTable<'t>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let message = format!("expected a section, found {}", kind(value.get_ref()));
            self.fault(
                Some(key),
                path.to_string(),
                message,
                Some(format!("write [{path}] and its keys below")),
            );
        }
        table
    }
}

/// What kind of value something is, with its article.
pub(crate) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}
