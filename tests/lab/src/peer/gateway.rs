//! A gateway that lets everybody in, grants what it is told to, and answers pings from inside the tunnel.

use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use socket2::SockRef;

use super::cstp::{Cstp, DATA, DPD_REQUEST, DPD_RESPONSE, KEEPALIVE};
use super::line::Line;
use crate::ping::checksum;
use crate::{Identity, PATIENCE, Site};

/// The address it grants.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);

/// The cookie it gives to everybody.
pub(crate) const COOKIE: &str = "bm90IGEgc2VjcmV0";

/// How frames lie in TLS records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// As the protocol wants it.
    FrameEach,
    /// A keepalive and the frame in one record.
    TwoFramesInOne,
    /// The header in one record, the payload in another.
    OneFrameOverTwo,
}

/// What it says, where it could say something else.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The whole reply to a login, status line and all; the good one if not given.
    pub login: Option<String>,
    /// Header lines of the grant, after the status line.
    pub grant: Vec<String>,
    /// How its frames lie in records.
    pub records: Records,
    /// The whole reply to CONNECT instead of a grant.
    pub connect: Option<String>,
    /// Records that it sends right after the grant.
    pub greeting: Vec<Vec<u8>>,
    /// It answers nothing at all after the TLS handshake.
    pub silent: bool,
}

impl Answer {
    /// An honest gateway of `site`.
    pub fn honest(site: &Site) -> Self {
        let lan = site.plan.lan_v4();
        Self {
            login: None,
            grant: vec![
                "X-CSTP-Version: 1".to_owned(),
                format!("X-CSTP-Address: {CLIENT}"),
                "X-CSTP-Netmask: 255.255.255.255".to_owned(),
                format!("X-CSTP-Split-Include: {}/{}", lan.network(), lan.netmask()),
                "X-CSTP-DPD: 90".to_owned(),
                "X-CSTP-Keepalive: 300".to_owned(),
                "X-CSTP-MTU: 1400".to_owned(),
                "X-CSTP-Base-MTU: 1500".to_owned(),
            ],
            records: Records::FrameEach,
            connect: None,
            greeting: Vec::new(),
            silent: false,
        }
    }

    /// With this header instead of those of the same name, and beside the others.
    #[must_use]
    pub fn with(mut self, name: &str, values: impl IntoIterator<Item = String>) -> Self {
        self.grant.retain(|line| !line.starts_with(&format!("{name}:")));
        self.grant
            .extend(values.into_iter().map(|value| format!("{name}: {value}")));
        self
    }

    /// A login reply of type "complete", with these elements inside.
    #[must_use]
    pub fn login_complete(mut self, inner: &str) -> Self {
        self.login = Some(complete(inner));
        self
    }

    /// Any login reply: status, headers, body.
    #[must_use]
    pub fn login_reply(mut self, status: &str, headers: &[&str], body: &str) -> Self {
        self.login = Some(message(status, headers, body));
        self
    }

    /// Any reply to CONNECT: status and headers.
    #[must_use]
    pub fn connect_reply(mut self, status: &str, headers: &[&str]) -> Self {
        self.connect = Some(message(status, headers, ""));
        self
    }

    /// With a record right after the grant.
    #[must_use]
    pub fn greeting(mut self, record: Vec<u8>) -> Self {
        self.greeting.push(record);
        self
    }

    /// With frames that lie in records like this.
    #[must_use]
    pub fn records(self, records: Records) -> Self {
        Self { records, ..self }
    }
}

