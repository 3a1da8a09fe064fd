//! Bodies: by length, chunked, or until the connection ends.

use bytes::{Buf, Bytes, BytesMut};

use super::{Headers, RequestHead, ResponseHead};
use crate::error::HttpError;
use crate::limits::MAX_CHUNK_LINE;

/// Most trailer lines after a chunked body. No stock peer sends any.
const MAX_TRAILERS: usize = 16;

/// How a head says where its body ends (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Nothing said.
    Unsaid,
    /// `Content-Length`, in bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

impl Framing {
    /// What these headers say, if it can be understood in one way only.
    pub(super) fn of(headers: &Headers) -> Result<Self, HttpError> {
        let mut framing = Self::Unsaid;
        for coding in headers.all("transfer-encoding") {
            if framing == Self::Chunked || !coding.trim().eq_ignore_ascii_case("chunked") {
                return Err(HttpError::TransferCoding);
            }
            framing = Self::Chunked;
        }
        for length in headers.all("content-length") {
            let length = Self::Length(parse_length(length)?);
            if framing != Self::Unsaid && framing != length {
                return Err(HttpError::Ambiguous);
            }
            framing = length;
        }
        Ok(framing)
    }
}

/// Digits only: no sign, no list.
fn parse_length(text: &str) -> Result<u64, HttpError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HttpError::Length);
    }
    Ok(text.parse().unwrap_or(u64::MAX))
}

/// Collects one body. Feed it until it returns the body; what follows the body stays in the input.
#[derive(Debug)]
pub struct BodyDecoder {
    limit: usize,
    body: BytesMut,
    state: State,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// This many bytes, then the body is complete.
    Plain(usize),
    /// Everything until the connection ends.
    UntilClose,
    /// The line with the size of a chunk.
    ChunkSize,
    /// This many bytes of a chunk.
    Chunk(usize),
    /// The line end after a chunk.
    ChunkEnd,
    /// Lines after the last chunk, after this many of them.
    Trailer(usize),
}

impl BodyDecoder {
    /// The decoder for this request's body of at most `limit` bytes. Without a length there is no body.
    ///
    /// # Errors
    /// [`HttpError::Ambiguous`], [`HttpError::Length`], [`HttpError::TransferCoding`], [`HttpError::BodyTooLong`].
    pub fn for_request(head: &RequestHead, limit: usize) -> Result<Self, HttpError> {
        Self::framed(Framing::of(&head.headers)?, State::Plain(0), limit)
    }

    /// The decoder for this reply's body of at most `limit` bytes. Without a length it lasts until the connection
    /// ends. Not for a granted CONNECT, whose connection goes on as CSTP.
    ///
    /// # Errors
    /// As for [`BodyDecoder::for_request`].
    pub fn for_response(head: &ResponseHead, limit: usize) -> Result<Self, HttpError> {
        let framing = match head.status {
            100..=199 | 204 | 304 => Framing::Length(0),
            _ => Framing::of(&head.headers)?,
        };
        Self::framed(framing, State::UntilClose, limit)
    }

    fn framed(framing: Framing, unsaid: State, limit: usize) -> Result<Self, HttpError> {
        let state = match framing {
            Framing::Unsaid => unsaid,
            Framing::Chunked => State::ChunkSize,
            Framing::Length(length) => match usize::try_from(length) {
                Ok(length) if length <= limit => State::Plain(length),
                _ => return Err(HttpError::BodyTooLong { limit }),
            },
        };
        Ok(Self {
            limit,
            body: BytesMut::new(),
            state,
        })
    }

