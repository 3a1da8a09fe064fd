//! A client that sends whatever it is told to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use platform::netns::Namespace;

use super::cstp::{Cstp, DATA};
use super::line::{Line, header};
use crate::marmot::{PASSWORD, USER};
use crate::ping::checksum;
use crate::transfer::connect_to;
use crate::{GATEWAY_NAME, Identity, Lab, Site};

/// A connected client.
#[derive(Debug)]
pub struct PeerClient {
    line: Line,
    grant: String,
}

impl PeerClient {
    /// A TLS connection to the gateway of `site`, and nothing more.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn line(lab: &Lab, host: &Namespace, site: &Site, identity: Option<&Identity>) -> Result<Line> {
        let socket = connect_to(host, SocketAddr::from((site.plan.gateway_v4(), 443)))?;
        Line::client(socket, &lab.pki().ca(), identity)
    }

    /// Logs in with the lab's user and password, and returns the cookie.
    ///
    /// # Errors
    /// If the gateway refuses.
    pub fn log_in(line: &mut Line) -> Result<String> {
        let (head, _) = Self::try_password(line, USER, PASSWORD)?;
        cookie(&head)
    }

    /// Logs in with the certificate that the connection has shown, and returns the cookie.
    ///
    /// # Errors
    /// If the gateway refuses.
    pub fn show_certificate(line: &mut Line) -> Result<String> {
        let body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth client=\"vpn\" type=\"init\"><version who=\"vpn\">v9</version>\
                    <device-id>linux-64</device-id></config-auth>";
        line.send(request("POST /", &["Content-Type: application/xml; charset=utf-8"], body).as_bytes())?;
        let (head, _) = line.receive_message()?;
        cookie(&head)
    }

    /// Tries a name and a password, and returns the answer: head and body.
    ///
    /// # Errors
    /// If there is none.
    pub fn try_password(line: &mut Line, user: &str, password: &str) -> Result<(String, Vec<u8>)> {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth client=\"vpn\" type=\"auth-reply\"><version who=\"vpn\">9</version>\
             <auth><username>{user}</username><password>{password}</password></auth></config-auth>"
        );
        line.send(request("POST /auth", &["Content-Type: application/xml; charset=utf-8"], &body).as_bytes())?;
        line.receive_message()
    }

    /// Logs in and asks for a tunnel.
    ///
    /// # Errors
    /// If the gateway refuses.
    pub fn connect(lab: &Lab, host: &Namespace, site: &Site) -> Result<Self> {
        let mut line = Self::line(lab, host, site, None)?;
        let cookie = Self::log_in(&mut line)?;
        Self::connect_with(line, &cookie)
    }

    /// Asks for a tunnel with a cookie.
    ///
    /// # Errors
    /// If the gateway refuses.
    pub fn connect_with(line: Line, cookie: &str) -> Result<Self> {
        Self::connect_offering(line, cookie, &[])
    }

    /// The same with more headers.
    ///
    /// # Errors
    /// If the gateway refuses.
    pub fn connect_offering(mut line: Line, cookie: &str, more: &[&str]) -> Result<Self> {
        let cookie = format!("Cookie: webvpn={cookie}");
        let mut headers = vec![
            cookie.as_str(),
            "X-CSTP-Version: 1",
            "X-CSTP-Base-MTU: 1500",
            "X-CSTP-Address-Type: IPv6,IPv4",
            "X-CSTP-Full-IPv6-Capability: true",
        ];
        headers.extend(more);
        line.send(request("CONNECT /CSCOSSLC/tunnel", &headers, "").as_bytes())?;
        let (grant, _) = line.receive_message()?;
        ensure!(grant.starts_with("HTTP/1.1 200 "), "refused: {grant}");
        Ok(Self { line, grant })
    }

    /// The value of a header of the grant.
    pub fn granted(&self, name: &str) -> Option<&str> {
        header(&self.grant, name)
    }

    /// The granted IPv4 address.
    ///
    /// # Errors
    /// If there is none.
    pub fn address(&self) -> Result<Ipv4Addr> {
        let address = self.granted("X-CSTP-Address").context("no address was granted")?;
        address.parse().context("the granted address is none")
    }

    /// 32 bytes that only both ends of this connection know, by this label (RFC 8446 section 7.5).
    ///
    /// # Errors
    /// If the TLS library refuses.
    pub fn export(&self, label: &[u8]) -> Result<[u8; 32]> {
        self.line.export(label)
    }

    /// The connection, to be fed by hand.
    pub fn line_mut(&mut self) -> &mut Line {
        &mut self.line
    }

    /// Sends a frame as one record.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn send(&mut self, frame: &Cstp) -> Result<()> {
        self.line.send_record(&frame.bytes())
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn send_packet(&mut self, packet: &[u8]) -> Result<()> {
        self.send(&Cstp::new(DATA, packet))
    }

    /// The next frame.
    ///
    /// # Errors
    /// If none comes.
    pub fn receive(&mut self) -> Result<Cstp> {
        self.line.receive(Cstp::take)
    }

    /// Waits for the answer to an [`echo_packet`] with this number, and skips everything else.
    ///
    /// # Errors
    /// If none comes.
    pub fn receive_echo(&mut self, number: u16) -> Result<()> {
        loop {
            let frame = self.receive()?;
            let icmp = frame.payload.get(20..).unwrap_or_default();
            if frame.kind == DATA && icmp.first() == Some(&0) && icmp.get(6..8) == Some(&number.to_be_bytes()) {
                return Ok(());
            }
        }
    }
}

/// An IPv4 echo request, header and all.
pub fn echo_packet(from: Ipv4Addr, to: Ipv4Addr, number: u16) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 0x4d, 0x4d];
    icmp.extend(number.to_be_bytes());
    icmp.extend([0x5a; 32]);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    packet(from, to, 1, &icmp)
}

/// A UDP packet from a source that is not the sender's.
pub fn spoofed_packet(from: IpAddr, to: Ipv4Addr) -> Vec<u8> {
    let from = match from {
        IpAddr::V4(from) => from,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    packet(from, to, 17, &[0x30, 0x39, 0x30, 0x39, 0, 12, 0, 0, 1, 2, 3, 4])
}

fn packet(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(((20 + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

fn cookie(head: &str) -> Result<String> {
    let cookies = head.lines().filter_map(|line| line.strip_prefix("Set-Cookie: webvpn="));
    let cookie = cookies.filter_map(|value| value.split(';').next()).next();
    cookie.map(str::to_owned).with_context(|| format!("no cookie: {head}"))
}

fn request(first: &str, headers: &[&str], body: &str) -> String {
    let mut text = format!("{first} HTTP/1.1\r\nHost: {GATEWAY_NAME}\r\nUser-Agent: lab\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text + "\r\n" + body
}
