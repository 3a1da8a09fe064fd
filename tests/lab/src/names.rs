//! A name server that knows one name: the gateway's. So a test can take it away.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};

use crate::Lab;

/// Where it listens: the router next to the client.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

pub(crate) const PORT: u16 = 53;

/// A header without records (RFC 1035 section 4.1.1).
const HEADER: usize = 12;

/// An A record's type (RFC 1035 section 3.2.2).
const A: [u8; 2] = [0, 1];

/// It serves until it is dropped.
#[derive(Debug)]
pub struct Names {
    socket: Arc<UdpSocket>,
}

impl Names {
    /// Starts it, and has all programs of the test ask it.
    ///
    /// # Errors
    /// If its socket or resolv.conf cannot be made.
    pub fn serve(lab: &Lab) -> Result<Self> {
        let socket = lab.internet().run(|| UdpSocket::bind((ADDRESS, PORT)))?;
        let socket = Arc::new(socket.context("cannot serve names in the lab")?);
        fs::write(lab.folder().join("resolv.conf"), format!("nameserver {ADDRESS}\n"))
            .context("cannot write resolv.conf")?;
        let (ears, gateway) = (Arc::clone(&socket), lab.site().plan.gateway_v4());
        thread::spawn(move || {
            let mut query = [0; 512];
            // A datagram of nothing from ourselves is the end.
            while let Ok((length @ 1.., from)) = ears.recv_from(&mut query) {
                if let Some(answer) = answer(&query[..length], gateway) {
                    // Who does not hear it asks again.
                    let _ = ears.send_to(&answer, from);
                }
            }
        });
        Ok(Self { socket })
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let _ = self.socket.send_to(&[], SocketAddr::from((ADDRESS, PORT)));
    }
}

/// The gateway's address for whoever asks for an A record, whatever the name; no records for other questions.
pub(crate) fn answer(query: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let name = query.get(HEADER..)?.iter().position(|byte| *byte == 0)?;
    let end = HEADER + name + 5;
    let question = query.get(HEADER..end)?;
    let wanted = question[name + 1..name + 3] == A;
    let mut answer = query[..2].to_vec();
    // A response, authoritative; one question, perhaps one answer.
    answer.extend([0x85, 0x80, 0, 1, 0, u8::from(wanted), 0, 0, 0, 0]);
    answer.extend(question);
    if wanted {
        // The name of the question, an A record of the Internet, for 0 s, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// The name in the question of a query.
pub(crate) fn asked(query: &[u8]) -> Option<String> {
    let mut labels = Vec::new();
    let mut rest = query.get(HEADER..)?;
    loop {
        let (length, more) = rest.split_first()?;
        let length = usize::from(*length);
        if length == 0 {
            return Some(labels.join("."));
        }
        labels.push(String::from_utf8_lossy(more.get(..length)?).into_owned());
        rest = more.get(length..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_and_nothing_else() {
        let mut query = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(b"\x02gw\x04test\x00\x00\x01\x00\x01");
        let told = answer(&query, Ipv4Addr::new(1, 2, 3, 4)).unwrap();
        assert_eq!((&told[..2], &told[told.len() - 4..]), (&[7, 9][..], &[1, 2, 3, 4][..]));
        assert_eq!(asked(&query).as_deref(), Some("gw.test"));
        let at = query.len() - 3;
        query[at] = 28;
        assert_eq!(answer(&query, Ipv4Addr::new(1, 2, 3, 4)).unwrap().len(), query.len());
        assert_eq!(answer(&query[..14], Ipv4Addr::LOCALHOST), None);
    }
}