    /// Takes what belongs to the body from `input`: the whole body once it is complete, then empty bodies.
    ///
    /// # Errors
    /// [`HttpError::BodyTooLong`], [`HttpError::Chunk`].
    pub fn feed(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, HttpError> {
        loop {
            match self.state {
                State::Plain(left) => {
                    let left = left - self.take(input, left);
                    self.state = State::Plain(left);
                    return Ok((left == 0).then(|| self.finish()));
                }
                State::UntilClose => {
                    if self.body.len() + input.len() > self.limit {
                        return Err(HttpError::BodyTooLong { limit: self.limit });
                    }
                    self.take(input, usize::MAX);
                    return Ok(None);
                }
                State::ChunkSize => {
                    let Some(line) = take_line(input)? else { return Ok(None) };
                    self.state = match parse_chunk_size(&line)? {
                        0 => State::Trailer(0),
                        size if size <= self.limit - self.body.len() => State::Chunk(size),
                        _ => return Err(HttpError::BodyTooLong { limit: self.limit }),
                    };
                }
                State::Chunk(left) => {
                    let left = left - self.take(input, left);
                    self.state = State::Chunk(left);
                    if left > 0 {
                        return Ok(None);
                    }
                    self.state = State::ChunkEnd;
                }
                State::ChunkEnd => {
                    let Some(line) = take_line(input)? else { return Ok(None) };
                    if !line.is_empty() {
                        return Err(HttpError::Chunk("a chunk longer than announced"));
                    }
                    self.state = State::ChunkSize;
                }
                State::Trailer(count) => {
                    let Some(line) = take_line(input)? else { return Ok(None) };
                    if line.is_empty() {
                        self.state = State::Plain(0);
                    } else if count < MAX_TRAILERS {
                        self.state = State::Trailer(count + 1);
                    } else {
                        return Err(HttpError::Chunk("too many trailers"));
                    }
                }
            }
        }
    }

    /// The connection ended: the body, if that is how it ends.
    ///
    /// # Errors
    /// [`HttpError::Truncated`] if more was announced.
    pub fn at_eof(&mut self) -> Result<Bytes, HttpError> {
        match self.state {
            State::UntilClose | State::Plain(0) => Ok(self.finish()),
            State::Plain(_) | State::ChunkSize | State::Chunk(_) | State::ChunkEnd | State::Trailer(_) => {
                Err(HttpError::Truncated)
            }
        }
    }

    /// Moves at most `most` bytes of `input` to the body and returns how many.
    fn take(&mut self, input: &mut BytesMut, most: usize) -> usize {
        let taken = input.split_to(input.len().min(most));
        self.body.extend_from_slice(&taken);
        taken.len()
    }

    fn finish(&mut self) -> Bytes {
        self.state = State::Plain(0);
        self.body.split().freeze()
    }
}

/// A line up to CRLF without it, `None` until it is complete.
fn take_line(input: &mut BytesMut) -> Result<Option<BytesMut>, HttpError> {
    let window = &input[..input.len().min(MAX_CHUNK_LINE)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if input.len() < MAX_CHUNK_LINE {
            Ok(None)
        } else {
            Err(HttpError::Chunk("a line too long"))
        };
    };
    let mut line = input.split_to(end);
    input.advance(1);
    match line.split_last() {
        Some((b'\r', text)) => {
            line.truncate(text.len());
            Ok(Some(line))
        }
        _ => Err(HttpError::Chunk("a bad line end")),
    }
}

/// 1 to 8 hexadecimal digits, then nothing, or an extension that means nothing to us.
fn parse_chunk_size(line: &[u8]) -> Result<usize, HttpError> {
    let digits = line
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii_end();
    let text = std::str::from_utf8(digits).unwrap_or_default();
    if !(1..=8).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(HttpError::Chunk("a bad size"));
    }
    usize::from_str_radix(text, 16).map_err(|_| HttpError::Chunk("a bad size"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Method;

    fn request(lines: &[(&str, &str)], limit: usize) -> Result<BodyDecoder, HttpError> {
        let mut headers = Headers::new();
        for (name, value) in lines {
            headers.push(*name, *value);
        }
        BodyDecoder::for_request(
            &RequestHead {
                method: Method::Post,
                target: "/".into(),
                headers,
            },
            limit,
        )
    }

    fn response(status: u16, limit: usize) -> BodyDecoder {
        let head = ResponseHead {
            status,
            reason: String::new(),
            headers: Headers::new(),
        };
        BodyDecoder::for_response(&head, limit).expect("nothing said about the length")
    }

    fn chunked(limit: usize) -> BodyDecoder {
        request(&[("Transfer-Encoding", "chunked")], limit).expect("one coding")
    }

    #[test]
    fn a_body_ends_where_its_length_says() {
        let mut decoder = request(&[("Content-Length", "5")], 100).expect("length");
        let mut input = BytesMut::from("hel");
        assert_eq!(decoder.feed(&mut input), Ok(None));
        assert!(input.is_empty());
        input.extend_from_slice(b"loCONNECT");
        assert_eq!(decoder.feed(&mut input), Ok(Some(Bytes::from("hello"))));
        assert_eq!(&input[..], b"CONNECT");
        assert_eq!(decoder.feed(&mut input), Ok(Some(Bytes::new())));
        assert_eq!(&input[..], b"CONNECT");
    }

    #[test]
    fn a_request_without_a_length_has_no_body() {
        let mut input = BytesMut::from("next");
        assert_eq!(
            request(&[], 100).expect("none").feed(&mut input),
            Ok(Some(Bytes::new()))
        );
        assert_eq!(
            request(&[("Content-Length", "0")], 0).expect("zero").feed(&mut input),
            Ok(Some(Bytes::new()))
        );
        assert_eq!(&input[..], b"next");
    }

    #[test]
    fn an_announced_length_over_the_limit_is_refused_at_once() {
        for length in ["101", "99999999999999999999999999"] {
            let decoder = request(&[("Content-Length", length)], 100);
            assert_eq!(decoder.err(), Some(HttpError::BodyTooLong { limit: 100 }));
        }
        assert!(request(&[("Content-Length", "100")], 100).is_ok());
    }

    #[test]
    fn a_length_is_digits_only() {
        for length in ["+5", "-5", "5, 5", "0x5", "", "5 "] {
            assert_eq!(
                request(&[("Content-Length", length)], 100).err(),
                Some(HttpError::Length),
                "{length:?}"
            );
        }
    }

    #[test]
    fn only_chunked_alone_is_a_coding_we_know() {
        for coding in ["gzip, chunked", "identity", "chunked, chunked"] {
            let decoder = request(&[("Transfer-Encoding", coding)], 100);
            assert_eq!(decoder.err(), Some(HttpError::TransferCoding), "{coding}");
        }
        let twice = [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")];
        assert_eq!(request(&twice, 100).err(), Some(HttpError::TransferCoding));
    }

    #[test]
    fn chunks_join_byte_by_byte_and_what_follows_stays() {
        let wire = b"4\r\nWiki\r\nA;ext=1\r\npedia in c\r\n5 \r\nhunks\r\n0\r\nX-Trailer: 1\r\n\r\n";
        let mut decoder = chunked(100);
        let mut input = BytesMut::new();
        for (index, byte) in wire.iter().enumerate() {
            input.extend_from_slice(&[*byte]);
            let fed = decoder.feed(&mut input).expect("valid");
            assert_eq!(fed.is_some(), index + 1 == wire.len());
        }
        let mut all = BytesMut::from(&wire[..]);
        all.extend_from_slice(b"STF");
        assert_eq!(
            chunked(100).feed(&mut all),
            Ok(Some(Bytes::from("Wikipedia in chunks")))
        );
        assert_eq!(&all[..], b"STF");
    }

    #[test]
    fn broken_chunks_are_refused() {
        for (wire, what) in [
            ("zz\r\n", "a bad size"),
            ("\r\n", "a bad size"),
            ("-1\r\n", "a bad size"),
            ("123456789\r\n", "a bad size"),
            ("4\nWiki", "a bad line end"),
            ("4\r\nWikipedia\r\n", "a chunk longer than announced"),
        ] {
            assert_eq!(
                chunked(100).feed(&mut BytesMut::from(wire)),
                Err(HttpError::Chunk(what)),
                "{wire:?}"
            );
        }
        let endless = "1".repeat(MAX_CHUNK_LINE);
        assert_eq!(
            chunked(100).feed(&mut BytesMut::from(&endless[..])),
            Err(HttpError::Chunk("a line too long"))
        );
        let trailers = format!("0\r\n{}", "A: b\r\n".repeat(MAX_TRAILERS + 1));
        assert_eq!(
            chunked(100).feed(&mut BytesMut::from(&trailers[..])),
            Err(HttpError::Chunk("too many trailers"))
        );
    }

    #[test]
    fn chunks_together_stay_within_the_limit() {
        let limit = HttpError::BodyTooLong { limit: 6 };
        assert_eq!(
            chunked(6).feed(&mut BytesMut::from("4\r\nWiki\r\n3\r\n")),
            Err(limit.clone())
        );
        assert_eq!(chunked(6).feed(&mut BytesMut::from("ffffffff\r\n")), Err(limit));
        assert_eq!(
            chunked(4).feed(&mut BytesMut::from("4\r\nWiki\r\n0\r\n\r\n")),
            Ok(Some(Bytes::from("Wiki")))
        );
    }

    #[test]
    fn a_reply_without_a_length_lasts_until_the_end() {
        let mut decoder = response(200, 8);
        assert_eq!(decoder.feed(&mut BytesMut::from("until ")), Ok(None));
        assert_eq!(decoder.feed(&mut BytesMut::from("it")), Ok(None));
        assert_eq!(decoder.at_eof(), Ok(Bytes::from("until it")));
        let mut decoder = response(200, 8);
        assert_eq!(
            decoder.feed(&mut BytesMut::from("too long!")),
            Err(HttpError::BodyTooLong { limit: 8 })
        );
    }

    #[test]
    fn some_replies_have_no_body_at_all() {
        for status in [100, 204, 304] {
            assert_eq!(
                response(status, 8).feed(&mut BytesMut::from("x")),
                Ok(Some(Bytes::new())),
                "{status}"
            );
        }
    }

    #[test]
    fn an_end_inside_a_body_is_noticed() {
        let mut decoder = request(&[("Content-Length", "5")], 100).expect("length");
        assert_eq!(decoder.feed(&mut BytesMut::from("hel")), Ok(None));
        assert_eq!(decoder.at_eof(), Err(HttpError::Truncated));
        assert_eq!(chunked(100).at_eof(), Err(HttpError::Truncated));
    }
}
