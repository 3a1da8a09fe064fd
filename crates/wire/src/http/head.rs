//! Request and reply heads: parse and write.

use super::Headers;
use crate::error::HttpError;

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

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// What it asks for.
    pub method: Method,
    /// The path, as sent.
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
    /// The request with its body, as it goes out. `Content-Length` is added if there is a body or the method is POST.
    pub fn encode(&self, _body: &[u8]) -> Vec<u8> {
        Vec::new()
    }
}

impl ResponseHead {
    /// The reply with its body, as it goes out, with `Content-Length` added.
    pub fn encode(&self, _body: &[u8]) -> Vec<u8> {
        Vec::new()
    }
}

/// Reads a request head from the start of `bytes`: the head and its length in bytes, or `None` until all of it is
/// there.
///
/// # Errors
/// Anything that is not strict HTTP/1.1, more than `max_head` bytes, more than [`crate::limits::MAX_HEADERS`] lines.
pub fn parse_request(_bytes: &[u8], max_head: usize) -> Result<Option<(RequestHead, usize)>, HttpError> {
    Err(HttpError::HeadTooLong { limit: max_head })
}

/// Reads a reply head from the start of `bytes`: the head and its length in bytes, or `None` until all of it is there.
/// HTTP/1.0 is accepted, too.
///
/// # Errors
/// As for [`parse_request`], with up to [`crate::limits::MAX_REPLY_HEADERS`] lines.
pub fn parse_response(_bytes: &[u8], max_head: usize) -> Result<Option<(ResponseHead, usize)>, HttpError> {
    Err(HttpError::HeadTooLong { limit: max_head })
}
