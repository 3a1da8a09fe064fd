//! Request and reply heads: parse and write.

use httparse::{EMPTY_HEADER, Header, Status};

use super::Headers;
use super::body::Framing;
use super::headers::push_text;
use crate::error::HttpError;
use crate::limits::{MAX_HEADERS, MAX_REPLY_HEADERS};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// `GET`: how the legacy dialogue starts.
    Get,
    /// `POST`: every step of an authentication.
    Post,
    /// `CONNECT`: the tunnel.
    Connect,
    /// Anything else, as sent.
    Other(String),
}

impl Method {
    /// The word on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Connect => "CONNECT",
            Self::Other(word) => word,
        }
    }
}

impl From<&str> for Method {
    fn from(word: &str) -> Self {
        match word {
            "GET" => Self::Get,
            "POST" => Self::Post,
            "CONNECT" => Self::Connect,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// What it asks for.
    pub method: Method,
    /// The path, as sent; peer text.
    pub target: String,
    /// Its header lines.
    pub headers: Headers,
}

/// The head of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status code, 100 to 999.
    pub status: u16,
    /// The words after it; peer text.
    pub reason: String,
    /// Its header lines.
    pub headers: Headers,
}

impl RequestHead {
    /// The request with its body, as it goes out. `Content-Length` is added if there is a body or the method is POST,
    /// unless it is among the headers.
    pub fn encode(&self, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(512 + body.len());
        push_text(&mut out, self.method.as_str());
        out.push(b' ');
        push_target(&mut out, &self.target);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        let has_body = !body.is_empty() || self.method == Method::Post;
        finish(out, &self.headers, has_body, body)
    }
}

impl ResponseHead {
    /// The reply with its body, as it goes out, with `Content-Length` added unless it is among the headers. A 204 has
    /// neither (RFC 9110 section 8.6).
    pub fn encode(&self, body: &[u8]) -> Vec<u8> {
        if self.status == 204 {
            return self.encode_without_body();
        }
        let mut out = self.start();
        out.reserve(body.len());
        finish(out, &self.headers, true, body)
    }

    /// The reply to a granted CONNECT: no length, since the connection goes on as CSTP.
    pub(crate) fn encode_without_body(&self) -> Vec<u8> {
        finish(self.start(), &self.headers, false, &[])
    }

