//! Configuration files of our programs: a good one to start from, changed key by key.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::pki::write_private;

/// A configuration, section by section.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings(Table);

impl Settings {
    /// Sets a key, named `section.key`.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        let (section, key) = key.split_once('.').unwrap_or(("", key));
        let section = self.0.entry(section).or_insert_with(|| Table::new().into());
        if let Value::Table(section) = section {
            section.insert(key.to_owned(), value.into());
        }
        self
    }

    /// Sets whatever this text says, in the words of TOML: keys of sections, and lists of sections as a whole.
    ///
    /// # Errors
    /// If it is not TOML.
    pub fn with_text(mut self, text: &str) -> Result<Self> {
        let more: Table = toml::from_str(text).context("this is not TOML")?;
        for (name, value) in more {
            match (self.0.get_mut(&name), value) {
                (Some(Value::Table(section)), Value::Table(more)) => section.extend(more),
                (_, value) => drop(self.0.insert(name, value)),
            }
        }
        Ok(self)
    }

    /// Sets a key to a path.
    #[must_use]
    pub fn with_path(self, key: &str, path: &Path) -> Self {
        self.with(key, path.display().to_string())
    }

    /// Sets a whole section to what is written here in TOML.
    ///
    /// # Errors
    /// If it is no TOML.
    pub fn with_section(mut self, section: &str, text: &str) -> Result<Self> {
        let table: Table = toml::from_str(text).context("a section is TOML")?;
        self.0.insert(section.to_owned(), table.into());
        Ok(self)
    }

    /// Removes a key, named `section.key`, so that its default holds.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        let (section, key) = key.split_once('.').unwrap_or(("", key));
        if let Some(Value::Table(section)) = self.0.get_mut(section) {
            section.remove(key);
        }
        self
    }

    /// Writes it to `path`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<PathBuf> {
        let text = toml::to_string(&self.0).context("a table of strings and numbers is TOML")?;
        write_private(path, &text)?;
        Ok(path.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_set_changed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::default()
            .with("gateway.url", "https://a")
            .with("gateway.url", "https://b")
            .with("tcp.keepalive_idle_s", 1)
            .with("tcp.keepalive_count", 2)
            .without("tcp.keepalive_count");
        let path = settings.write(&folder.path().join("client.toml")).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text, "[gateway]\nurl = \"https://b\"\n\n[tcp]\nkeepalive_idle_s = 1\n");
    }
}
