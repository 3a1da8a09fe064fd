//! What many tunnels do, in small: a login, then heartbeats by the application, and whoever misses three of them in a row
//! ends the session. No encryption, no packets; only the part that a sleeping client breaks.
//!
//! ```text
//!   client --LOGIN--> gateway --SESSION n--> client, then both: BEAT every interval; 3 intervals of silence = dead
//! ```
//! It is not made to look bad: both ends also answer at once, log in again at once, and cost nothing in between.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Missed heartbeats until the other end counts as dead.
pub(crate) const MISSES: u32 = 3;

/// Events kept for the story.
const QUEUE: usize = 256;

/// The longest line of the protocol, in bytes.
const MAX_LINE: u64 = 64;

/// What the naive gateway saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A client logged in and got this session.
    LoggedIn {
        /// Counts from 1.
        session: u32,
    },
    /// The session is over.
    Lost {
        /// Which.
        session: u32,
        /// Why.
        end: End,
    },
}

/// How a session of heartbeats ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing was heard for this long.
    Silent(Duration),
    /// The other end closed the connection.
    Closed,
    /// The connection broke.
    Broken(io::ErrorKind),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(time) => write!(f, "no heartbeat for {:.1} s", time.as_secs_f64()),
            Self::Closed => f.write_str("the other end hung up"),
            Self::Broken(kind) => write!(f, "{kind}"),
        }
    }
}

/// Serves one client after the other, on a thread, until the process ends.
pub(crate) fn gateway(listener: TcpListener, interval: Duration) -> Result<Receiver<Event>> {
    let (events, receiver) = sync_channel(QUEUE);
    let serve = move || {
        let mut session = 0;
        for socket in listener.incoming().flatten() {
            session += 1;
            if serve(socket, session, interval, &events).is_none() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("naive".into())
        .spawn(serve)
        .context("cannot start a thread for the naive gateway")?;
    Ok(receiver)
}

/// `None` when nobody listens to the events any more.
fn serve(socket: TcpStream, session: u32, interval: Duration, events: &SyncSender<Event>) -> Option<()> {
    let welcome = || -> io::Result<()> {
        socket.set_read_timeout(Some(interval))?;
        if read_line(&socket)? != "LOGIN" {
            return Err(io::ErrorKind::InvalidData.into());
        }
        (&socket).write_all(format!("SESSION {session}\n").as_bytes())
    };
    if welcome().is_err() {
        return Some(());
    }
    events.send(Event::LoggedIn { session }).ok()?;
    let end = beat(&socket, interval);
    drop(socket);
    events.send(Event::Lost { session, end }).ok()
}

/// Runs the client until it cannot log in any more. Writes `{"naive_session":n}` for each login and `{"naive_end":"..."}` for
/// each loss, one line each, to `out`.
pub(crate) fn client(gateway: SocketAddr, interval: Duration, out: &mut impl Write) -> Result<()> {
    loop {
        let socket = TcpStream::connect_timeout(&gateway, interval)
            .with_context(|| format!("cannot connect to the naive gateway {gateway}"))?;
        socket.set_read_timeout(Some(interval))?;
        (&socket).write_all(b"LOGIN\n")?;
        let answer = read_line(&socket)?;
        let session = answer
            .strip_prefix("SESSION ")
            .context("the naive gateway refused us")?;
        writeln!(out, "{{\"naive_session\":{session}}}")?;
        out.flush()?;
        let end = beat(&socket, interval);
        writeln!(out, "{{\"naive_end\":\"{end}\"}}")?;
        out.flush()?;
    }
}

/// Sends a heartbeat every `interval` and listens for those of the other end, until it counts as dead.
fn beat(mut socket: &TcpStream, interval: Duration) -> End {
    let mut heard = Instant::now();
    let mut next = heard + interval;
    let mut buffer = [0; 256];
    loop {
        let now = Instant::now();
        if now >= next {
            if let Err(error) = socket.write_all(b"BEAT\n") {
                return End::Broken(error.kind());
            }
            next = now + interval;
        }
        if now.duration_since(heard) >= interval * MISSES {
            return End::Silent(now.duration_since(heard));
        }
        let wait = next.saturating_duration_since(now).max(Duration::from_millis(1));
        match socket
            .set_read_timeout(Some(wait))
            .and_then(|()| socket.read(&mut buffer))
        {
            Ok(0) => return End::Closed,
            Ok(_) => heard = Instant::now(),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return End::Broken(error.kind()),
        }
    }
}

fn read_line(socket: &TcpStream) -> io::Result<String> {
    // One line is all that comes before the heartbeats, so nothing is lost in the buffer.
    let mut line = String::new();
    BufReader::with_capacity(1, socket)
        .take(MAX_LINE)
        .read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn start(interval: Duration) -> (SocketAddr, Receiver<Event>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        (address, gateway(listener, interval).expect("gateway"))
    }

    #[test]
    fn a_silent_client_loses_its_session_and_the_next_login_gets_another() {
        let (address, events) = start(Duration::from_millis(20));
        for session in 1..=2 {
            let socket = TcpStream::connect(address).expect("connect");
            (&socket).write_all(b"LOGIN\n").expect("login");
            assert_eq!(events.recv_timeout(SOON).expect("login"), Event::LoggedIn { session });
            let lost = events.recv_timeout(SOON).expect("lost");
            assert!(
                matches!(
                    lost,
                    Event::Lost {
                        end: End::Silent(_),
                        ..
                    }
                ),
                "{lost:?}"
            );
        }
    }

    #[test]
    fn heartbeats_keep_a_session_far_beyond_three_intervals() {
        let interval = Duration::from_millis(100);
        let (address, events) = start(interval);
        let mut socket = TcpStream::connect(address).expect("connect");
        socket.write_all(b"LOGIN\n").expect("login");
        let started = Instant::now();
        let mut buffer = [0; 64];
        // Each of the gateway's heartbeats is answered with one of ours.
        while started.elapsed() < interval * MISSES * 2 {
            let length = socket.read(&mut buffer).expect("heartbeat");
            assert_ne!(length, 0, "hung up");
            socket.write_all(b"BEAT\n").expect("beat");
        }
        assert_eq!(events.try_iter().collect::<Vec<_>>(), [Event::LoggedIn { session: 1 }]);
    }

    /// Takes so many lines, then refuses.
    struct Page(Vec<u8>, usize);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            let lines = self.0.iter().filter(|byte| **byte == b'\n').count();
            if lines < self.1 {
                Ok(())
            } else {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    #[test]
    fn a_client_that_is_hung_up_on_logs_in_again() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let rude = thread::spawn(move || {
            for session in 1..=2 {
                let (socket, _) = listener.accept().expect("accept");
                assert_eq!(read_line(&socket).expect("login"), "LOGIN");
                (&socket)
                    .write_all(format!("SESSION {session}\n").as_bytes())
                    .expect("welcome");
            }
        });
        let mut page = Page(Vec::new(), 4);
        client(address, SOON, &mut page).expect_err("the page is full");
        rude.join().expect("two logins");
        let told = String::from_utf8(page.0).expect("text");
        let end = "{\"naive_end\":\"the other end hung up\"}\n";
        assert_eq!(
            told,
            format!("{{\"naive_session\":1}}\n{end}{{\"naive_session\":2}}\n{end}")
        );
    }
}