    fn start(&self) -> Vec<u8> {
        let mut out = format!("HTTP/1.1 {:03} ", self.status.clamp(100, 999)).into_bytes();
        push_text(&mut out, &self.reason);
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// Headers, length, empty line and body.
fn finish(mut out: Vec<u8>, headers: &Headers, has_body: bool, body: &[u8]) -> Vec<u8> {
    headers.write(&mut out);
    let framed = headers
        .get("content-length")
        .or(headers.get("transfer-encoding"))
        .is_some();
    if has_body && !framed {
        out.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    out
}

/// A request target, where everything but visible ASCII is percent-encoded. It may come from a gateway's form.
fn push_target(out: &mut Vec<u8>, target: &str) {
    if target.is_empty() {
        out.push(b'/');
    }
    for byte in target.bytes() {
        if byte.is_ascii_graphic() {
            out.push(byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
}

/// Reads a request head from the start of `bytes`: the head and its length in bytes, or `None` until all of it is
/// there.
///
/// # Errors
/// Anything that is not strict HTTP/1.1, more than `max_head` bytes, more than [`crate::limits::MAX_HEADERS`] lines.
pub fn parse_request(bytes: &[u8], max_head: usize) -> Result<Option<(RequestHead, usize)>, HttpError> {
    let mut lines = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut lines);
    let Some(length) = complete(request.parse(within(bytes, max_head)), bytes, max_head, MAX_HEADERS)? else {
        return Ok(None);
    };
    if request.version != Some(1) {
        return Err(HttpError::Version);
    }
    let head = RequestHead {
        method: Method::from(request.method.unwrap_or_default()),
        target: request.path.unwrap_or_default().to_owned(),
        headers: collect(request.headers),
    };
    Framing::of(&head.headers)?;
    Ok(Some((head, length)))
}

/// Reads a reply head from the start of `bytes`: the head and its length in bytes, or `None` until all of it is there.
/// HTTP/1.0 is accepted, too.
///
/// # Errors
/// As for [`parse_request`], with up to [`crate::limits::MAX_REPLY_HEADERS`] lines.
pub fn parse_response(bytes: &[u8], max_head: usize) -> Result<Option<(ResponseHead, usize)>, HttpError> {
    let mut lines = vec![EMPTY_HEADER; MAX_REPLY_HEADERS];
    let mut response = httparse::Response::new(&mut lines);
    let Some(length) = complete(
        response.parse(within(bytes, max_head)),
        bytes,
        max_head,
        MAX_REPLY_HEADERS,
    )?
    else {
        return Ok(None);
    };
    let head = ResponseHead {
        status: response
            .code
            .filter(|code| *code >= 100)
            .ok_or(HttpError::Syntax("a bad status line"))?,
        reason: response.reason.unwrap_or_default().to_owned(),
        headers: collect(response.headers),
    };
    Framing::of(&head.headers)?;
    Ok(Some((head, length)))
}

/// What may belong to a head.
fn within(bytes: &[u8], max_head: usize) -> &[u8] {
    &bytes[..bytes.len().min(max_head)]
}

/// The length of a complete head, `None` for one that may still be completed.
fn complete(
    parsed: httparse::Result<usize>,
    bytes: &[u8],
    max_head: usize,
    max_lines: usize,
) -> Result<Option<usize>, HttpError> {
    match parsed {
        Ok(Status::Complete(length)) => Ok(Some(length)),
        Ok(Status::Partial) if bytes.len() >= max_head => Err(HttpError::HeadTooLong { limit: max_head }),
        Ok(Status::Partial) => Ok(None),
        Err(error) => Err(match error {
            httparse::Error::HeaderName => HttpError::Syntax("a bad header name"),
            httparse::Error::HeaderValue => HttpError::Syntax("a bad header value"),
            httparse::Error::NewLine => HttpError::Syntax("a bad line end"),
            httparse::Error::Status => HttpError::Syntax("a bad status line"),
            httparse::Error::Token => HttpError::Syntax("a bad request line"),
            httparse::Error::TooManyHeaders => HttpError::TooManyHeaders { limit: max_lines },
            httparse::Error::Version => HttpError::Version,
        }),
    }
}

/// Owned header lines. Values that are not UTF-8 get replacement characters.
fn collect(lines: &[Header<'_>]) -> Headers {
    let mut headers = Headers::new();
    for line in lines {
        headers.push(line.name, String::from_utf8_lossy(line.value));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_HEAD;

    fn request(bytes: &[u8]) -> Result<Option<(RequestHead, usize)>, HttpError> {
        parse_request(bytes, MAX_HEAD)
    }

    fn response(bytes: &[u8]) -> Result<Option<(ResponseHead, usize)>, HttpError> {
        parse_response(bytes, MAX_HEAD)
    }

    #[test]
    fn a_request_is_read_up_to_its_body() {
        let bytes = b"POST /auth HTTP/1.1\r\nHost: gw\r\nX-Pad: 0000\r\nContent-Length: 3\r\n\r\nabc";
        let (head, length) = request(bytes).expect("valid").expect("complete");
        assert_eq!((&head.method, head.target.as_str()), (&Method::Post, "/auth"));
        assert_eq!(head.headers.get("x-pad"), Some("0000"));
        assert_eq!(&bytes[length..], b"abc");
    }

    #[test]
    fn a_head_in_pieces_is_not_there_yet() {
        let bytes = b"GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n";
        for length in 0..bytes.len() {
            assert_eq!(request(&bytes[..length]), Ok(None), "{length} bytes");
        }
        assert!(request(bytes).expect("valid").is_some());
    }

    #[test]
    fn a_head_has_a_longest_length() {
        let mut bytes = b"GET / HTTP/1.1\r\nX-Long: ".to_vec();
        bytes.resize(MAX_HEAD, b'x');
        assert_eq!(request(&bytes), Err(HttpError::HeadTooLong { limit: MAX_HEAD }));
        assert_eq!(response(b"HTTP/1.1 200 OK"), Ok(None));
        assert_eq!(
            parse_response(b"HTTP/1.1 200 OK\r\n\r\n", 10),
            Err(HttpError::HeadTooLong { limit: 10 })
        );
    }

    #[test]
    fn a_head_has_a_largest_number_of_lines() {
        let with_lines = |start: &str, count: usize| format!("{start}\r\n{}\r\n", "A: b\r\n".repeat(count));
        assert!(
            request(with_lines("GET / HTTP/1.1", MAX_HEADERS).as_bytes())
                .expect("valid")
                .is_some()
        );
        assert_eq!(
            request(with_lines("GET / HTTP/1.1", MAX_HEADERS + 1).as_bytes()),
            Err(HttpError::TooManyHeaders { limit: MAX_HEADERS })
        );
        assert_eq!(
            parse_response(with_lines("HTTP/1.1 200 OK", MAX_REPLY_HEADERS + 1).as_bytes(), 100_000),
            Err(HttpError::TooManyHeaders {
                limit: MAX_REPLY_HEADERS
            })
        );
    }

    #[test]
    fn a_folded_line_is_refused() {
        let folded = b"GET / HTTP/1.1\r\nX-A: one\r\n two\r\n\r\n";
        assert_eq!(request(folded), Err(HttpError::Syntax("a bad header name")));
        assert!(response(b"HTTP/1.1 200 OK\r\nX-A: one\r\n\ttwo\r\n\r\n").is_err());
    }

    #[test]
    fn a_space_before_the_colon_is_refused() {
        assert!(request(b"GET / HTTP/1.1\r\nContent-Length : 5\r\n\r\n").is_err());
        assert!(response(b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n").is_err());
    }

    #[test]
    fn control_characters_are_refused() {
        for bad in ["a\0b", "a\x1bb", "a\rb", "a\x7fb"] {
            let bytes = format!("GET / HTTP/1.1\r\nX-A: {bad}\r\n\r\n");
            assert!(request(bytes.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(request(b"GET /\x01 HTTP/1.1\r\n\r\n").is_err());
    }

    #[test]
    fn contradicting_lengths_are_refused() {
        let ambiguous = [
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "Content-Length: 3\r\nContent-Length: 4",
            "content-length: 3\r\nCONTENT-LENGTH: 4",
        ];
        for lines in ambiguous {
            let bytes = format!("POST / HTTP/1.1\r\n{lines}\r\n\r\n");
            assert_eq!(request(bytes.as_bytes()), Err(HttpError::Ambiguous), "{lines}");
            let bytes = format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n");
            assert_eq!(response(bytes.as_bytes()), Err(HttpError::Ambiguous), "{lines}");
        }
        assert!(request(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n").is_ok());
    }

    #[test]
    fn a_request_must_be_http_1_1_and_a_reply_may_be_1_0() {
        assert_eq!(request(b"GET / HTTP/1.0\r\n\r\n"), Err(HttpError::Version));
        assert_eq!(request(b"GET / HTTP/2.0\r\n\r\n"), Err(HttpError::Version));
        let (head, _) = response(b"HTTP/1.0 200 OK\r\n\r\n").expect("valid").expect("complete");
        assert_eq!(head.status, 200);
    }

    #[test]
    fn a_tls_record_is_no_request() {
        assert!(request(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").is_err());
    }

    #[test]
    fn a_value_that_is_not_utf8_is_replaced() {
        let (head, _) = request(b"GET / HTTP/1.1\r\nX-A: gr\xfc\xdfe\r\n\r\n")
            .expect("valid")
            .expect("complete");
        assert_eq!(head.headers.get("X-A"), Some("gr\u{fffd}\u{fffd}e"));
    }

    #[test]
    fn a_request_is_written_with_a_length_when_it_has_a_body() {
        let mut head = RequestHead {
            method: Method::Post,
            target: "/auth".into(),
            headers: Headers::new(),
        };
        head.headers.push("Host", "gw");
        assert_eq!(
            head.encode(b"abc"),
            b"POST /auth HTTP/1.1\r\nHost: gw\r\nContent-Length: 3\r\n\r\nabc"
        );
        head.headers.push("content-length", "3");
        assert_eq!(
            head.encode(b"abc"),
            b"POST /auth HTTP/1.1\r\nHost: gw\r\ncontent-length: 3\r\n\r\nabc"
        );
        let connect = RequestHead {
            method: Method::Connect,
            target: "/x".into(),
            headers: Headers::new(),
        };
        assert_eq!(connect.encode(b""), b"CONNECT /x HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn a_target_from_a_form_cannot_add_a_line() {
        let head = RequestHead {
            method: Method::Get,
            target: "/a b HTTP/1.1\r\nX: é".into(),
            headers: Headers::new(),
        };
        assert_eq!(
            head.encode(b""),
            b"GET /a%20b%20HTTP/1.1%0D%0AX:%20%C3%A9 HTTP/1.1\r\n\r\n"
        );
    }

    #[test]
    fn a_reply_is_written_with_its_length() {
        let head = ResponseHead {
            status: 401,
            reason: "No\r\n".into(),
            headers: Headers::new(),
        };
        assert_eq!(head.encode(b""), b"HTTP/1.1 401 No  \r\nContent-Length: 0\r\n\r\n");
    }
}
