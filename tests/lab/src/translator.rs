//! What stands in for a translator (NAT64) in a network of IPv6 alone: for one address, by hand.
//!
//! ```text
//!   client --TCP, UDP to 64:ff9b::c633:6401--> internet: a relay --TCP, UDP to 198.51.100.1--> gateway
//! ```
//! No packet is translated: the router has the synthesized address itself, and carries what comes to it on to the gateway. For the client that
//! is the same.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use platform::netns::Namespace;

use crate::Lab;

/// A prefix of a network of its own, so that nothing rests on the well-known one (RFC 6052 section 2.1 has that).
const PREFIX: [u16; 6] = [0x2001, 0xdb8, 0x64, 0, 0, 0];

/// Between two looks whether it is over.
const LOOK: Duration = Duration::from_millis(50);

/// Clients of UDP; there is one, with a port for each handshake.
const MAX_FLOWS: usize = 256;

const PORT: u16 = 443;

/// The relay under way. It ends when it is dropped.
#[derive(Debug)]
pub struct Translator {
    over: Arc<AtomicBool>,
    connections: Arc<AtomicU64>,
    datagrams: Arc<AtomicU64>,
}

/// The address by which a client of IPv6 alone reaches an address of IPv4.
pub fn synthesized(v4: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = PREFIX;
    let [w, x, y, z] = v4.octets();
    Ipv6Addr::new(a, b, c, d, e, f, u16::from_be_bytes([w, x]), u16::from_be_bytes([y, z]))
}

impl Translator {
    /// Has the router of the lab carry what comes to the synthesized address of the first site's gateway.
    ///
    /// # Errors
    /// If the router cannot have the address.
    pub fn start(lab: &Lab) -> Result<Self> {
        let router = lab.internet();
        let gateway = lab.site().plan.gateway_v4();
        let address = synthesized(gateway);
        router.address("lo", format!("{address}/128").parse()?)?;
        router.settle()?;
        let (tcp, udp) = router.run(|| (TcpListener::bind((address, PORT)), UdpSocket::bind((address, PORT))))?;
        let (tcp, udp) = (tcp.context("listen for TCP")?, udp.context("listen for UDP")?);
        let this = Self {
            over: Arc::default(),
            connections: Arc::default(),
            datagrams: Arc::default(),
        };
        let to = SocketAddr::new(IpAddr::V4(gateway), PORT);
        let (here, over, count) = (
            router.try_clone()?,
            Arc::clone(&this.over),
            Arc::clone(&this.connections),
        );
        tcp.set_nonblocking(true)?;
        thread::spawn(move || relay_tcp(&tcp, &here, to, (&over, &count)));
        let (here, over, count) = (router.try_clone()?, Arc::clone(&this.over), Arc::clone(&this.datagrams));
        udp.set_read_timeout(Some(LOOK))?;
        thread::spawn(move || relay_udp(&Arc::new(udp), &here, to, (&over, &count)));
        Ok(this)
    }

    /// TCP connections and datagrams that clients sent through it.
    pub fn carried(&self) -> (u64, u64) {
        (
            self.connections.load(Ordering::Relaxed),
            self.datagrams.load(Ordering::Relaxed),
        )
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn relay_tcp(ears: &TcpListener, here: &Namespace, to: SocketAddr, (over, count): (&AtomicBool, &AtomicU64)) {
    while !over.load(Ordering::Relaxed) {
        match ears.accept() {
            Ok((near, _)) => {
                count.fetch_add(1, Ordering::Relaxed);
                // One that cannot be carried on is closed.
                if let Ok(Ok(far)) = here.run(|| TcpStream::connect(to)) {
                    let _ = splice(near, far);
                }
            }
            Err(_) => thread::park_timeout(LOOK / 10),
        }
    }
}

fn splice(near: TcpStream, far: TcpStream) -> io::Result<()> {
    near.set_nonblocking(false)?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_too, far_too) = (near.try_clone()?, far.try_clone()?);
    thread::spawn(move || pour(near, far));
    thread::spawn(move || pour(far_too, near_too));
    Ok(())
}

fn pour(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn relay_udp(ears: &Arc<UdpSocket>, here: &Namespace, to: SocketAddr, (over, count): (&Arc<AtomicBool>, &AtomicU64)) {
    let mut flows: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = vec![0; 64 * 1024];
    while !over.load(Ordering::Relaxed) {
        let Ok((length, client)) = ears.recv_from(&mut buffer) else {
            continue;
        };
        count.fetch_add(1, Ordering::Relaxed);
        if !flows.contains_key(&client) && flows.len() < MAX_FLOWS {
            let Ok(Ok(socket)) = here.run(|| open(to)) else {
                continue;
            };
            let socket = Arc::new(socket);
            let (back, ears, over) = (Arc::clone(&socket), Arc::clone(ears), Arc::clone(over));
            thread::spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                while !over.load(Ordering::Relaxed) {
                    if let Ok(length) = back.recv(&mut buffer) {
                        let _ = ears.send_to(&buffer[..length], client);
                    }
                }
            });
            flows.insert(client, socket);
        }
        if let Some(socket) = flows.get(&client) {
            let _ = socket.send(&buffer[..length]);
        }
    }
}

fn open(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_ipv4_is_the_end_of_one_of_ipv6() {
        let address = synthesized(Ipv4Addr::new(198, 51, 100, 1));
        assert_eq!(address.to_string(), "2001:db8:64::c633:6401");
    }
}
