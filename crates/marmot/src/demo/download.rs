//! Fetching data through the tunnel over a connection that can be kept and used again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::http;
use super::patience;
use super::stream::Hash;

/// How long the server may be silent within a reply.
const SILENCE: Duration = Duration::from_secs(10);

/// A finished download.
#[derive(Clone, Debug)]
pub(crate) struct Download {
    /// Bytes of data.
    pub(crate) bytes: u64,
    /// From the request to the last byte.
    pub(crate) took: Duration,
    /// SHA-256 in hex.
    pub(crate) sha256: String,
}

impl Download {
    /// Megabits of data per second.
    pub(crate) fn megabits_per_second(&self) -> f64 {
        self.bytes as f64 * 8e-6 / self.took.as_secs_f64().max(1e-6)
    }
}

/// An HTTP connection.
pub(crate) struct Connection {
    socket: TcpStream,
    host: String,
}

impl Connection {
    /// Connects to `server` from the network of the calling thread.
    pub(crate) fn open(server: SocketAddr, limit: Duration) -> Result<Self> {
        let socket =
            TcpStream::connect_timeout(&server, limit).with_context(|| format!("cannot connect to {server}"))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(SILENCE))?;
        socket.set_write_timeout(Some(SILENCE))?;
        Ok(Self {
            socket,
            host: server.ip().to_string(),
        })
    }

    /// Fetches `path`; `progress` hears how many bytes of data have arrived.
    pub(crate) fn get(&mut self, path: &str, limit: Duration, mut progress: impl FnMut(u64)) -> Result<Download> {
        let asked = Instant::now();
        self.socket
            .write_all(http::request(&self.host, path).as_bytes())
            .context("cannot send a request")?;
        let mut buffer = vec![0; 64 * 1024];
        let mut input = Vec::new();
        let (head, bytes) = loop {
            if let Some(head) = http::read_reply(&input)? {
                break head;
            }
            let length = self.read(&mut buffer)?;
            input.extend_from_slice(&buffer[..length]);
        };
        let mut hash = Hash::new();
        hash.update(&input[head..]);
        let mut arrived = (input.len() - head) as u64;
        while arrived < bytes {
            patience::check()?;
            if asked.elapsed() > limit {
                bail!("the download takes longer than {:.0} s", limit.as_secs_f64());
            }
            let length = self.read(&mut buffer)?;
            hash.update(&buffer[..length]);
            arrived += length as u64;
            progress(arrived);
        }
        Ok(Download {
            bytes: arrived,
            took: asked.elapsed(),
            sha256: hash.finish(),
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match self.socket.read(buffer).context("cannot read from the server")? {
            0 => bail!("the server closed the connection in the middle"),
            length => Ok(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stream::expected_hash;
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn data_arrives_whole_and_the_connection_serves_again() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let server = listener.local_addr().expect("address");
        http::serve(listener).expect("serve");
        let limit = Duration::from_secs(10);
        let mut connection = Connection::open(server, limit).expect("connect");
        for bytes in [1, 300_000] {
            let mut heard = 0;
            let download = connection
                .get(&http::data_path(7, bytes), limit, |arrived| heard = arrived)
                .expect("download");
            assert_eq!(download.bytes, bytes);
            assert_eq!(download.sha256, expected_hash(7, bytes));
            assert!(heard == bytes || bytes == 1);
        }
        let hello = connection.get("/", limit, |_| {}).expect("greeting");
        assert_eq!(hello.bytes, http::GREETING.len() as u64);
    }
}
