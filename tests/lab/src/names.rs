//! A name server that knows one name: the gateway's. So a test can take it away, or move the gateway.
//!
//! In a network with a translator (NAT64) it also knows that network's prefix, by the name of RFC 7050.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

use crate::Lab;

/// Where it listens: the router next to the client.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// And where a client is that has IPv6 alone.
const ADDRESS_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));

pub(crate) const PORT: u16 = 53;

/// A header without records (RFC 1035 section 4.1.1).
const HEADER: usize = 12;

/// Types of records (RFC 1035 section 3.2.2, RFC 3596 section 2.1).
const A: [u8; 2] = [0, 1];
const AAAA: [u8; 2] = [0, 28];

/// `ipv4only.arpa` as a question has it.
const WELL_KNOWN: &[u8] = b"\x08ipv4only\x04arpa\x00";

/// What it knows.
#[derive(Clone, Copy, Debug)]
struct Known {
    gateway: Ipv4Addr,
    /// The well-known address behind the translator, where there is one.
    translated: Option<Ipv6Addr>,
}

/// It serves until it is dropped.
#[derive(Debug)]
pub struct Names {
    socket: Arc<UdpSocket>,
    known: Arc<Mutex<Known>>,
}

impl Names {
    /// Starts it, and has all programs of the test ask it.
    ///
    /// # Errors
    /// If its socket or resolv.conf cannot be made.
    pub fn serve(lab: &Lab) -> Result<Self> {
        Self::start(lab, ADDRESS, None)
    }

    /// The same in a network of IPv6 alone, in which `translated` leads to 192.0.0.170.
    ///
    /// # Errors
    /// As [`Names::serve`].
    pub fn serve_behind_translator(lab: &Lab, translated: Ipv6Addr) -> Result<Self> {
        Self::start(lab, ADDRESS_V6, Some(translated))
    }

    fn start(lab: &Lab, address: IpAddr, translated: Option<Ipv6Addr>) -> Result<Self> {
        let socket = lab.internet().run(|| UdpSocket::bind((address, PORT)))?;
        let socket = Arc::new(socket.context("cannot serve names in the lab")?);
        fs::write(lab.folder().join("resolv.conf"), format!("nameserver {address}\n"))
            .context("cannot write resolv.conf")?;
        let known = Arc::new(Mutex::new(Known {
            gateway: lab.site().plan.gateway_v4(),
            translated,
        }));
        let (ears, knows) = (Arc::clone(&socket), Arc::clone(&known));
        thread::spawn(move || {
            let mut query = [0; 512];
            // A datagram of nothing from ourselves is the end.
            while let Ok((length @ 1.., from)) = ears.recv_from(&mut query) {
                let known = *knows.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(answer) = reply(&query[..length], known) {
                    // Who does not hear it asks again.
                    let _ = ears.send_to(&answer, from);
                }
            }
        });
        Ok(Self { socket, known })
    }

    /// The gateway is at this address from now on.
    pub fn point_to(&self, gateway: Ipv4Addr) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).gateway = gateway;
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if let Ok(own) = self.socket.local_addr() {
            let _ = self.socket.send_to(&[], SocketAddr::from((own.ip(), PORT)));
        }
    }
}

/// The gateway's address for whoever asks for an A record, whatever the name; no records for other questions.
pub(crate) fn answer(query: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    reply(
        query,
        Known {
            gateway: address,
            translated: None,
        },
    )
}

/// The same, and the answer to the question about the translator.
fn reply(query: &[u8], known: Known) -> Option<Vec<u8>> {
    let name = query.get(HEADER..)?.iter().position(|byte| *byte == 0)?;
    let end = HEADER + name + 5;
    let question = query.get(HEADER..end)?;
    let kind = &question[name + 1..name + 3];
    let record: Option<Vec<u8>> = match &question[..=name] == WELL_KNOWN {
        true if kind == AAAA => known.translated.map(|address| address.octets().to_vec()),
        true if kind == A => Some(vec![192, 0, 0, 170]),
        false if kind == A => Some(known.gateway.octets().to_vec()),
        true | false => None,
    };
    let mut answer = query[..2].to_vec();
    // A response, authoritative; one question, perhaps one answer.
    answer.extend([0x85, 0x80, 0, 1, 0, u8::from(record.is_some()), 0, 0, 0, 0]);
    answer.extend(question);
    if let Some(record) = record {
        // The name of the question, a record of the Internet, for 0 s.
        answer.extend([0xc0, 12]);
        answer.extend(kind);
        answer.extend([0, 1, 0, 0, 0, 0, 0, record.len() as u8]);
        answer.extend(record);
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

    fn query(name: &[u8], kind: [u8; 2]) -> Vec<u8> {
        let mut query = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(name);
        query.extend(kind);
        query.extend([0, 1]);
        query
    }

    #[test]
    fn an_address_is_told_and_nothing_else() {
        let known = Known {
            gateway: Ipv4Addr::new(1, 2, 3, 4),
            translated: None,
        };
        let asked = query(b"\x02gw\x04test\x00", A);
        assert_eq!(super::asked(&asked).as_deref(), Some("gw.test"));
        let told = reply(&asked, known).unwrap();
        assert_eq!((&told[..2], &told[told.len() - 4..]), (&[7, 9][..], &[1, 2, 3, 4][..]));
        let asked = query(b"\x02gw\x04test\x00", AAAA);
        assert_eq!(reply(&asked, known).unwrap().len(), asked.len());
        assert_eq!(reply(&asked[..14], known), None);
        let asked = query(WELL_KNOWN, AAAA);
        assert_eq!(reply(&asked, known).unwrap().len(), asked.len());
        let translated: Ipv6Addr = "64:ff9b::c000:aa".parse().unwrap();
        let told = reply(
            &asked,
            Known {
                translated: Some(translated),
                ..known
            },
        );
        assert!(told.unwrap().ends_with(&translated.octets()));
    }
}
