//! Bytes through a tunnel: a server in the LAN, bulk transfers with hashes at both ends, and connections that must last.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest::{Context as Hash, SHA256};
use platform::netns::Namespace;
use socket2::SockRef;

use crate::PATIENCE;

/// Where the server listens, inside its namespace.
const PORT: u16 = 7000;

const BLOCK: usize = 64 * 1024;

const HASH: usize = 32;

/// A transfer that is slower than this, in bytes per second, beside [`PATIENCE`] of standing still, is given up: the slowest tunnel of the tests
/// (single packets of a lossy, long way) carries four times as much.
const SLOWEST: u64 = 1_000_000;

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
/// If it breaks, stalls for [`PATIENCE`], is slower than [`SLOWEST`] over all, or the hashes differ.
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

    /// Waits for what the last [`Flow::echo`] did not get in time.
    ///
    /// # Errors
    /// If it does not come back in time either, or the connection broke.
    pub fn late_echo(&mut self, within: Duration) -> Result<Duration> {
        let began = Instant::now();
        let mut got = [0; 64];
        self.stream
            .set_read_timeout(Some(within))
            .context("cannot set a deadline")?;
        self.stream
            .read_exact(&mut got)
            .context("no late echo on the connection through the tunnel")?;
        ensure!(got == [self.turns; 64], "the echo is not what was sent");
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
    let sent = send(&mut stream, bytes, seed, Moved::within(bytes))?;
    ensure!(sent == hash(&mut stream)?, "the server received something else");
    Ok(rate(bytes, began))
}

fn download(mut stream: TcpStream, bytes: u64) -> Result<f64> {
    let seed = SEED.fetch_add(1, Ordering::Relaxed);
    let began = Instant::now();
    stream.write_all(&request(DOWNLOAD, bytes, seed))?;
    let received = receive(&mut stream, bytes, Moved::within(bytes))?;
    ensure!(hash(&mut stream)? == received, "the server sent something else");
    Ok(rate(bytes, began))
}

/// What the other end made of it.
fn hash(stream: &mut TcpStream) -> Result<[u8; HASH]> {
    let mut hash = [0; HASH];
    let read = stream.read_exact(&mut hash).map_err(clearly);
    read.context("all bytes have gone, but the other end does not say what it received or sent")?;
    Ok(hash)
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
            let received = receive(&mut stream, number(1), Moved::counted(moved))?;
            stream.write_all(&received)?;
        }
        DOWNLOAD => {
            let sent = send(&mut stream, number(1), number(9), Moved::counted(moved))?;
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

/// What has been moved at one end, and until when all of it must be.
struct Moved<'a> {
    total: Option<&'a AtomicU64>,
    bytes: u64,
    began: Instant,
    within: Option<Duration>,
}

impl<'a> Moved<'a> {
    /// At the end that asked.
    fn within(bytes: u64) -> Self {
        Self {
            total: None,
            bytes: 0,
            began: Instant::now(),
            within: Some(PATIENCE + Duration::from_secs(bytes / SLOWEST)),
        }
    }

    /// At the end that was asked; the other one looks at its watch.
    fn counted(total: &'a AtomicU64) -> Self {
        Self {
            total: Some(total),
            bytes: 0,
            began: Instant::now(),
            within: None,
        }
    }

    fn add(&mut self, bytes: usize, of: u64) -> Result<()> {
        self.bytes += bytes as u64;
        if let Some(total) = self.total {
            total.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        let took = self.began.elapsed();
        ensure!(
            self.within.is_none_or(|within| took <= within),
            "the transfer crawls: {} of {of} bytes after {took:?}",
            self.bytes
        );
        Ok(())
    }

    fn broken(&self, error: std::io::Error, of: u64) -> anyhow::Error {
        let stands = format!("the transfer broke after {} of {of} bytes", self.bytes);
        clearly(error).context(stands)
    }
}

/// Says what a deadline of a socket means.
fn clearly(error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => anyhow::anyhow!("nothing moved for {PATIENCE:?}"),
        _ => error.into(),
    }
}

fn send(stream: &mut TcpStream, bytes: u64, seed: u64, mut moved: Moved<'_>) -> Result<[u8; HASH]> {
    let mut noise = Noise::new(seed);
    let mut block = vec![0; BLOCK];
    let mut hash = Hash::new(&SHA256);
    let mut left = bytes;
    while left > 0 {
        noise.fill(&mut block);
        let length = BLOCK.min(usize::try_from(left).unwrap_or(BLOCK));
        hash.update(&block[..length]);
        let written = stream.write_all(&block[..length]);
        written.map_err(|error| moved.broken(error, bytes))?;
        left -= length as u64;
        moved.add(length, bytes)?;
    }
    finish(hash)
}

fn receive(stream: &mut TcpStream, bytes: u64, mut moved: Moved<'_>) -> Result<[u8; HASH]> {
    let mut block = vec![0; BLOCK];
    let mut hash = Hash::new(&SHA256);
    let mut left = bytes;
    while left > 0 {
        let room = BLOCK.min(usize::try_from(left).unwrap_or(BLOCK));
        let read = stream.read(&mut block[..room]);
        let length = read.map_err(|error| moved.broken(error, bytes))?;
        if length == 0 {
            bail!("the connection ended {left} bytes too early");
        }
        hash.update(&block[..length]);
        left -= length as u64;
        moved.add(length, bytes)?;
    }
    finish(hash)
}

fn finish(hash: Hash) -> Result<[u8; HASH]> {
    hash.finish().as_ref().try_into().context("SHA-256 has 32 bytes")
}

/// Bytes that look like chance, always the same for a seed (xorshift64).
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn fill(&mut self, block: &mut [u8]) {
        for word in block.chunks_exact_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends of a connection on this host, the first with a deadline of its own.
    fn pair() -> (TcpStream, TcpStream) {
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(door.local_addr().unwrap()).unwrap();
        near.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        (near, door.accept().unwrap().0)
    }

    #[test]
    fn a_transfer_that_stands_still_says_where() {
        let (near, mut far) = pair();
        far.write_all(&[7; 5000]).unwrap();
        let error = download(near, 10_000).unwrap_err();
        let said = format!("{error:#}");
        assert!(
            said.contains("after 5000 of 10000 bytes") && said.contains("nothing moved"),
            "{said}"
        );
    }

    #[test]
    fn a_transfer_that_crawls_is_given_up() {
        let mut moved = Moved::within(1);
        moved.add(1, 2).unwrap();
        moved.within = Some(Duration::ZERO);
        let said = moved.add(1, 3).unwrap_err().to_string();
        assert!(said.contains("crawls: 2 of 3 bytes"), "{said}");
    }

    #[test]
    fn an_end_that_stays_silent_about_its_hash_is_named() {
        let (near, mut far) = pair();
        let asked = thread::spawn(move || {
            let mut request = [0; 17];
            far.read_exact(&mut request).unwrap();
            let mut rest = [0; 100];
            far.read_exact(&mut rest).unwrap();
            far
        });
        let said = format!("{:#}", upload(near, 100).unwrap_err());
        assert!(said.contains("does not say"), "{said}");
        drop(asked.join());
    }
}
