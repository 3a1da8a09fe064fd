//! What the programs of the demo say: one line each, JSON where they can.

use std::time::Instant;

use serde_json::Value;

/// Keys of a log line that are no fields of the event.
const FRAME: [&str; 4] = ["timestamp", "level", "target", "message"];

/// One line of a program.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// When it arrived here.
    pub(crate) at: Instant,
    /// The line as it was.
    line: String,
    /// The line as JSON; null if it is none.
    json: Value,
}

impl Event {
    /// Takes a line.
    pub(crate) fn new(line: String) -> Self {
        Self {
            at: Instant::now(),
            json: serde_json::from_str(&line).unwrap_or_default(),
            line,
        }
    }

    /// What happened, in the words of the log line; empty if the line is none.
    pub(crate) fn message(&self) -> &str {
        self.value("message").and_then(Value::as_str).unwrap_or_default()
    }

    /// A value of the line: a field of a log line, or a key of an answer.
    pub(crate) fn value(&self, name: &str) -> Option<&Value> {
        self.json.get(name)
    }

    /// The same as text.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        Some(match self.value(name)? {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }

    /// The same as a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        let value = self.value(name)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    }

    /// The line for people: level, message and fields, or as it was.
    pub(crate) fn in_words(&self) -> String {
        let Some(fields) = self.json.as_object().filter(|_| !self.message().is_empty()) else {
            return self.line.clone();
        };
        let level = self.text("level").unwrap_or_default();
        let mut words = format!("{level:<5} {}", self.message());
        for (name, value) in fields.iter().filter(|(name, _)| !FRAME.contains(&name.as_str())) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            words.push_str(&format!(" {name}={value}"));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_is_taken_apart() {
        let line = r#"{"timestamp":"x","level":"INFO","message":"tunnel is up","epoch":1,"session":"ab","target":"t"}"#;
        let event = Event::new(line.to_owned());
        assert_eq!(event.message(), "tunnel is up");
        assert_eq!(event.number("epoch"), Some(1));
        assert_eq!(event.text("epoch").as_deref(), Some("1"));
        assert_eq!(event.text("session").as_deref(), Some("ab"));
        assert_eq!(event.in_words(), "INFO  tunnel is up epoch=1 session=ab");
    }

    #[test]
    fn an_answer_and_a_plain_line_are_fine_too() {
        let answer = Event::new(r#"{"pong_us":"1200"}"#.to_owned());
        assert_eq!(answer.number("pong_us"), Some(1200));
        let plain = Event::new("thread panicked".to_owned());
        assert_eq!((plain.message(), plain.in_words().as_str()), ("", "thread panicked"));
    }
}
