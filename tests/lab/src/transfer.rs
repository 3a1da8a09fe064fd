//! Bytes through a tunnel: a server in the LAN, bulk transfers with hashes at both ends, and connections that must last.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{Context as Hash, SHA256};
use platform::netns::Namespace;
use socket2::SockRef;

use crate::PATIENCE;

/// Where the server listens, inside its namespace.
const PORT: u16 = 7000;

const BLOCK: usize = 64 * 1024;

const HASH: usize = 32;

const UPLOAD: u8 = b'u';
const DOWNLOAD: u8 = b'd';
const ECHO: u8 = b'e';

/// Different data for every transfer.
static SEED: AtomicU64 = AtomicU64::new(1);

/// A server for transfers and echoes, on a host. Stops when dropped.
#[derive(Debug)]
pub struct Server {
    listener: Arc<TcpListener>,
    moved: Arc<AtomicU64>,
}

impl Server {
    /// Starts it, on all addresses of the host.
    ///
    /// # Errors
    /// If the host has one already.
    pub fn start(host: &Namespace) -> Result<Self> {
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
        let listener = host.run(|| TcpListener::bind(address))?;
        let listener = Arc::new(listener.context("cannot listen in the lab")?);
        let moved = Arc::new(AtomicU64::new(0));
        let (door, total) = (Arc::clone(&listener), Arc::clone(&moved));
        thread::spawn(move || {
            while let Ok((stream, _)) = door.accept() {
                let total = Arc::clone(&total);
                // A broken connection is for the client's end to notice.
                thread::spawn(move || serve(stream, &total));
            }
        });
        Ok(Self { listener, moved })
    }

    /// Bytes that transfers have moved at this end so far, both ways together.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes the thread that accepts.
        let _ = SockRef::from(&*self.listener).shutdown(std::net::Shutdown::Both);
    }
}

/// How fast a transfer was, in MB/s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// From the client to the server.
    pub up: f64,
    /// From the server to the client.
    pub down: f64,
}

impl std::fmt::Display for Rates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} MB/s up, {:.0} MB/s down", self.up, self.down)
    }
}

/// Moves `bytes` from `client` to the [`Server`] at `to`, and as many back, and compares the SHA-256 of both ends.
///
/// # Errors
/// If it breaks, stalls for [`PATIENCE`], or the hashes differ.
pub fn transfer(client: &Namespace, to: impl Into<IpAddr>, bytes: u64) -> Result<Rates> {
    let to = to.into();
    let up = upload(connect(client, to)?, bytes).with_context(|| format!("cannot upload to {to}"))?;
    let down = download(connect(client, to)?, bytes).with_context(|| format!("cannot download from {to}"))?;
    Ok(Rates { up, down })
}

/// A TCP connection from a host to a [`Server`], which echoes.
#[derive(Debug)]
pub struct Flow {
    stream: TcpStream,
    turns: u8,
}

impl Flow {
    /// Connects.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub fn open(client: &Namespace, to: impl Into<IpAddr>) -> Result<Self> {
        let mut stream = connect(client, to.into())?;
        stream
            .write_all(&request(ECHO, 0, 0))
            .context("cannot ask for echoes")?;
        let mut flow = Self { stream, turns: 0 };
        flow.echo(PATIENCE)?;
        Ok(flow)
    }

    /// Sends something and waits for it to come back. Returns how long it took.
    ///
    /// # Errors
    /// If it does not come back in time, or the connection broke.
    pub fn echo(&mut self, within: Duration) -> Result<Duration> {
        self.turns = self.turns.wrapping_add(1);
        let began = Instant::now();
        let sent = [self.turns; 64];
        let mut got = [0; 64];
        self.stream
            .set_read_timeout(Some(within))
            .context("cannot set a deadline")?;
        self.stream
            .write_all(&sent)
            .context("the connection through the tunnel broke")?;
        self.stream
            .read_exact(&mut got)
            .context("no echo on the connection through the tunnel")?;
        ensure!(sent == got, "the echo is not what was sent");
        Ok(began.elapsed())
    }

    /// This end's address and port.
    ///
    /// # Errors
    /// If the kernel does not know.
    pub fn local_address(&self) -> Result<SocketAddr> {
        self.stream.local_addr().context("a connection has an address")
    }
}

