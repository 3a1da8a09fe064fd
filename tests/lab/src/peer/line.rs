//! One TLS connection with blocking calls, whose every record is under control.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};

use crate::{GATEWAY_NAME, Identity};

/// Most plaintext of one TLS record (RFC 8446 section 5.1).
const RECORD: usize = 16_384;

/// A TLS connection, and what was received but not read yet.
#[derive(Debug)]
pub struct Line {
    socket: TcpStream,
    tls: Connection,
    received: Vec<u8>,
}

impl Line {
    /// The client's end, which trusts `ca` and may show a certificate.
    ///
    /// # Errors
    /// If the handshake fails.
    pub fn client(socket: TcpStream, ca: &Path, identity: Option<&Identity>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).context("cannot read the authority")?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let (certificates, key) = load(identity)?;
                config.with_client_auth_cert(certificates, key)?
            }
        };
        let tls = ClientConnection::new(Arc::new(config), ServerName::try_from(GATEWAY_NAME)?)?;
        Self::shake_hands(socket, tls.into())
    }

    /// The server's end.
    ///
    /// # Errors
    /// If the handshake fails.
    pub fn server(socket: TcpStream, identity: &Identity) -> Result<Self> {
        let (certificates, key) = load(identity)?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(certificates, key)?;
        Self::shake_hands(socket, ServerConnection::new(Arc::new(config))?.into())
    }

    fn shake_hands(mut socket: TcpStream, mut tls: Connection) -> Result<Self> {
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).context("the TLS handshake failed")?;
        }
        // What the handshake left to be said, such as tickets.
        while tls.wants_write() {
            tls.write_tls(&mut socket)?;
        }
        Ok(Self {
            socket,
            tls,
            received: Vec::new(),
        })
    }

    /// The TCP connection.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(crate) fn export(&self, label: &[u8]) -> Result<[u8; 32]> {
        let exported = match &self.tls {
            Connection::Client(tls) => tls.export_keying_material([0; 32], label, None),
            Connection::Server(tls) => tls.export_keying_material([0; 32], label, None),
        };
        exported.context("cannot export a key")
    }

    /// Sends bytes as one record.
    ///
    /// # Errors
    /// If they are too many, or the connection broke.
    pub fn send_record(&mut self, bytes: &[u8]) -> Result<()> {
        anyhow::ensure!(bytes.len() <= RECORD, "{} bytes are no record", bytes.len());
        self.tls.writer().write_all(bytes)?;
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket).context("cannot send")?;
        }
        Ok(())
    }

    /// Sends bytes in as few records as they need.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        bytes.chunks(RECORD).try_for_each(|chunk| self.send_record(chunk))
    }

    /// Receives until `take` finds what it looks for at the beginning of what has come, and takes it off.
    ///
    /// # Errors
    /// If the connection ends, or stalls longer than its socket allows.
    pub fn receive<T>(&mut self, mut take: impl FnMut(&mut Vec<u8>) -> Result<Option<T>>) -> Result<T> {
        loop {
            if let Some(found) = take(&mut self.received)? {
                return Ok(found);
            }
            self.receive_some()?;
        }
    }

    /// Receives a head, up to and with its empty line, and its body.
    ///
    /// # Errors
    /// See [`Line::receive`].
    pub fn receive_message(&mut self) -> Result<(String, Vec<u8>)> {
        let head = self.receive(|bytes| {
            let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
            Ok(end.map(|end| bytes.drain(..end + 4).collect::<Vec<u8>>()))
        })?;
        let head = String::from_utf8_lossy(&head).into_owned();
        let length = header(&head, "content-length").and_then(|value| value.parse().ok());
        let length: usize = length.unwrap_or(0);
        let body = self.receive(|bytes| Ok((bytes.len() >= length).then(|| bytes.drain(..length).collect())))?;
        Ok((head, body))
    }

    fn receive_some(&mut self) -> Result<()> {
        loop {
            let mut chunk = [0; RECORD];
            match self.tls.reader().read(&mut chunk) {
                Ok(0) => bail!("the other end closed the connection"),
                Ok(length) => {
                    self.received.extend_from_slice(&chunk[..length]);
                    return Ok(());
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e).context("the other end is gone"),
            }
            self.tls.read_tls(&mut self.socket).context("nothing came")?;
            self.tls.process_new_packets()?;
            while self.tls.wants_write() {
                self.tls.write_tls(&mut self.socket)?;
            }
        }
    }
}

/// The value of a header, whatever the case of its name.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

fn load(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let pem = fs::read(&identity.certificate).context("cannot read a certificate")?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>()?;
    Ok((certificates, PrivateKeyDer::from_pem_file(&identity.key)?))
}
