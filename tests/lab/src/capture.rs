//! What a host sends and receives on a device, written down by tcpdump, and read back.
//!
//! ```text
//!   pcap file:  24 bytes of header | 16 bytes: seconds, fraction, length here, length there | [Ethernet] IP UDP payload | ...
//! ```
//! A TUN device has no header of Ethernet, which the header of the file tells.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use platform::netns::Namespace;

use crate::{Lab, PATIENCE, Process, eventually};

/// The magic number of a file with microseconds, in this machine's byte order (draft-ietf-opsawg-pcap).
const MAGIC: u32 = 0xa1b2_c3d4;

/// Bytes of the file's header.
const FILE_HEADER: usize = 24;

/// Bytes before each packet.
const PACKET_HEADER: usize = 16;

/// Where the header of the file says what the packets begin with, and the word for nothing before IP (LINKTYPE_RAW).
const LINK_TYPE: (usize, u32) = (20, 101);

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Bytes of a UDP header.
const UDP: usize = 8;

/// A UDP datagram in a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The mark of its IP header, the two bits of RFC 3168.
    pub ecn: u8,
    /// Whether it came over IPv4.
    pub v4: bool,
    /// What is in it.
    pub payload: Vec<u8>,
}

/// A capture under way; it ends when dropped.
#[derive(Debug)]
pub struct Capture {
    _tcpdump: Process,
    file: PathBuf,
}

impl Capture {
    /// Writes down whatever passes `device` of `host` and `matches`, in the words of pcap-filter(7), from now on. `name` is
    /// its own in this test.
    ///
    /// # Errors
    /// If tcpdump does not begin.
    pub fn start(lab: &Lab, host: &Namespace, device: &str, matches: &str, name: &str) -> Result<Self> {
        Self::with(lab, host, device, &[], matches, name)
    }

    /// The same of what comes in to `device` alone.
    ///
    /// # Errors
    /// As there.
    pub fn incoming(lab: &Lab, host: &Namespace, device: &str, matches: &str, name: &str) -> Result<Self> {
        Self::with(lab, host, device, &["-Q", "in"], matches, name)
    }

    fn with(lab: &Lab, host: &Namespace, device: &str, more: &[&str], matches: &str, name: &str) -> Result<Self> {
        let file = lab.folder().join(format!("{name}.pcap"));
        let mut command = lab.command(host, "tcpdump")?;
        command
            .args(["-i", device, "-n", "-U", "--immediate-mode", "-Z", "root"])
            .args(more)
            .arg("-w")
            .arg(&file)
            .arg(matches);
        let tcpdump = lab.spawn(name, command)?;
        tcpdump.wait_for("listening on", PATIENCE)?;
        Ok(Self {
            _tcpdump: tcpdump,
            file,
        })
    }

    /// All UDP datagrams so far, over IPv4 and over IPv6 without extension headers.
    ///
    /// # Errors
    /// If the file cannot be read, or is not what it should be.
    pub fn datagrams(&self) -> Result<Vec<Datagram>> {
        datagrams(&fs::read(&self.file).context("cannot read a capture")?)
    }

    /// All IP packets so far.
    ///
    /// # Errors
    /// If the file cannot be read, or is not what it should be.
    pub fn packets(&self) -> Result<Vec<Vec<u8>>> {
        packets(&fs::read(&self.file).context("cannot read a capture")?)
    }

    /// Waits until there is a datagram for which this holds, and returns the last one.
    ///
    /// # Errors
    /// If there is none in time.
    pub fn last(&self, holds: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
        eventually("a datagram in the capture", PATIENCE, || {
            let payloads = self.datagrams()?.into_iter().map(|datagram| datagram.payload);
            Ok(payloads.rev().find(|payload| holds(payload)))
        })
    }
}

fn datagrams(file: &[u8]) -> Result<Vec<Datagram>> {
    Ok(packets(file)?.iter().filter_map(|ip| datagram(ip)).collect())
}

fn packets(file: &[u8]) -> Result<Vec<Vec<u8>>> {
    let word = |at: usize| Some(u32::from_ne_bytes(file.get(at..at + 4)?.try_into().ok()?));
    let mut found = Vec::new();
    // Nothing was written yet.
    if file.len() < FILE_HEADER {
        return Ok(found);
    }
    ensure!(word(0) == Some(MAGIC), "this is no capture");
    let link = if word(LINK_TYPE.0) == Some(LINK_TYPE.1) {
        0
    } else {
        ETHERNET
    };
    let mut at = FILE_HEADER;
    while let Some(length) = word(at + 8) {
        let start = at + PACKET_HEADER;
        // The last one may not have come to its end.
        let Some(packet) = file.get(start..start + length as usize) else {
            break;
        };
        found.extend(packet.get(link..).map(<[u8]>::to_vec));
        at = start + length as usize;
    }
    Ok(found)
}

fn datagram(ip: &[u8]) -> Option<Datagram> {
    let (first, second) = (*ip.first()?, *ip.get(1)?);
    let (protocol, header, ecn) = match first >> 4 {
        4 => (*ip.get(9)?, usize::from(first & 15) * 4, second & 3),
        6 => (*ip.get(6)?, 40, second >> 4 & 3),
        _ => return None,
    };
    let udp = ip.get(header..).filter(|_| protocol == 17)?;
    let length = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    Some(Datagram {
        ecn,
        v4: first >> 4 == 4,
        payload: udp.get(UDP..length)?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(packets: &[&[u8]]) -> Vec<u8> {
        let mut file = MAGIC.to_ne_bytes().to_vec();
        file.resize(FILE_HEADER, 0);
        for packet in packets {
            let mut header = [0; PACKET_HEADER];
            header[8..12].copy_from_slice(&(packet.len() as u32).to_ne_bytes());
            file.extend(header);
            file.extend(*packet);
        }
        file
    }

    #[test]
    fn datagrams_are_found_behind_their_headers_and_others_left_out() {
        let mut v4 = vec![0x45, 2, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        v4.extend([1, 2, 3, 4, 0, 11, 0, 0]);
        // Ethernet pads what is short.
        v4.extend(b"abc\0\0\0");
        let mut v6 = vec![0x60, 0x30, 0, 0, 0, 11, 17, 64];
        v6.extend([0; 32]);
        v6.extend([1, 2, 3, 4, 0, 11, 0, 0]);
        v6.extend(b"abc");
        let mut tcp = v4.clone();
        tcp[9] = 6;
        let framed = |packet: &[u8]| [&[0; ETHERNET], packet].concat();
        let all = [framed(&v4), framed(&tcp), framed(&v6)];
        let mut whole = file(&all.each_ref().map(Vec::as_slice));
        let found = |ecn, v4| Datagram {
            ecn,
            v4,
            payload: b"abc".to_vec(),
        };
        assert_eq!(datagrams(&whole).unwrap(), [found(2, true), found(3, false)]);
        whole.pop();
        assert_eq!(datagrams(&whole).unwrap(), [found(2, true)]);
        assert_eq!(datagrams(&[]).unwrap(), []);
        assert!(datagrams(&[0; 40]).is_err());
        let mut raw = file(&[&v4, &v6]);
        raw[LINK_TYPE.0..LINK_TYPE.0 + 4].copy_from_slice(&LINK_TYPE.1.to_ne_bytes());
        assert_eq!(datagrams(&raw).unwrap(), [found(2, true), found(3, false)]);
    }
}
