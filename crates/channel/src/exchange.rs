//! HTTP/1.1 requests and replies over a TLS stream, before it becomes a channel of frames.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use wire::HttpError;
use wire::http::{self, BodyDecoder, RequestHead, ResponseHead};

/// How much of a peer's HTTP is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request or reply head.
    pub head: usize,
    /// Bytes of a body.
    pub body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: wire::limits::MAX_HEAD,
            body: wire::limits::MAX_BODY,
        }
    }
}

/// A request with its body.
#[derive(Debug)]
pub struct Request {
    /// Method, target and headers.
    pub head: RequestHead,
    /// The body; empty for CONNECT.
    pub body: Bytes,
}

/// A reply with its body.
#[derive(Debug)]
pub struct Response {
    /// Status and headers.
    pub head: ResponseHead,
    /// The body; empty for a granted CONNECT.
    pub body: Bytes,
}

/// Why an exchange failed.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The peer closed in the middle of a message.
    #[error("the peer closed the connection in the middle of a message")]
    Truncated,
    /// The peer's HTTP is wrong or too large.
    #[error("the peer's http is not acceptable: {0}")]
    Http(#[from] HttpError),
}

/// One side of an HTTP conversation.
pub struct Exchange<S> {
    stream: S,
    buffer: BytesMut,
    limits: Limits,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Exchange<S> {
    /// Starts a conversation on `stream`.
    pub fn new(stream: S, limits: Limits) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            limits,
        }
    }

    /// Reads one request. `None` if the peer closed between two requests.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn read_request(&mut self) -> Result<Option<Request>, ExchangeError> {
        let head = loop {
            if let Some((head, length)) = http::parse_request(&self.buffer, self.limits.head)? {
                let _ = self.buffer.split_to(length);
                break head;
            }
            if self.read_some().await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(ExchangeError::Truncated)
                };
            }
        };
        let decoder = BodyDecoder::for_request(&head, self.limits.body)?;
        let body = self.read_body(decoder).await?;
        Ok(Some(Request { head, body }))
    }

    /// Reads one reply.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn read_response(&mut self) -> Result<Response, ExchangeError> {
        let head = self.read_response_head(self.limits.head).await?;
        let decoder = BodyDecoder::for_response(&head, self.limits.body)?;
        let body = self.read_body(decoder).await?;
        Ok(Response { head, body })
    }

    /// Reads the head of a reply whose status decides whether frames or a body follow. A granted tunnel carries one
    /// header a route, so its head may be larger than others: up to `max_head` bytes.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn read_response_head(&mut self, max_head: usize) -> Result<ResponseHead, ExchangeError> {
        loop {
            if let Some((head, length)) = http::parse_response(&self.buffer, max_head)? {
                let _ = self.buffer.split_to(length);
                return Ok(head);
            }
            if self.read_some().await? == 0 {
                return Err(ExchangeError::Truncated);
            }
        }
    }

    /// Sends a whole message, head and body together, so that it is one TLS record where it fits.
    ///
    /// # Errors
    /// [`ExchangeError::Io`].
    pub async fn send(&mut self, message: &[u8]) -> Result<(), ExchangeError> {
        self.stream.write_all(message).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Says the TLS farewell and ends the conversation. Errors do not matter any more.
    pub async fn close(mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The stream, to ask it about its ends.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The stream and what was read beyond the last message.
    pub fn into_parts(self) -> (S, BytesMut) {
        (self.stream, self.buffer)
    }

    async fn read_body(&mut self, mut decoder: BodyDecoder) -> Result<Bytes, ExchangeError> {
        loop {
            if let Some(body) = decoder.feed(&mut self.buffer)? {
                return Ok(body);
            }
            if self.read_some().await? == 0 {
                return Ok(decoder.at_eof()?);
            }
        }
    }

    /// Reads what is there. Zero at the end of the stream; a peer that omits the TLS farewell counts as having closed.
    async fn read_some(&mut self) -> Result<usize, ExchangeError> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(count) => Ok(count),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            Err(error) => match self.read_leftover().await {
                0 => Err(error.into()),
                count => Ok(count),
            },
        }
    }

    /// Reads what came before an error. A TLS stream reports a fatal alert first, and the data of the records before it only
    /// when asked again; stock `ocserv` refuses a cookie by a reply and an alert in one segment (measured).
    async fn read_leftover(&mut self) -> usize {
        let mut read = pin!(self.stream.read_buf(&mut self.buffer));
        poll_fn(|context| match read.as_mut().poll(context) {
            Poll::Ready(Ok(count)) => Poll::Ready(count),
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(0),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::Context;
    use tokio::io::ReadBuf;

    /// A TLS stream on which a reply and a fatal alert have arrived together.
    struct Alerted {
        reply: Option<&'static [u8]>,
        told: bool,
    }

    impl AsyncRead for Alerted {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if self.told
                && let Some(reply) = self.reply.take()
            {
                buf.put_slice(reply);
                return Poll::Ready(Ok(()));
            }
            self.told = true;
            Poll::Ready(Err(io::ErrorKind::InvalidData.into()))
        }
    }

    impl AsyncWrite for Alerted {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn head_of(reply: Option<&'static [u8]>) -> Result<u16, ExchangeError> {
        let mut exchange = Exchange::new(Alerted { reply, told: false }, Limits::default());
        exchange.read_response_head(1000).await.map(|head| head.status)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_reply_that_came_with_a_fatal_alert_is_read() {
        let refusal = b"HTTP/1.1 401 Cookie is not acceptable\r\n\r\n";
        assert_eq!(head_of(Some(refusal)).await.ok(), Some(401));
        assert!(matches!(head_of(None).await, Err(ExchangeError::Io(_))));
        assert!(matches!(
            head_of(Some(b"HTTP/1.1 401")).await,
            Err(ExchangeError::Io(_))
        ));
    }
}
