//! Bodies: by length, chunked, or until the connection ends.

use bytes::{Bytes, BytesMut};

use super::{RequestHead, ResponseHead};
use crate::error::HttpError;

/// Collects one body. Feed it until it returns the body; what follows the body stays in the input.
#[derive(Debug)]
pub struct BodyDecoder {
    limit: usize,
}

impl BodyDecoder {
    /// The decoder for this request's body of at most `limit` bytes. Without a length there is no body.
    ///
    /// # Errors
    /// [`HttpError::Ambiguous`], [`HttpError::Length`], [`HttpError::TransferCoding`], [`HttpError::BodyTooLong`].
    pub fn for_request(_head: &RequestHead, limit: usize) -> Result<Self, HttpError> {
        Ok(Self { limit })
    }

    /// The decoder for this reply's body of at most `limit` bytes. Without a length it lasts until the connection
    /// ends. Not for a granted CONNECT, whose connection goes on as CSTP.
    ///
    /// # Errors
    /// As for [`BodyDecoder::for_request`].
    pub fn for_response(_head: &ResponseHead, limit: usize) -> Result<Self, HttpError> {
        Ok(Self { limit })
    }

    /// Takes what belongs to the body from `input`: the whole body once it is complete, then empty bodies.
    ///
    /// # Errors
    /// [`HttpError::BodyTooLong`], [`HttpError::Chunk`].
    pub fn feed(&mut self, _input: &mut BytesMut) -> Result<Option<Bytes>, HttpError> {
        Err(HttpError::BodyTooLong { limit: self.limit })
    }

    /// The connection ended: the body, if that is how it ends.
    ///
    /// # Errors
    /// [`HttpError::Truncated`] if more was announced.
    pub fn at_eof(&mut self) -> Result<Bytes, HttpError> {
        Err(HttpError::Truncated)
    }
}