/// It runs until dropped.
#[derive(Debug)]
pub struct PeerGateway {
    listener: Arc<TcpListener>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl PeerGateway {
    /// Starts it on a site's gateway host.
    ///
    /// # Errors
    /// If something listens there already.
    pub fn start(site: &Site, identity: Identity, answer: Answer) -> Result<Self> {
        let listener = site.gateway.run(|| TcpListener::bind("[::]:443"))?;
        let listener = Arc::new(listener.context("cannot listen on a gateway's host")?);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (door, heard) = (Arc::clone(&listener), Arc::clone(&requests));
        thread::spawn(move || {
            while let Ok((socket, _)) = door.accept() {
                let (identity, answer, heard) = (identity.clone(), answer.clone(), Arc::clone(&heard));
                // A client that leaves in the middle is what some tests are about.
                thread::spawn(move || serve(socket, &identity, &answer, &heard));
            }
        });
        Ok(Self { listener, requests })
    }

    /// The first lines of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for PeerGateway {
    fn drop(&mut self) {
        // Wakes the thread that accepts.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
    }
}

fn serve(socket: TcpStream, identity: &Identity, answer: &Answer, heard: &Mutex<Vec<String>>) -> Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    let mut line = Line::server(socket, identity)?;
    loop {
        let (head, _) = line.receive_message()?;
        let first = head.lines().next().unwrap_or_default().to_owned();
        let connect = first.starts_with("CONNECT ");
        heard.lock().unwrap_or_else(PoisonError::into_inner).push(first);
        if answer.silent {
            continue;
        }
        if connect {
            return tunnel(line, answer);
        }
        line.send(answer.login.clone().unwrap_or_else(|| complete("")).as_bytes())?;
    }
}

fn tunnel(mut line: Line, answer: &Answer) -> Result<()> {
    if let Some(reply) = &answer.connect {
        return line.send(reply.as_bytes());
    }
    let grant = format!("HTTP/1.1 200 CONNECTED\r\n{}\r\n\r\n", answer.grant.join("\r\n"));
    line.send(grant.as_bytes())?;
    line.socket().set_read_timeout(None)?;
    for record in &answer.greeting {
        line.send_record(record)?;
    }
    loop {
        let frame = line.receive(Cstp::take)?;
        let reply = match frame.kind {
            DATA => echo_reply(&frame.payload).map(|packet| Cstp::new(DATA, packet)),
            DPD_REQUEST => Some(Cstp::new(DPD_RESPONSE, frame.payload)),
            _ => None,
        };
        if let Some(reply) = reply {
            send(&mut line, &reply, answer.records)?;
        }
    }
}

fn send(line: &mut Line, frame: &Cstp, records: Records) -> Result<()> {
    let bytes = frame.bytes();
    match records {
        Records::FrameEach => line.send_record(&bytes),
        Records::TwoFramesInOne => line.send_record(&[Cstp::new(KEEPALIVE, []).bytes(), bytes].concat()),
        Records::OneFrameOverTwo => {
            let (header, payload) = bytes.split_at(8);
            line.send_record(header)?;
            line.send_record(payload)
        }
    }
}

/// The answer to an IPv4 echo request.
fn echo_reply(packet: &[u8]) -> Option<Vec<u8>> {
    let mut reply = packet.to_vec();
    let header = usize::from(packet.first()? & 15) * 4;
    if packet.first()? >> 4 != 4 || *packet.get(9)? != 1 || *packet.get(header)? != 8 {
        return None;
    }
    reply[12..16].copy_from_slice(&packet[16..20]);
    reply[16..20].copy_from_slice(&packet[12..16]);
    reply[header] = 0;
    reply.get_mut(header + 2..header + 4)?.fill(0);
    let sum = checksum(&reply[header..]);
    reply[header + 2..header + 4].copy_from_slice(&sum.to_be_bytes());
    Some(reply)
}

fn complete(inner: &str) -> String {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth client=\"vpn\" type=\"complete\"><version who=\"sg\">0.1(1)</version>\
         <auth id=\"success\"><title>SSL VPN Service</title></auth>{inner}</config-auth>"
    );
    message(
        "200 OK",
        &[
            &format!("Set-Cookie: webvpn={COOKIE}; Secure"),
            "Content-Type: text/xml",
        ],
        &body,
    )
}

fn message(status: &str, headers: &[&str], body: &str) -> String {
    let mut text = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text + "\r\n" + body
}
