//! A TOML file being read, section by section, and what was found wrong in it.
//!
//! Every key is named once, in the code that reads it, together with its default and its limit. From these calls follow
//! the list of valid keys (an unknown key is one that nobody asked for), the defaults, and what the samples in `config/`
//! must say. Mistakes are collected, each with its place in the file; reading goes on with the default.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

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
    keys: RefCell<Vec<Key>>,
    /// Keys of sections (as in the list of keys) whose values are lists of sections themselves.
    lists: RefCell<Vec<(&'static str, &'static str)>>,
    errors: RefCell<Vec<ConfigError>>,
}

/// A section of keys that was asked for.
struct Opened {
    /// The way to it from the top of the file.
    steps: Vec<Step>,
    /// As in messages: `network`, `users.alice`.
    path: String,
    /// As in the list of keys: `network`, `users.NAME`.
    name: &'static str,
}

/// One step towards a section.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Into the value of a key.
    Key(String),
    /// Into one entry of a list.
    Entry(usize),
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
            keys: RefCell::default(),
            lists: RefCell::default(),
            errors: RefCell::default(),
        })
    }

    /// The section `[name]`; every key in it has its default if the section is not there.
    pub(crate) fn section(&self, name: &'static str) -> Section<'_, 't> {
        self.sections.borrow_mut().push(name);
        let entry = self.root.get_key_value(name);
        let table = entry.and_then(|(key, value)| self.table(name, key.span(), value));
        let header = entry.map(|(key, _)| key.span());
        self.opened(
            vec![Step::Key(name.to_string())],
            (name.to_string(), name),
            header,
            table,
        )
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
            let table = self.table(&path, key.span(), value);
            let steps = vec![Step::Key(name.to_string()), Step::Key(sub.clone())];
            sections.push((sub, self.opened(steps, (path, each), Some(key.span()), table)));
        }
        sections
    }

    /// The sections `[[name]]`, at most `max`.
    pub(crate) fn list(&self, name: &'static str, max: usize) -> Vec<Section<'_, 't>> {
        self.sections.borrow_mut().push(name);
        match self.root.get(name) {
            Some(value) => self.entries(value, &[Step::Key(name.to_string())], (name, name), max),
            None => Vec::new(),
        }
    }

    /// The sections `[[section.key]]` of a section, at most `max`. `each` stands for all of them in the list of keys.
    pub(crate) fn list_in<'d>(
        &'d self,
        section: &Section<'d, 't>,
        (key, each): (&'static str, &'static str),
        max: usize,
    ) -> Vec<Section<'d, 't>> {
        self.lists.borrow_mut().push((section.name, key));
        match section.table.and_then(|table| table.get(key)) {
            Some(value) => {
                let steps = [&section.steps[..], &[Step::Key(key.to_string())]].concat();
                self.entries(value, &steps, (&format!("{}.{key}", section.path), each), max)
            }
            None => Vec::new(),
        }
    }

    fn entries<'d>(
        &'d self,
        value: &'d Spanned<DeValue<'t>>,
        steps: &[Step],
        (path, each): (&str, &'static str),
        max: usize,
    ) -> Vec<Section<'d, 't>> {
        let Some(entries) = value.get_ref().as_array() else {
            let message = format!("expected a list of sections, found {}", kind(value.get_ref()));
            let help = format!("write [[{path}]] and its keys below, once for each");
            self.fault(Some(value.span()), path.to_string(), message, Some(help));
            return Vec::new();
        };
        if entries.len() > max {
            let message = format!("{} of them are too many", entries.len());
            self.fault(
                Some(value.span()),
                path.to_string(),
                message,
                Some(format!("at most {max}")),
            );
            return Vec::new();
        }
        let mut sections = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let steps = [steps, &[Step::Entry(index)]].concat();
            let Some(table) = entry.get_ref().as_table() else {
                let message = format!("expected a section, found {}", kind(entry.get_ref()));
                self.fault(Some(entry.span()), path.to_string(), message, None);
                continue;
            };
            sections.push(self.opened(steps, (path.to_string(), each), Some(entry.span()), Some(table)));
        }
        sections
    }

    fn opened<'d>(
        &'d self,
        steps: Vec<Step>,
        (path, name): (String, &'static str),
        header: Option<Range<usize>>,
        table: Option<&'d DeTable<'t>>,
    ) -> Section<'d, 't> {
        self.opened.borrow_mut().push(Opened {
            steps: steps.clone(),
            path: path.clone(),
            name,
        });
        Section {
            document: self,
            path,
            name,
            steps,
            header,
            table,
        }
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
        let lists = self.lists.borrow();
        for opened in self.opened.borrow().iter() {
            let path = &opened.path;
            for (key, _) in self.at(&opened.steps).into_iter().flat_map(|table| table.iter()) {
                let name = key.get_ref();
                let is_key = |known: &Key| known.section == opened.name && known.name == name;
                let is_list = |(section, list): &(&str, &str)| *section == opened.name && *list == name;
                if !keys.iter().any(is_key) && !lists.iter().any(is_list) {
                    let help = suggest::for_key(opened.name, name, &keys);
                    let message = format!("unknown key in [{path}]");
                    self.fault(Some(key.span()), format!("{path}.{name}"), message, Some(help));
                }
            }
        }
    }

    /// The section at the end of these steps, if there is one.
    fn at(&self, steps: &[Step]) -> Option<&DeTable<'t>> {
        let (first, rest) = steps.split_first()?;
        let Step::Key(top) = first else { return None };
        let mut value = self.root.get(top.as_str())?.get_ref();
        for step in rest {
            value = match step {
                Step::Key(key) => value.as_table()?.get(key.as_str())?.get_ref(),
                Step::Entry(index) => value.as_array()?.get(*index)?.get_ref(),
            };
        }
        value.as_table()
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
            let of_sections = |list: &DeArray<'_>| list.iter().any(|entry| entry.get_ref().is_table());
            let is_table = value.get_ref().is_table() || value.get_ref().as_array().is_some_and(of_sections);
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
