//! What is wrong with a configuration file, and where.

use std::fmt;

/// One mistake in a file: where it is, which key it concerns, what is wrong, and what was probably meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Name of the file as given by the caller.
    pub file: String,
    /// Line, counted from 1; 0 when the mistake is something that is missing altogether.
    pub line: usize,
    /// Column in characters, counted from 1; 0 with line 0.
    pub column: usize,
    /// Path of the key, such as `listen.addresses`; empty when the file is not TOML.
    pub key: String,
    /// What is wrong, in lower case.
    pub message: String,
    /// What to do, or the nearest valid key.
    pub help: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

impl std::error::Error for ConfigError {}

/// Every mistake found in one file, in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.0 {
            writeln!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl ConfigErrors {
    fn one(error: ConfigError) -> Self {
        ConfigErrors(vec![error])
    }

    /// For a file that cannot be read at all.
    pub fn unreadable(file: &str, message: impl Into<String>) -> Self {
        Self::one(ConfigError {
            file: file.to_string(),
            line: 0,
            column: 0,
            key: String::new(),
            message: message.into(),
            help: None,
        })
    }
}
