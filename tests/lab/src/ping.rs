//! ICMP echo without a `ping` program: raw sockets, which need no more than the lab's own namespaces give.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use platform::netns::Namespace;
use socket2::{Domain, Protocol, Socket, Type};

/// Between two requests, while none was answered.
const RESEND: Duration = Duration::from_millis(200);

/// Payload that a request carries if nothing else is said; what `ping` sends by default.
const PAYLOAD: usize = 56;

/// Bytes of the ICMP echo header.
const HEADER: usize = 8;

/// No two requests of a test program look the same.
static SEQUENCE: AtomicU16 = AtomicU16::new(1);

/// Echo requests from a host to an address.
#[derive(Clone, Copy, Debug)]
pub struct Ping<'a> {
    from: &'a Namespace,
    to: IpAddr,
    source: Option<IpAddr>,
    payload: usize,
}

impl<'a> Ping<'a> {
    /// Requests from `from` to `to`.
    pub fn new(from: &'a Namespace, to: impl Into<IpAddr>) -> Self {
        Self {
            from,
            to: to.into(),
            source: None,
            payload: PAYLOAD,
        }
    }

    /// With this source address, which the host must have.
    pub fn source(self, source: impl Into<IpAddr>) -> Self {
        Self {
            source: Some(source.into()),
            ..self
        }
    }

    /// With packets of this size, IP header included.
    pub fn packet_size(self, bytes: usize) -> Self {
        let headers = HEADER + if self.to.is_ipv4() { 20 } else { 40 };
        Self {
            payload: bytes.saturating_sub(headers),
            ..self
        }
    }

    /// Sends requests until one is answered. Returns its round trip time.
    ///
    /// # Errors
    /// If the deadline passes first.
    pub fn answered(self, within: Duration) -> Result<Duration> {
        let began = Instant::now();
        match self.ask(within)? {
            Some(round_trip) => Ok(round_trip),
            None => bail!("no answer from {} within {:?}", self.to, began.elapsed()),
        }
    }

    /// Sends requests for this long, and makes sure that none is answered.
    ///
    /// # Errors
    /// If one is.
    pub fn unanswered(self, during: Duration) -> Result<()> {
        match self.ask(during)? {
            None => Ok(()),
            Some(_) => bail!("{} answered, which it must not", self.to),
        }
    }

    /// Requests over one socket, each sent once.
    ///
    /// # Errors
    /// If there can be no such socket.
    pub fn series(self) -> Result<Series<'a>> {
        Ok(Series {
            socket: self.socket()?,
            ping: self,
        })
    }

    fn ask(self, within: Duration) -> Result<Option<Duration>> {
        let socket = self.socket()?;
        let deadline = Instant::now() + within;
        let mut sent: Vec<(u16, Instant)> = Vec::new();
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
            // "No route" and the like may pass: the tunnel is perhaps just coming up.
            let _ = socket.send_to(&self.request(sequence), &SocketAddr::new(self.to, 0).into());
            sent.push((sequence, Instant::now()));
            let resend = Instant::now() + RESEND.min(left);
            while let Some(left) = resend.checked_duration_since(Instant::now()) {
                if let Some(sequence) = self.reply(&socket, left)? {
                    let request = sent.iter().find(|(number, _)| *number == sequence);
                    if let Some((_, at)) = request {
                        return Ok(Some(at.elapsed()));
                    }
                }
            }
        }
        Ok(None)
    }

    fn socket(self) -> Result<Socket> {
        let (domain, protocol) = match self.to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = self.from.run(|| Socket::new(domain, Type::RAW, Some(protocol)));
        let socket = socket?.context("cannot make a raw socket")?;
        if let Some(source) = self.source {
            socket
                .bind(&SocketAddr::new(source, 0).into())
                .with_context(|| format!("cannot send from {source}"))?;
        }
        Ok(socket)
    }

    fn request(self, sequence: u16) -> Vec<u8> {
        echo_request(self.to.is_ipv4(), sequence, self.payload)
    }

    /// The sequence number of the next answer to us, if one comes in time.
    fn reply(self, socket: &Socket, within: Duration) -> Result<Option<u16>> {
        socket
            .set_read_timeout(Some(within.max(Duration::from_micros(1))))
            .context("cannot set a deadline")?;
        let mut packet = [0; 9216];
        let length = match (&*socket).read(&mut packet) {
            Ok(length) => length,
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(e).context("cannot read from a raw socket"),
        };
        // Raw sockets see the IPv4 header, but not the IPv6 one.
        let (start, answer) = match self.to {
            IpAddr::V4(_) => (usize::from(packet[0] & 15) * 4, 0),
            IpAddr::V6(_) => (0, 129),
        };
        let icmp = packet.get(start..length).unwrap_or_default();
        let ours = icmp.len() == HEADER + self.payload && icmp[0] == answer && icmp[4..6] == identifier();
        Ok(ours.then(|| u16::from_be_bytes([icmp[6], icmp[7]])))
    }
}

/// Requests of one [`Ping`], one after the other.
#[derive(Debug)]
pub struct Series<'a> {
    ping: Ping<'a>,
    socket: Socket,
}

impl Series<'_> {
    /// Sends one request and waits for its answer; a late answer to an earlier one does not count.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn once(&mut self, within: Duration) -> Result<Option<Duration>> {
        let sent = Instant::now();
        let sequence = self.send();
        while let Some(left) = within.checked_sub(sent.elapsed()) {
            if self.answer(left)? == Some(sequence) {
                return Ok(Some(sent.elapsed()));
            }
        }
        Ok(None)
    }

    /// Sends one request, and returns its number.
    pub fn send(&mut self) -> u16 {
        let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        // What cannot be sent is lost, too.
        let _ = self
            .socket
            .send_to(&self.ping.request(sequence), &SocketAddr::new(self.ping.to, 0).into());
        sequence
    }

    /// The number of the request that is answered next, if one is in time.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn answer(&self, within: Duration) -> Result<Option<u16>> {
        self.ping.reply(&self.socket, within)
    }
}

fn identifier() -> [u8; 2] {
    (process::id() as u16).to_be_bytes()
}

/// An echo request, without IP header. The kernel fills in the checksum for IPv6 only.
pub(crate) fn echo_request(v4: bool, sequence: u16, payload: usize) -> Vec<u8> {
    let mut icmp = vec![if v4 { 8 } else { 128 }, 0, 0, 0];
    icmp.extend(identifier());
    icmp.extend(sequence.to_be_bytes());
    icmp.extend((0..payload).map(|i| i as u8));
    if v4 {
        let sum = checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    icmp
}

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_sums_up_to_nothing() {
        assert_eq!(checksum(&echo_request(true, 7, 56)), 0);
        assert_eq!(echo_request(false, 7, 1).len(), 9);
    }
}
