//! Marks of congestion (ECN): senders that ask for them, and routers that set them.
//!
//! ```text
//!   Marked::send       datagrams with a mark, told apart by their length
//!   CongestedRouter    a table of nftables on the internet that marks all UDP, gone when dropped
//! ```

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use platform::netns::Namespace;
use socket2::{Domain, Protocol, Socket, Type};

use crate::Lab;
use crate::hole::nft;

/// The port of [`Marked`] datagrams, in the tunnel.
pub const MARKED_PORT: u16 = 9099;

/// A socket whose datagrams get the mark that is wanted.
#[derive(Debug)]
pub struct Marked {
    socket: Socket,
    to: SocketAddr,
}

impl Marked {
    /// Datagrams from `host` to port [`MARKED_PORT`] of `to`.
    ///
    /// # Errors
    /// If there is no socket.
    pub fn new(host: &Namespace, to: impl Into<IpAddr>) -> Result<Self> {
        let to = SocketAddr::new(to.into(), MARKED_PORT);
        let socket = host.run(|| Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP)))?;
        Ok(Self {
            socket: socket.context("cannot make a socket")?,
            to,
        })
    }

    /// One datagram of `length` bytes. `ecn` are the two bits of RFC 3168.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub fn send(&self, length: usize, ecn: u8) -> Result<()> {
        let bits = u32::from(ecn);
        match self.to {
            SocketAddr::V4(_) => self.socket.set_tos_v4(bits),
            SocketAddr::V6(_) => self.socket.set_tclass_v6(bits),
        }
        .context("cannot set a mark")?;
        let sent = self.socket.send_to(&vec![0; length], &self.to.into());
        sent.map(drop).with_context(|| format!("cannot send to {}", self.to))
    }

    /// Takes the datagrams that come to [`MARKED_PORT`] of `host`, over both families, so that it refuses none.
    ///
    /// # Errors
    /// If there is no socket.
    pub fn sink(host: &Namespace) -> Result<Socket> {
        let socket = host.run(|| {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_only_v6(false)?;
            socket.bind(&SocketAddr::from(([0_u16; 8], MARKED_PORT)).into())?;
            Ok::<_, std::io::Error>(socket)
        })?;
        socket.context("nobody can take datagrams")
    }
}

/// A router that is congested, as it says.
#[derive(Debug)]
pub struct CongestedRouter<'a> {
    lab: &'a Lab,
}

impl<'a> CongestedRouter<'a> {
    /// From now on the internet marks every UDP packet that it forwards, of both families: also those that do not ask for it, which
    /// a good router would drop. One at a time.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn marking_all_udp(lab: &'a Lab) -> Result<Self> {
        let rules = "meta l4proto udp ip ecn set ce\nmeta l4proto udp ip6 ecn set ce\n";
        let chain = format!("chain forward {{ type filter hook forward priority 0;\n{rules}}}\n");
        nft(
            lab,
            lab.internet(),
            &format!("create table inet congested\ntable inet congested {{\n{chain}}}\n"),
        )?;
        Ok(Self { lab })
    }
}

impl Drop for CongestedRouter<'_> {
    fn drop(&mut self) {
        if let Err(e) = nft(self.lab, self.lab.internet(), "delete table inet congested\n") {
            eprintln!("{e:#}");
        }
    }
}
