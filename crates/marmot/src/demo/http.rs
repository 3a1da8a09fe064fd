//! The HTTP server of the LAN: `GET /data/SEED/BYTES` answers with that much of [`Stream`], any other path with a greeting.
//!
//! The head of a request and of a reply are functions of bytes, so that the server in a namespace and the one on a
//! userspace stack are the same.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use wire::http::{parse_request, parse_response};

use super::stream::Stream;

/// Port of the server.
pub(crate) const PORT: u16 = 80;

/// The longest head, in bytes.
pub(crate) const MAX_HEAD: usize = 4096;

/// What every other path answers with.
pub(crate) const GREETING: &str = "hello from the LAN\n";

/// The most bytes of data a request gets: 4 GiB.
const MAX_DATA: u64 = 4 << 30;

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 8;

/// How long a peer may be silent. Longer than the freeze.
const SILENCE: Duration = Duration::from_secs(60);

/// What a request gets.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A short text.
    Text(&'static str),
    /// Data.
    Data {
        /// Where it comes from.
        stream: Stream,
        /// How much of it, in bytes.
        bytes: u64,
    },
}

impl Reply {
    /// The head that goes before it.
    pub(crate) fn head(&self) -> String {
        let (kind, length) = match self {
            Self::Text(text) => ("text/plain", text.len() as u64),
            Self::Data { bytes, .. } => ("application/octet-stream", *bytes),
        };
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n")
    }
}

/// The request for `bytes` of the stream of `seed`.
pub(crate) fn request(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: marmot-demo\r\n\r\n")
}

/// The path of `bytes` of the stream of `seed`.
pub(crate) fn data_path(seed: u64, bytes: u64) -> String {
    format!("/data/{seed}/{bytes}")
}

/// Reads a request from the start of `input`: its length in bytes and what it gets; `None` until all of it is there.
pub(crate) fn read_request(input: &[u8]) -> Result<Option<(usize, Reply)>> {
    let Some((head, length)) = parse_request(input, MAX_HEAD).context("cannot read a request")? else {
        return Ok(None);
    };
    Ok(Some((length, reply_to(&head.target))))
}

/// Reads the head of a reply from the start of `input`: its length in bytes and that of the body; `None` until all of it is
/// there.
pub(crate) fn read_reply(input: &[u8]) -> Result<Option<(usize, u64)>> {
    let Some((head, length)) = parse_response(input, MAX_HEAD).context("cannot read a reply")? else {
        return Ok(None);
    };
    if head.status != 200 {
        bail!("the server answered with status {}", head.status);
    }
    let body = head
        .headers
        .get("content-length")
        .and_then(|text| text.trim().parse().ok());
    Ok(Some((length, body.context("the reply has no length")?)))
}

fn reply_to(path: &str) -> Reply {
    let data = |rest: &str| {
        let (seed, bytes) = rest.split_once('/')?;
        let bytes = bytes.parse().ok().filter(|bytes| *bytes <= MAX_DATA)?;
        Some(Reply::Data {
            stream: Stream::new(seed.parse().ok()?),
            bytes,
        })
    };
    path.strip_prefix("/data/")
        .and_then(data)
        .unwrap_or(Reply::Text(GREETING))
}

/// Serves connections of `listener` on threads of their own, until the process ends.
pub(crate) fn serve(listener: TcpListener) -> Result<()> {
    let open = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        for socket in listener.incoming().flatten() {
            if open.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
                open.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            let one_less = Arc::clone(&open);
            let talk = move || {
                // A client that leaves is no event for the server.
                let _ = talk(socket);
                one_less.fetch_sub(1, Ordering::SeqCst);
            };
            if thread::Builder::new().name("http".into()).spawn(talk).is_err() {
                open.fetch_sub(1, Ordering::SeqCst);
            }
        }
    };
    thread::Builder::new()
        .name("http".into())
        .spawn(accept)
        .context("cannot start a thread for the HTTP server")?;
    Ok(())
}

fn talk(mut socket: TcpStream) -> Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(SILENCE))?;
    socket.set_write_timeout(Some(SILENCE))?;
    let mut input = Vec::new();
    loop {
        match read_request(&input)? {
            Some((length, reply)) => {
                input.drain(..length);
                send(&mut socket, reply)?;
            }
            None => {
                let mut chunk = [0; 1024];
                let length = socket.read(&mut chunk)?;
                if length == 0 {
                    return Ok(());
                }
                input.extend_from_slice(&chunk[..length]);
            }
        }
    }
}

fn send(socket: &mut TcpStream, reply: Reply) -> io::Result<()> {
    socket.write_all(reply.head().as_bytes())?;
    match reply {
        Reply::Text(text) => socket.write_all(text.as_bytes()),
        Reply::Data { mut stream, bytes } => {
            let mut buffer = vec![0; 64 * 1024];
            let mut left = bytes;
            while left > 0 {
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                stream.fill(&mut buffer[..take]);
                socket.write_all(&buffer[..take])?;
                left -= take as u64;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_which_data_and_how_much() {
        assert!(matches!(reply_to(&data_path(7, 100)), Reply::Data { bytes: 100, .. }));
        for other in ["/", "/data/7", "/data/7/x", "/data/x/7", "/data/7/99999999999999"] {
            assert!(matches!(reply_to(other), Reply::Text(_)), "{other}");
        }
    }

    #[test]
    fn a_reply_is_read_as_it_was_written() {
        let head = Reply::Data {
            stream: Stream::new(1),
            bytes: 4711,
        }
        .head();
        assert_eq!(read_reply(head.as_bytes()).expect("reply"), Some((head.len(), 4711)));
        assert_eq!(read_reply(&head.as_bytes()[..20]).expect("part"), None);
        read_reply(b"HTTP/1.1 404 Not Found\r\n\r\n").expect_err("status");
        let text = request("10.20.0.2", "/");
        let (length, _) = read_request(text.as_bytes()).expect("request").expect("whole");
        assert_eq!(length, text.len());
    }
}
