//! `[log]`, the same in both configuration files.

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