/// Connects from inside a host, with deadlines for everything that follows.
pub(crate) fn connect_to(client: &Namespace, to: SocketAddr) -> Result<TcpStream> {
    let stream = client.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    let stream = stream.with_context(|| format!("cannot connect to {to}"))?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .context("cannot set a deadline")?;
    stream
        .set_write_timeout(Some(PATIENCE))
        .context("cannot set a deadline")?;
    stream.set_nodelay(true).context("cannot set an option")?;
    Ok(stream)
}

fn connect(client: &Namespace, to: IpAddr) -> Result<TcpStream> {
    connect_to(client, SocketAddr::new(to, PORT))
}

fn upload(mut stream: TcpStream, bytes: u64) -> Result<f64> {
    let seed = SEED.fetch_add(1, Ordering::Relaxed);
    let began = Instant::now();
    stream.write_all(&request(UPLOAD, bytes, seed))?;
    let sent = send(&mut stream, bytes, seed, &AtomicU64::new(0))?;
    let mut received = [0; HASH];
    stream.read_exact(&mut received)?;
    ensure!(sent == received, "the server received something else");
    Ok(rate(bytes, began))
}

fn download(mut stream: TcpStream, bytes: u64) -> Result<f64> {
    let seed = SEED.fetch_add(1, Ordering::Relaxed);
    let began = Instant::now();
    stream.write_all(&request(DOWNLOAD, bytes, seed))?;
    let received = receive(&mut stream, bytes, &AtomicU64::new(0))?;
    let mut sent = [0; HASH];
    stream.read_exact(&mut sent)?;
    ensure!(sent == received, "the server sent something else");
    Ok(rate(bytes, began))
}

fn rate(bytes: u64, began: Instant) -> f64 {
    bytes as f64 / 1e6 / began.elapsed().as_secs_f64()
}

fn request(what: u8, bytes: u64, seed: u64) -> Vec<u8> {
    let mut request = vec![what];
    request.extend(bytes.to_be_bytes());
    request.extend(seed.to_be_bytes());
    request
}

fn serve(mut stream: TcpStream, moved: &AtomicU64) -> Result<()> {
    let mut request = [0; 17];
    stream.read_exact(&mut request)?;
    let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| request[at + i]));
    match request[0] {
        UPLOAD => {
            let received = receive(&mut stream, number(1), moved)?;
            stream.write_all(&received)?;
        }
        DOWNLOAD => {
            let sent = send(&mut stream, number(1), number(9), moved)?;
            stream.write_all(&sent)?;
        }
        _ => {
            let mut block = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut block) {
                stream.write_all(&block[..length])?;
            }
        }
    }
    Ok(())
}

fn send(stream: &mut TcpStream, bytes: u64, seed: u64, moved: &AtomicU64) -> Result<[u8; HASH]> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut block = vec![0; BLOCK];
    let mut hash = Hash::new(&SHA256);
    let mut left = bytes;
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_be_bytes());
        }
        let length = BLOCK.min(usize::try_from(left).unwrap_or(BLOCK));
        hash.update(&block[..length]);
        stream.write_all(&block[..length])?;
        left -= length as u64;
        moved.fetch_add(length as u64, Ordering::Relaxed);
    }
    finish(hash)
}

fn receive(stream: &mut TcpStream, bytes: u64, moved: &AtomicU64) -> Result<[u8; HASH]> {
    let mut block = vec![0; BLOCK];
    let mut hash = Hash::new(&SHA256);
    let mut left = bytes;
    while left > 0 {
        let room = BLOCK.min(usize::try_from(left).unwrap_or(BLOCK));
        let length = stream.read(&mut block[..room])?;
        ensure!(length > 0, "the connection ended {left} bytes too early");
        hash.update(&block[..length]);
        left -= length as u64;
        moved.fetch_add(length as u64, Ordering::Relaxed);
    }
    finish(hash)
}

fn finish(hash: Hash) -> Result<[u8; HASH]> {
    hash.finish().as_ref().try_into().context("SHA-256 has 32 bytes")
}
