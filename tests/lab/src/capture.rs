//! What a host sends and receives on a device, written down by tcpdump, and read back.
//!
//! ```text
//!   pcap file:  24 bytes of header | 16 bytes: seconds, fraction, length here, length there | Ethernet IPv4 UDP payload | ...
//! ```

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

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Bytes of a UDP header.
const UDP: usize = 8;

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
        let file = lab.folder().join(format!("{name}.pcap"));
        let mut command = lab.command(host, "tcpdump")?;
        command
            .args(["-i", device, "-n", "-U", "--immediate-mode", "-Z", "root", "-w"])
            .arg(&file)
            .arg(matches);
        let tcpdump = lab.spawn(name, command)?;
        tcpdump.wait_for("listening on", PATIENCE)?;
        Ok(Self {
            _tcpdump: tcpdump,
            file,
        })
    }

    /// The payloads of all UDP datagrams over IPv4 so far.
    ///
    /// # Errors
    /// If the file cannot be read, or is not what it should be.
    pub fn payloads(&self) -> Result<Vec<Vec<u8>>> {
        payloads(&fs::read(&self.file).context("cannot read a capture")?)
    }

    /// Waits until there is a datagram for which this holds, and returns the last one.
    ///
    /// # Errors
    /// If there is none in time.
    pub fn last(&self, holds: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
        eventually("a datagram in the capture", PATIENCE, || {
            Ok(self.payloads()?.into_iter().rfind(|payload| holds(payload)))
        })
    }
}

fn payloads(file: &[u8]) -> Result<Vec<Vec<u8>>> {
    let word = |at: usize| Some(u32::from_ne_bytes(file.get(at..at + 4)?.try_into().ok()?));
    let mut found = Vec::new();
    // Nothing was written yet.
    if file.len() < FILE_HEADER {
        return Ok(found);
    }
    ensure!(word(0) == Some(MAGIC), "this is no capture");
    let mut at = FILE_HEADER;
    while let Some(length) = word(at + 8) {
        let start = at + PACKET_HEADER;
        // The last one may not have come to its end.
        let Some(packet) = file.get(start..start + length as usize) else {
            break;
        };
        found.extend(payload(packet).map(<[u8]>::to_vec));
        at = start + length as usize;
    }
    Ok(found)
}

fn payload(packet: &[u8]) -> Option<&[u8]> {
    let ip = packet.get(ETHERNET..)?;
    let first = *ip.first()?;
    if first >> 4 != 4 || *ip.get(9)? != 17 {
        return None;
    }
    let udp = ip.get(usize::from(first & 15) * 4..)?;
    let length = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    udp.get(UDP..length)
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
    fn payloads_are_found_behind_their_headers_and_others_left_out() {
        let mut datagram = vec![0; ETHERNET];
        datagram.extend([0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        datagram.extend([1, 2, 3, 4, 0, 11, 0, 0]);
        // Ethernet pads what is short.
        datagram.extend(b"abc\0\0\0");
        let mut tcp = datagram.clone();
        tcp[ETHERNET + 9] = 6;
        let mut whole = file(&[&datagram, &tcp, &datagram]);
        assert_eq!(payloads(&whole).unwrap(), [b"abc", b"abc"]);
        whole.pop();
        assert_eq!(payloads(&whole).unwrap(), [b"abc"]);
        assert_eq!(payloads(&[]).unwrap().len(), 0);
        assert!(payloads(&[0; 40]).is_err());
    }
}
