//! Many clients that sleep: each logs in with a certificate, opens its data channel, says that it is about to sleep, and is not heard of any more.
//!
//! ```text
//!   TLS: certificate -> cookie -> CONNECT (parking granted) --+-- "park", answered -- the connection breaks
//!   UDP: DTLS handshake -> a question, answered --------------+                       the gateway keeps session, address and keys
//! ```
//! What they are to the gateway is what sleeping hosts are. The record layer is the product's own: this is a load, not a judge of it.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use dtls::{Client, ClientConfig, Content, Established, Psk, Suite};
use platform::clock;
use platform::netns::Namespace;

use crate::peer::{Cstp, DPD_REQUEST, DPD_RESPONSE, PeerClient};
use crate::{Identity, Lab, PATIENCE, Settings, Site};

/// The user that all of them are.
const SHEPHERD: &str = "shepherd";

/// "I am about to sleep", and its answer (docs/PROTOCOL.md).
const PARK: u8 = 0x41;
const PARK_ANSWER: u8 = 0x42;

/// A datagram is sent again after this long.
const AGAIN: Duration = Duration::from_millis(500);

/// Clients of one site.
#[derive(Debug)]
pub struct Herd<'a> {
    lab: &'a Lab,
    host: &'a Namespace,
    site: &'a Site,
    identity: Identity,
    parked: usize,
}

impl<'a> Herd<'a> {
    /// Nobody yet, on `host`.
    ///
    /// # Errors
    /// If there is no certificate for them.
    pub fn new(lab: &'a Lab, host: &'a Namespace, site: &'a Site) -> Result<Self> {
        Ok(Self {
            lab,
            host,
            site,
            identity: lab.pki().client(SHEPHERD)?,
            parked: 0,
        })
    }

    /// A gateway's settings with room for so many of them.
    pub fn room(lab: &Lab, settings: Settings, count: u16) -> Settings {
        settings
            .with("auth.methods", vec!["password", "certificate"])
            .with_path("auth.client_ca_file", &lab.pki().ca())
            .with("pool.ipv4", "10.78.0.0/17")
            .with("pool.ipv6", "fd00:78::/64")
            .with("limits.sessions", i64::from(count) + 100)
            .with("limits.sessions_per_user", i64::from(count))
            .with("limits.connections", i64::from(count) + 100)
            .with("park.per_user", i64::from(count))
    }

    /// The name that the users file has to know.
    pub fn user() -> &'static str {
        SHEPHERD
    }

    /// Parks so many more of them.
    ///
    /// # Errors
    /// If the gateway does not let one in.
    pub fn park(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.park_one()
                .with_context(|| format!("after {} clients", self.parked))?;
            self.parked += 1;
        }
        Ok(())
    }

    fn park_one(&self) -> Result<()> {
        let mut line = PeerClient::line(self.lab, self.host, self.site, Some(&self.identity))?;
        let cookie = PeerClient::show_certificate(&mut line)?;
        let key = Ed25519KeyPair::generate().context("no key")?;
        let park = format!("X-Marmot-Park: v=1;key={}", hex(key.public_key().as_ref()));
        let headers = [
            "X-DTLS-CipherSuite: PSK-NEGOTIATE",
            "X-Marmot-Session: 1",
            "X-Marmot-Datagram: v=1",
            park.as_str(),
        ];
        let mut client = PeerClient::connect_offering(line, &cookie, &headers)?;
        ensure!(client.granted("X-Marmot-Park").is_some(), "parking is not granted");
        let mut data = self.data_channel(&client)?;
        data.ask()?;
        client.send(&Cstp::new(PARK, *b"good one"))?;
        while client.receive()?.kind != PARK_ANSWER {}
        Ok(())
    }

    fn data_channel(&self, client: &PeerClient) -> Result<DataChannel> {
        let header = |name| client.granted(name).with_context(|| format!("no {name}"));
        let socket = self.host.run(|| UdpSocket::bind("0.0.0.0:0"))??;
        let port = header("X-DTLS-Port")?.parse().context("a port is a number")?;
        socket.connect(SocketAddr::from((self.site.plan.gateway_v4(), port)))?;
        socket.set_read_timeout(Some(AGAIN))?;
        let config = ClientConfig {
            psk: Psk::new(&client.export(b"EXPORTER-openconnect-psk")?).context("a key")?,
            identity: b"psk".to_vec(),
            session_id: bytes(header("X-DTLS-App-ID")?)?,
            suites: vec![Suite::Aes128GcmSha256],
            extended_master_secret: true,
            connection_ids: true,
            mtu: 1200,
        };
        let mut random = [0; 32];
        aws_lc_rs::rand::fill(&mut random).context("no randomness")?;
        let began = clock::now().awake;
        let mut handshake = Client::new(config, random, began);
        loop {
            while let Some(datagram) = handshake.poll() {
                socket.send(&datagram)?;
            }
            if let Some(keys) = handshake.established() {
                return Ok(DataChannel { socket, keys });
            }
            let mut buffer = [0; 2048];
            let came = socket.recv(&mut buffer);
            let now = clock::now().awake;
            ensure!(now.since(began) < PATIENCE, "no handshake");
            match came {
                Ok(length) => handshake.received(&mut buffer[..length], now),
                // Its own timer knows what to send again.
                Err(_) => handshake.handle_timeout(now),
            }
            .context("the handshake failed")?;
        }
    }
}

/// What a client has of its data channel while it is awake.
struct DataChannel {
    socket: UdpSocket,
    keys: Established,
}

impl DataChannel {
    /// Asks whether the gateway is there, and waits until it says so: from then on packets take this channel.
    fn ask(&mut self) -> Result<()> {
        let began = clock::now().awake;
        while clock::now().awake.since(began) < PATIENCE {
            self.say(DPD_REQUEST)?;
            let mut buffer = [0; 2048];
            while let Ok(length) = self.socket.recv(&mut buffer) {
                let datagram = &mut buffer[..length];
                if let Content::Data { range, .. } = self.keys.open.open(datagram).content
                    && datagram[range].first() == Some(&DPD_RESPONSE)
                {
                    return Ok(());
                }
            }
        }
        anyhow::bail!("the data channel does not answer")
    }

    fn say(&mut self, kind: u8) -> Result<()> {
        let seal = &mut self.keys.seal;
        let mut record = vec![0; seal.prefix()];
        record.push(kind);
        record.resize(record.len() + seal.suffix(), 0);
        seal.seal(&mut record).context("cannot seal")?;
        self.socket.send(&record)?;
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    let byte = |pair: &[u8]| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
    pairs.map(byte).collect()
}
