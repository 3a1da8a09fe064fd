//! Echo requests (ICMP, RFC 792; ICMPv6, RFC 4443) over a raw socket, which root has in its own namespaces.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use super::patience::{self, LOOK_EVERY};

/// Header (8 bytes) and data of an echo request, 64 bytes as ping sends.
const MESSAGE: usize = 64;

/// Type of an echo request and of its answer.
const TYPES_V4: (u8, u8) = (8, 0);
const TYPES_V6: (u8, u8) = (128, 129);

/// Asks one address.
pub(crate) struct Pinger {
    socket: Socket,
    to: IpAddr,
    identifier: u16,
    sequence: u16,
}

impl Pinger {
    /// A raw socket in the network of the calling thread. Needs CAP_NET_RAW.
    pub(crate) fn open(to: IpAddr) -> Result<Self> {
        let (domain, protocol) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).context("cannot open a socket for pings")?;
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        let identifier = u16::try_from(std::process::id() & 0xffff).unwrap_or_default();
        Ok(Self {
            socket,
            to,
            identifier,
            sequence: 0,
        })
    }

    /// Sends one request and waits for its answer.
    pub(crate) fn ping(&mut self, limit: Duration) -> Result<Duration> {
        self.sequence = self.sequence.wrapping_add(1);
        let sent = Instant::now();
        self.socket
            .send_to(&self.request(), &SocketAddr::new(self.to, 0).into())
            .with_context(|| format!("cannot ping {}", self.to))?;
        let mut buffer = [0; 512];
        while sent.elapsed() < limit {
            patience::check()?;
            let length = match (&self.socket).read(&mut buffer) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot read the answer of {}", self.to)),
            };
            if self.answers(&buffer[..length]) {
                return Ok(sent.elapsed());
            }
        }
        bail!("{} did not answer a ping within {:.1} s", self.to, limit.as_secs_f64());
    }

    fn request(&self) -> [u8; MESSAGE] {
        let mut message = [0x6d; MESSAGE];
        message[0] = self.types().0;
        message[1] = 0;
        message[2..4].fill(0);
        message[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        message[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        // For IPv6 the kernel does it, with the pseudo header.
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    }

    fn answers(&self, packet: &[u8]) -> bool {
        let header = match self.to {
            // IPv4 raw sockets give the IP header too; its length is in 4-byte words.
            IpAddr::V4(_) => usize::from(packet.first().copied().unwrap_or_default() & 0x0f) * 4,
            IpAddr::V6(_) => 0,
        };
        let Some(message) = packet.get(header..).filter(|message| message.len() >= 8) else {
            return false;
        };
        message[0] == self.types().1
            && message[4..6] == self.identifier.to_be_bytes()
            && message[6..8] == self.sequence.to_be_bytes()
    }

    fn types(&self) -> (u8, u8) {
        if self.to.is_ipv4() { TYPES_V4 } else { TYPES_V6 }
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or_default();
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_its_checksum_sums_up_to_zero() {
        let mut message = *b"\x08\x00\x00\x00\x12\x34\x00\x01marmot";
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(checksum(&message), 0);
        assert_eq!(checksum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
