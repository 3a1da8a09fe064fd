//! The course of a bulk stream: how many bytes its receiver got in each 10 ms, so that a moment in which the way was worse can be seen.
//!
//! ```text
//!   bytes  |########  ####################|      one column is STEP; a dip is a row of columns below half of the median
//!   in 10  |########  ####################|
//!   ms     |########..####################|
//!           ^ event: Course::dip counts the columns of the dip behind it
//! ```

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use platform::netns::Namespace;
use socket2::SockRef;

use crate::PATIENCE;
use crate::transfer::connect_to;

const BLOCK: usize = 64 * 1024;

/// The length of a column.
pub const STEP: Duration = Duration::from_millis(10);

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the LAN.
    Up,
    /// From the LAN to the client.
    Down,
}

/// A stream that runs until it is asked how it went. Its content is nothing to look at.
#[derive(Debug)]
pub struct Stream {
    over: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<Result<Course>>>,
}

/// How a stream went.
#[derive(Clone, Debug)]
pub struct Course {
    began: Instant,
    columns: Vec<u64>,
}

impl Stream {
    /// Starts one between `client` and the host `lan`, at `to` for the client and any port there.
    ///
    /// # Errors
    /// If they cannot connect.
    pub fn start(client: &Namespace, lan: &Namespace, to: impl Into<IpAddr>, direction: Direction) -> Result<Self> {
        let listener = lan.run(|| TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))))?;
        let listener = listener.context("cannot listen in the lab")?;
        let near = connect_to(client, SocketAddr::new(to.into(), listener.local_addr()?.port()))?;
        let (far, _) = listener.accept().context("nobody came")?;
        for end in [&near, &far] {
            end.set_read_timeout(Some(PATIENCE)).context("cannot set a deadline")?;
            end.set_write_timeout(Some(PATIENCE)).context("cannot set a deadline")?;
        }
        let (from, into) = match direction {
            Direction::Up => (near, far),
            Direction::Down => (far, near),
        };
        let (over, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (Arc::clone(&over), Arc::clone(&received));
        Ok(Self {
            over,
            received,
            sender: Some(thread::spawn(move || send(from, &told))),
            receiver: Some(thread::spawn(move || receive(into, &count))),
        })
    }

    /// Bytes that have arrived so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Ends it, and says how it went.
    ///
    /// # Errors
    /// If it broke, or stood still for [`PATIENCE`].
    pub fn end(mut self) -> Result<Course> {
        self.over.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        }
        let receiver = self.receiver.take().context("it ends once")?;
        receiver.join().map_err(|_| anyhow!("the receiver panicked"))?
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Whatever goes wrong here is seen by the receiver.
fn send(mut stream: TcpStream, over: &AtomicBool) {
    let block = vec![0x5a; BLOCK];
    while !over.load(Ordering::Relaxed) {
        if stream.write_all(&block).is_err() {
            return;
        }
    }
    let _ = SockRef::from(&stream).shutdown(Shutdown::Write);
}

fn receive(mut stream: TcpStream, received: &AtomicU64) -> Result<Course> {
    let mut course = Course::new(Instant::now());
    let mut block = vec![0; BLOCK];
    loop {
        match stream.read(&mut block) {
            Ok(0) => return Ok(course),
            Ok(length) => {
                course.add(Instant::now(), length as u64);
                received.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(anyhow!("the stream stood still for {PATIENCE:?}"));
            }
            Err(e) => return Err(e).context("the stream broke"),
        }
    }
}

impl Course {
    fn new(began: Instant) -> Self {
        Self {
            began,
            columns: Vec::new(),
        }
    }

    fn add(&mut self, at: Instant, bytes: u64) {
        let column = self.column(at);
        if self.columns.len() <= column {
            self.columns.resize(column + 1, 0);
        }
        self.columns[column] += bytes;
    }

    /// Bytes per second of the whole, without the two ends.
    pub fn rate(&self) -> f64 {
        let inner = self
            .columns
            .get(1..self.columns.len().saturating_sub(1))
            .unwrap_or_default();
        let bytes: u64 = inner.iter().sum();
        bytes as f64 / (inner.len().max(1) as f64 * STEP.as_secs_f64())
    }

    /// Bytes per second between two moments.
    pub fn rate_between(&self, from: Instant, to: Instant) -> f64 {
        let part = self.part(from, to.saturating_duration_since(from));
        let bytes: u64 = part.iter().sum();
        bytes as f64 / (part.len().max(1) as f64 * STEP.as_secs_f64())
    }

    /// For how long within `within` after `at` less arrived than half of what usually does. A column is the smallest unit.
    pub fn dip(&self, at: Instant, within: Duration) -> Duration {
        let half = self.median() / 2;
        let low = self.part(at, within).iter().filter(|bytes| **bytes < half).count();
        STEP * u32::try_from(low).unwrap_or(u32::MAX)
    }

    /// The same at each of the moments that are not within `within` of one of `events`: what happens without a reason.
    pub fn quiet_dips(&self, events: &[Instant], within: Duration) -> Vec<Duration> {
        let end = self.began + STEP * u32::try_from(self.columns.len()).unwrap_or(u32::MAX);
        // The first moments are those in which TCP looks for the rate.
        let mut at = self.began + 2 * within;
        let mut dips = Vec::new();
        while at + within < end {
            let beside = |event: &&Instant| at < **event + 2 * within && **event < at + within;
            match events.iter().find(beside) {
                Some(event) => at = *event + 2 * within,
                None => {
                    dips.push(self.dip(at, within));
                    at += within;
                }
            }
        }
        dips
    }

    fn median(&self) -> u64 {
        let mut sorted = self.columns.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    }

    fn part(&self, at: Instant, within: Duration) -> &[u64] {
        let first = self.column(at).min(self.columns.len());
        let last = self.column(at + within).min(self.columns.len());
        &self.columns[first..last]
    }

    fn column(&self, at: Instant) -> usize {
        let since = at.saturating_duration_since(self.began);
        usize::try_from(since.as_nanos() / STEP.as_nanos()).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 bytes in each column but for those given.
    fn course(columns: usize, low: std::ops::Range<usize>) -> Course {
        let mut course = Course::new(Instant::now());
        course.columns = (0..columns)
            .map(|column| if low.contains(&column) { 10 } else { 100 })
            .collect();
        course
    }

    #[test]
    fn a_dip_is_as_long_as_its_columns() {
        let course = course(200, 100..104);
        let at = |column: u32| course.began + STEP * column;
        let within = Duration::from_millis(300);
        assert_eq!(course.dip(at(90), within), Duration::from_millis(40));
        assert_eq!(course.dip(at(104), within), Duration::ZERO);
        assert_eq!(course.dip(at(102), within), Duration::from_millis(20));
        assert!((course.rate_between(at(10), at(20)) - 10_000.0).abs() < 1.0);
    }

    #[test]
    fn quiet_moments_are_those_without_an_event() {
        let course = course(200, 100..104);
        let event = course.began + STEP * 99;
        let within = Duration::from_millis(100);
        let without = course.quiet_dips(&[], within);
        assert_eq!(without.iter().sum::<Duration>(), Duration::from_millis(40));
        let with = course.quiet_dips(&[event], within);
        assert!(with.iter().all(Duration::is_zero) && with.len() > 10, "{with:?}");
    }
}
