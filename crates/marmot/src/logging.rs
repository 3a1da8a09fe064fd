//! Log lines on standard error: text for people, JSON for programs.

use std::io::IsTerminal as _;

use config::{Log, LogFormat, LogLevel};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::exit::{Exit, Failure};

/// What is logged, instead of `[log] level`.
const VARIABLE: &str = "MARMOT_LOG";

/// Starts logging; once per process.
pub(crate) fn start(log: Log) -> Result<(), Failure> {
    let filter = match std::env::var(VARIABLE) {
        Ok(directives) if !directives.is_empty() => filter(&directives)?,
        Ok(_) | Err(_) => filter(log.level.as_str())?,
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(log.level >= LogLevel::Debug || log.format == LogFormat::Json);
    let started = match log.format {
        LogFormat::Text => lines.finish().try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    };
    started.map_err(|error| Failure::new(Exit::Error, format!("cannot start logging: {error}")))
}

fn filter(directives: &str) -> Result<EnvFilter, Failure> {
    EnvFilter::try_new(directives).map_err(|error| {
        let hint = "write a level such as `debug`, or `info,client=trace`";
        Failure::new(Exit::Config, format!("cannot use {VARIABLE}: {error}; {hint}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_targets_are_filters_and_nonsense_is_a_mistake_in_the_configuration() {
        for level in [
            LogLevel::Error,
            LogLevel::Warn,
            LogLevel::Info,
            LogLevel::Debug,
            LogLevel::Trace,
        ] {
            assert!(filter(level.as_str()).is_ok());
        }
        assert!(filter("info,client=trace").is_ok());
        let failure = filter("client=loud").expect_err("no such level");
        assert_eq!(failure.exit, Exit::Config as u8);
        assert!(failure.to_string().starts_with("cannot use MARMOT_LOG"));
    }
}
