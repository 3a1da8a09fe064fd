//! `[log]`, the same in both configuration files.

use crate::document::Document;

/// What is logged, and how. Always to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The least important level still written. The environment variable `MARMOT_LOG` overrides it.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
}

/// How important a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Broken, act now.
    Error,
    /// Look tomorrow.
    Warn,
    /// A user would notice.
    Info,
    /// A decision.
    Debug,
    /// Per packet.
    Trace,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text for people.
    Text,
    /// One JSON object a line for programs.
    Json,
}

impl LogLevel {
    /// The word for it in the file, which is also the directive for a log filter.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// Reads `[log]`.
pub(crate) fn read(document: &Document<'_>) -> Log {
    let section = document.section("log");
    let levels = [
        LogLevel::Error,
        LogLevel::Warn,
        LogLevel::Info,
        LogLevel::Debug,
        LogLevel::Trace,
    ];
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    Log {
        level: section
            .choice("level", "info", &levels.map(|level| (level.as_str(), level)))
            .unwrap_or(LogLevel::Info),
        format: section.choice("format", "text", &formats).unwrap_or(LogFormat::Text),
    }
}
