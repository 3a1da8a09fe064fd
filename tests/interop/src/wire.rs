//! What a client begins on the wire, counted by the router next to it.

use std::net::Ipv4Addr;

use anyhow::Result;
use lab::{Lab, Meter};

/// What one client sent to one gateway over IPv4, since the counting began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// TCP connections begun.
    pub connects: u64,
    /// First messages of DTLS handshakes, repeated ones too.
    pub hellos: u64,
    /// Frames with nothing in them on the control connection: what keeps it alive, questions whether anybody is there, and
    /// answers to such. Only of a client that speaks TLS 1.3, and whose TCP has timestamps.
    pub heartbeats: u64,
    /// Packets of whichever kind.
    pub packets: u64,
}

/// A count under way. One at a time in a lab.
#[derive(Debug)]
pub struct Wires<'a>(Meter<'a>);

impl<'a> Wires<'a> {
    /// Counts what comes over each of these cables of the internet to this gateway.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn watch(lab: &'a Lab, wires: &[(&str, Ipv4Addr)]) -> Result<Self> {
        let rules: Vec<String> = wires.iter().flat_map(|wire| rules(*wire)).collect();
        Ok(Self(Meter::start(lab, lab.internet(), &rules)?))
    }

    /// The same for the client of the lab and the first site.
    ///
    /// # Errors
    /// As [`Wires::watch`].
    pub fn of_client(lab: &'a Lab) -> Result<Self> {
        Self::watch(lab, &[("client", lab.site().plan.gateway_v4())])
    }

    /// What each sent so far, in the order given.
    ///
    /// # Errors
    /// If nft does not say.
    pub fn counts(&self) -> Result<Vec<Counts>> {
        let packets = self.0.packets()?;
        let rows = packets.chunks_exact(4).map(|row| Counts {
            connects: row[0],
            hellos: row[1],
            heartbeats: row[2],
            packets: row[3],
        });
        Ok(rows.collect())
    }

    /// What the first sent so far.
    ///
    /// # Errors
    /// As [`Wires::counts`].
    pub fn count(&self) -> Result<Counts> {
        Ok(self.counts()?.first().copied().unwrap_or_default())
    }
}

fn rules((cable, gateway): (&str, Ipv4Addr)) -> [String; 4] {
    let way = format!("iifname \"{cable}\" ip daddr {gateway}");
    [
        format!("{way} tcp flags & (syn | ack) == syn"),
        // A handshake record (22), and in it a ClientHello (1) behind 13 bytes of the record's header: bits behind UDP's.
        format!("{way} meta l4proto udp @th,64,8 22 @th,168,8 1"),
        // One record of TLS (23) of 25 bytes, behind 32 bytes of TCP's header: a frame's 8, the record's type, and the seal's 16.
        format!("{way} meta l4proto tcp meta length 82 @th,256,8 23 @th,280,16 25"),
        way,
    ]
}
