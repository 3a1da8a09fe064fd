//! The legacy reply: `application/x-www-form-urlencoded`, for `openconnect --no-xmlpost` and old clients.
//!
//! The dialogue starts with a GET, the gateway answers with the same XML forms, and only the answers come in this
//! form, under the names the gateway gave. Source: openconnect 9.01, WHATWG URL 5.1.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

use super::Field;
use crate::error::AuthError;
use crate::limits::{MAX_BODY, MAX_FIELD_NAME, MAX_FIELD_VALUE, MAX_FIELDS};
use crate::secret::Secret;

/// What is escaped: everything but the unreserved characters (RFC 3986, 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The body that answers with these fields, in order.
pub fn encode(fields: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in fields {
        if !out.is_empty() {
            out.push('&');
        }
        out.extend(utf8_percent_encode(name, ESCAPED));
        out.push('=');
        out.extend(utf8_percent_encode(value, ESCAPED));
    }
    out
}

/// Reads the fields of a body, in order. `+` is a space; a line end after the last field is passed over.
///
/// # Errors
/// [`AuthError::TooLong`], [`AuthError::TooMuch`], [`AuthError::Encoding`], [`AuthError::Field`].
pub fn parse(body: &[u8]) -> Result<Vec<Field>, AuthError> {
    if body.len() > MAX_BODY {
        return Err(AuthError::TooLong { limit: MAX_BODY });
    }
    let mut fields = Vec::new();
    for pair in body
        .trim_ascii_end()
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
    {
        if fields.len() == MAX_FIELDS {
            return Err(AuthError::TooMuch("many fields"));
        }
        fields.push(field(pair)?);
    }
    Ok(fields)
}

/// `name=value`, or a name alone.
fn field(pair: &[u8]) -> Result<Field, AuthError> {
    let equals = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
    let (name, value) = pair.split_at(equals);
    let name = decode(name)?;
    let value = decode(value.strip_prefix(b"=").unwrap_or_default())?;
    if name.is_empty() || name.contains(char::is_control) || value.contains('\0') {
        return Err(AuthError::Field);
    }
    if name.len() > MAX_FIELD_NAME || value.len() > MAX_FIELD_VALUE {
        return Err(AuthError::TooMuch("long a field"));
    }
    Ok(Field {
        name,
        value: Secret::new(value),
    })
}

fn decode(text: &[u8]) -> Result<String, AuthError> {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        match rest.get(at + 1..at + 3) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => rest = &rest[at + 3..],
            _ => return Err(AuthError::Field),
        }
    }
    let spaced: Vec<u8> = text
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    percent_decode(&spaced)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| AuthError::Encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(body: &str) -> Result<Vec<(String, String)>, AuthError> {
        let pair = |field: Field| (field.name, field.value.expose().to_owned());
        Ok(parse(body.as_bytes())?.into_iter().map(pair).collect())
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn fields_are_read_in_order() {
        let expected = [
            pair("group_list", "all"),
            pair("username", "alice"),
            pair("password", ""),
        ];
        assert_eq!(pairs("group_list=all&username=alice&password="), Ok(expected.to_vec()));
        assert_eq!(pairs("a&&b=c=d\r\n"), Ok(vec![pair("a", ""), pair("b", "c=d")]));
        assert_eq!(pairs(""), Ok(Vec::new()));
    }

    #[test]
    fn escapes_become_characters() {
        assert_eq!(
            pairs("password=a%26b%3D%2B+%c3%A9%25"),
            Ok(vec![pair("password", "a&b=+ é%")])
        );
    }

    #[test]
    fn what_is_written_reads_back() {
        let body = encode(&[("username", "alice"), ("password", "p&=+ %é~")]);
        assert_eq!(body, "username=alice&password=p%26%3D%2B%20%25%C3%A9~");
        assert_eq!(
            pairs(&body),
            Ok(vec![pair("username", "alice"), pair("password", "p&=+ %é~")])
        );
    }

    #[test]
    fn malformed_fields_are_refused() {
        for body in ["a=%", "a=%4", "a=%zz", "a=%+1", "=x", "a%0a=x", "a=%00"] {
            assert_eq!(pairs(body), Err(AuthError::Field), "{body}");
        }
        assert_eq!(pairs("a=%ff"), Err(AuthError::Encoding));
    }

    #[test]
    fn fields_have_limits() {
        let many = "a=b&".repeat(MAX_FIELDS + 1);
        assert_eq!(pairs(&many), Err(AuthError::TooMuch("many fields")));
        let long = format!("a={}", "x".repeat(MAX_FIELD_VALUE + 1));
        assert_eq!(pairs(&long), Err(AuthError::TooMuch("long a field")));
        let long = format!("{}=a", "x".repeat(MAX_FIELD_NAME + 1));
        assert_eq!(pairs(&long), Err(AuthError::TooMuch("long a field")));
        assert_eq!(
            pairs(&"x".repeat(MAX_BODY + 1)),
            Err(AuthError::TooLong { limit: MAX_BODY })
        );
    }
}
