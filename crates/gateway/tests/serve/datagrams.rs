//! The data channel of a client written by hand: bare records, so that it says exactly what a test wants.

use std::net::SocketAddr;

use channel::data_channel_key;
use dtls::{Client, ClientConfig, Content, Established, Psk, Suite};
use tokio::net::UdpSocket;
use wire::cstp::Kind;

use crate::client::{Tunnel, soon};
use crate::house::House;

pub(crate) struct DataChannel {
    socket: UdpSocket,
    to: SocketAddr,
    keys: Established,
}

impl DataChannel {
    /// Shakes hands for a tunnel. The gateway sends packets here once something was said.
    pub(crate) async fn open(house: &House, tunnel: &Tunnel) -> Self {
        Self::open_as(house, tunnel, true).await
    }

    /// As a stock client does where it knows no connection ids.
    pub(crate) async fn open_as(house: &House, tunnel: &Tunnel, connection_ids: bool) -> Self {
        let header = |name| tunnel.header(name).expect("a data channel is granted");
        let app_id = header("X-DTLS-App-ID");
        let digits = app_id.as_bytes().chunks(2);
        let app_id = digits.map(|pair| {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(pair, 16).expect("hexadecimal")
        });
        let key = data_channel_key(tunnel.channel.tls()).expect("a key");
        let config = ClientConfig {
            psk: Psk::new(key.as_slice()).expect("a key"),
            identity: b"psk".to_vec(),
            session_id: app_id.collect(),
            suites: vec![Suite::Aes128GcmSha256],
            extended_master_secret: true,
            connection_ids,
            mtu: 1200,
        };
        let port = header("X-DTLS-Port").parse().expect("a port");
        let to = SocketAddr::new(house.address.ip(), port);
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let mut client = Client::new(config, [3; 32], platform::clock::now().awake);
        let keys = loop {
            while let Some(datagram) = client.poll() {
                socket.send_to(&datagram, to).await.expect("sent");
            }
            if let Some(keys) = client.established() {
                break keys;
            }
            let mut datagram = receive(&socket).await;
            let now = platform::clock::now().awake;
            client.received(&mut datagram, now).expect("a handshake");
        };
        Self { socket, to, keys }
    }

    pub(crate) async fn say(&mut self, kind: Kind, payload: &[u8]) {
        let seal = &mut self.keys.seal;
        let mut record = vec![0; seal.prefix()];
        record.push(kind.byte());
        record.extend_from_slice(payload);
        record.resize(record.len() + seal.suffix(), 0);
        seal.seal(&mut record).expect("sealed");
        self.socket.send_to(&record, self.to).await.expect("sent");
    }

    /// The next record of this kind. What measures the path is passed over.
    pub(crate) async fn next(&mut self, kind: Kind) -> Vec<u8> {
        loop {
            let mut datagram = receive(&self.socket).await;
            if let Content::Data { range, .. } = self.keys.open.open(&mut datagram).content
                && let Some((first, payload)) = datagram[range].split_first()
                && *first == kind.byte()
            {
                return payload.to_vec();
            }
        }
    }

    /// Goes on from another port, as behind a router that forgot this one.
    pub(crate) async fn rebind(&mut self) {
        self.socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    }
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 2048];
    let (length, _) = soon(socket.recv_from(&mut buffer)).await.expect("a datagram");
    buffer.truncate(length);
    buffer
}
