//! Header lines, in order, and the cookies in them.

use std::fmt;

use crate::secret::Secret;
use crate::text;

/// Headers whose values are secrets; they print as `[secret]`.
const SECRET_NAMES: [&str; 6] = [
    "cookie",
    "set-cookie",
    "authorization",
    "proxy-authorization",
    "x-dtls-master-secret",
    "x-cstp-post-auth-xml",
];

/// The header lines of a head, in the order and case they came in. They print escaped, without secrets.
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
        let mut pairs = self.all("cookie").flat_map(|line| line.split(';'));
        pairs
            .find_map(|pair| cookie_value(pair, name))
            .filter(|value| !value.is_empty())
            .map(Secret::from)
    }

    /// A cookie of a reply, from its `Set-Cookie` lines. The last one counts, and an empty one takes it away.
    pub fn set_cookie(&self, name: &str) -> Option<Secret> {
        let pairs = self.all("set-cookie").filter_map(|line| line.split(';').next());
        let value = pairs.filter_map(|pair| cookie_value(pair, name)).last()?;
        if value.is_empty() {
            None
        } else {
            Some(Secret::from(value))
        }
    }

    /// Appends the lines to a head, without the empty line that ends it.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for (name, value) in self.iter() {
            out.extend(name.bytes().map(|byte| if is_token(byte) { byte } else { b'_' }));
            out.extend_from_slice(b": ");
            push_text(out, value.trim_matches([' ', '\t']));
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Text of a head, where control characters other than tabs become spaces, so that it cannot add a line.
pub(super) fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().map(|byte| {
        if byte.is_ascii_control() && byte != b'\t' {
            b' '
        } else {
            byte
        }
    }));
}

/// The value of `name=value`, if it has this name. Values may contain `=`: stock cookies are base64.
fn cookie_value<'a>(pair: &'a str, name: &str) -> Option<&'a str> {
    let (have, value) = pair.split_once('=')?;
    (have.trim() == name).then(|| value.trim())
}

/// A character of a header name (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.iter().map(|(name, value)| {
            let secret = SECRET_NAMES.iter().any(|secret| name.eq_ignore_ascii_case(secret));
            let value = if secret {
                "[secret]".to_owned()
            } else {
                text::escape(value)
            };
            (text::escape(name), value)
        });
        f.debug_map().entries(shown).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in lines {
            headers.push(*name, *value);
        }
        headers
    }

    #[test]
    fn names_compare_with_or_without_case() {
        let headers = headers(&[("x-cstp-mtu", "1"), ("X-CSTP-MTU", "2"), ("X-CSTP-MTU", "3")]);
        assert_eq!(headers.get("X-Cstp-Mtu"), Some("1"));
        assert_eq!(headers.get_exact("X-CSTP-MTU"), Some("2"));
        assert_eq!(headers.get_exact("X-Cstp-Mtu"), None);
        assert_eq!(headers.all("X-CSTP-MTU").collect::<Vec<_>>(), ["1", "2", "3"]);
        assert_eq!(headers.all_exact("X-CSTP-MTU").collect::<Vec<_>>(), ["2", "3"]);
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn a_cookie_is_found_among_others_with_its_equals_signs() {
        let headers = headers(&[("Cookie", "webvpncontext=x; openconnect_strapkey=MHc=; webvpn=YWJj+/==")]);
        assert_eq!(headers.cookie("webvpn"), Some(Secret::from("YWJj+/==")));
        assert_eq!(headers.cookie("web"), None);
        assert_eq!(headers.cookie("Webvpn"), None);
    }

    #[test]
    fn the_last_set_cookie_counts() {
        let first = ("Set-Cookie", "webvpn=one; Secure; HttpOnly");
        let gone = ("Set-Cookie", "webvpn=; expires=Thu, 01 Jan 1970 22:00:00 GMT; path=/");
        assert_eq!(headers(&[first]).set_cookie("webvpn"), Some(Secret::from("one")));
        assert_eq!(headers(&[gone, first]).set_cookie("webvpn"), Some(Secret::from("one")));
        assert_eq!(headers(&[first, gone]).set_cookie("webvpn"), None);
        assert_eq!(headers(&[first]).set_cookie("Secure"), None);
    }

    #[test]
    fn headers_print_escaped_and_without_secrets() {
        let headers = headers(&[("COOKIE", "webvpn=hunter2"), ("X-Reason", "no\x1b[31m")]);
        assert_eq!(
            format!("{headers:?}"),
            r#"{"COOKIE": "[secret]", "X-Reason": "no\\u{1b}[31m"}"#
        );
    }

    #[test]
    fn a_value_cannot_add_a_line() {
        let mut out = Vec::new();
        headers(&[("X-CSTP-Banner", "hi\r\nX-Evil: 1\0"), ("a b", "c")]).write(&mut out);
        assert_eq!(out, b"X-CSTP-Banner: hi  X-Evil: 1 \r\na_b: c\r\n");
    }
}
