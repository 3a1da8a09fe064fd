//! One client of a load: logged in with a certificate, with a data channel by the record layer of the product. This is a load, not a judge of it.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dtls::{Client, ClientConfig, Content, Established, Psk, SealHalf, Suite};
use platform::clock;
use platform::netns::Namespace;

use crate::peer::{DPD_REQUEST, DPD_RESPONSE, PeerClient};
use crate::{Identity, Lab, PATIENCE, Settings, Site};

/// The user that all of them are.
pub(crate) const SHEPHERD: &str = "shepherd";

/// A datagram is sent again after this long.
const AGAIN: Duration = Duration::from_millis(500);

/// One of them, whose packets take the data channel.
pub(crate) struct Member {
    pub(crate) control: PeerClient,
    pub(crate) data: DataChannel,
}

/// What it has of its data channel.
pub(crate) struct DataChannel {
    pub(crate) socket: UdpSocket,
    pub(crate) keys: Established,
}

/// A gateway's settings with room for so many of them.
pub(crate) fn room(lab: &Lab, settings: Settings, count: u16) -> Settings {
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

impl Member {
    /// Logs in from `host`, with more headers in its CONNECT, and asks until the data channel answers.
    ///
    /// # Errors
    /// If the gateway does not let it in.
    pub(crate) fn join(lab: &Lab, host: &Namespace, site: &Site, identity: &Identity, more: &[&str]) -> Result<Self> {
        let mut line = PeerClient::line(lab, host, site, Some(identity))?;
        let cookie = PeerClient::show_certificate(&mut line)?;
        let mut headers = vec![
            "X-DTLS-CipherSuite: PSK-NEGOTIATE",
            "X-Marmot-Session: 1",
            "X-Marmot-Datagram: v=1",
        ];
        headers.extend(more);
        let control = PeerClient::connect_offering(line, &cookie, &headers)?;
        let mut data = DataChannel::open(host, site, &control)?;
        data.ask()?;
        Ok(Self { control, data })
    }
}

impl DataChannel {
    fn open(host: &Namespace, site: &Site, control: &PeerClient) -> Result<Self> {
        let header = |name| control.granted(name).with_context(|| format!("no {name}"));
        let socket = host.run(|| UdpSocket::bind("0.0.0.0:0"))??;
        let port = header("X-DTLS-Port")?.parse().context("a port is a number")?;
        socket.connect(SocketAddr::from((site.plan.gateway_v4(), port)))?;
        socket.set_read_timeout(Some(AGAIN))?;
        let config = ClientConfig {
            psk: Psk::new(&control.export(b"EXPORTER-openconnect-psk")?).context("a key")?,
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
                return Ok(Self { socket, keys });
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

    /// Asks whether the gateway is there, and waits until it says so: from then on packets take this channel.
    fn ask(&mut self) -> Result<()> {
        let began = clock::now().awake;
        let mut record = Vec::new();
        while clock::now().awake.since(began) < PATIENCE {
            seal(&mut self.keys.seal, DPD_REQUEST, &[], &mut record)?;
            self.socket.send(&record)?;
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
}

/// Puts a sealed record of this kind into `record`.
pub(crate) fn seal(half: &mut SealHalf, kind: u8, payload: &[u8], record: &mut Vec<u8>) -> Result<()> {
    record.clear();
    record.resize(half.prefix(), 0);
    record.push(kind);
    record.extend_from_slice(payload);
    record.resize(record.len() + half.suffix(), 0);
    half.seal(record).context("cannot seal")
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    let byte = |pair: &[u8]| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
    pairs.map(byte).collect()
}
