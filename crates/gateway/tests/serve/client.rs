//! A client written by hand: its requests are text, so that they do not share a mistake with the product's encoder.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use channel::{Channel, Closed, Exchange, Limits, Response};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, Connection, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wire::cstp::{Frame, Kind};
use wire::limits::MAX_CONNECT_HEAD;

use crate::house::{House, NAME, PASSWORD, PATIENCE};

/// Waits for something that must happen soon.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}

/// A TLS connection before CONNECT.
pub(crate) struct Client {
    exchange: Exchange<TlsStream<TcpStream>>,
}

/// A granted tunnel.
pub(crate) struct Tunnel {
    pub(crate) channel: Channel,
    /// The headers of the grant.
    pub(crate) grant: Response,
    pub(crate) address: Ipv4Addr,
}

/// Why there is no tunnel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoTunnel {
    pub(crate) status: u16,
    pub(crate) reason: Option<String>,
}

impl Client {
    pub(crate) async fn connect(house: &House) -> Self {
        Self::connect_with(house, None).await.expect("TLS")
    }

    /// Connects with a certificate and its key in DER.
    pub(crate) async fn connect_with(
        house: &House,
        certificate: Option<(CertificateDer<'static>, Vec<u8>)>,
    ) -> std::io::Result<Self> {
        let mut roots = RootCertStore::empty();
        for root in &house.roots {
            roots.add(root.clone()).expect("root");
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key).expect("key");
                builder.with_client_auth_cert(vec![certificate], key).expect("pair")
            }
        };
        let name = ServerName::try_from(NAME).expect("name");
        let socket = soon(TcpStream::connect(house.address)).await?;
        let stream = soon(TlsConnector::from(Arc::new(config)).connect(name, socket)).await?;
        Ok(Self {
            exchange: Exchange::new(stream, Limits::default()),
        })
    }

    /// What this end of the connection exports for a proof of possession.
    pub(crate) fn binding(&self) -> [u8; 32] {
        let (_, tls) = self.exchange.stream().get_ref();
        channel::resume_binding_at_client(tls).expect("after the handshake")
    }

    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        soon(self.exchange.send(bytes)).await.expect("sent");
    }

    /// Reads one reply.
    pub(crate) async fn reply(&mut self) -> Response {
        soon(self.exchange.read_response()).await.expect("a reply")
    }

    /// Waits until the gateway has closed the connection.
    pub(crate) async fn closed(mut self) {
        let response = soon(self.exchange.read_response()).await;
        assert!(response.is_err(), "{response:?}");
    }

    /// Posts a document and returns the reply with its text.
    pub(crate) async fn post(&mut self, content_type: &str, body: &str) -> (Response, String) {
        let length = body.len();
        self.send(
            format!(
                "POST / HTTP/1.1\r\nHost: {NAME}\r\nUser-Agent: test\r\nContent-Type: {content_type}\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            )
            .as_bytes(),
        )
        .await;
        let reply = self.reply().await;
        let text = String::from_utf8(reply.body.to_vec()).expect("text");
        (reply, text)
    }

    /// Begins the dialogue.
    pub(crate) async fn init(&mut self) -> (Response, String) {
        let document = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth client=\"vpn\" type=\"init\">\
                        <version who=\"vpn\">v9</version><device-id>linux-64</device-id></config-auth>";
        self.post("application/xml; charset=utf-8", document).await
    }

    /// Answers the form.
    pub(crate) async fn answer(&mut self, user: &str, password: &str) -> (Response, String) {
        let document = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth client=\"vpn\" type=\"auth-reply\">\
             <version who=\"vpn\">v9</version><device-id>linux-64</device-id>\
             <auth><username>{user}</username><password>{password}</password></auth></config-auth>"
        );
        self.post("application/xml; charset=utf-8", &document).await
    }

    /// Asks for a tunnel.
    pub(crate) async fn tunnel(self, cookie: &str) -> Result<Tunnel, NoTunnel> {
        self.tunnel_with(
            cookie,
            "X-CSTP-Address-Type: IPv6,IPv4\r\nX-CSTP-Full-IPv6-Capability: true\r\n",
        )
        .await
    }

    /// Asks for a tunnel with these headers.
    pub(crate) async fn tunnel_with(mut self, cookie: &str, headers: &str) -> Result<Tunnel, NoTunnel> {
        let request = format!(
            "CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nHost: {NAME}\r\nUser-Agent: test\r\nCookie: webvpn={cookie}\r\n\
             X-CSTP-Version: 1\r\nX-CSTP-Base-MTU: 1500\r\n{headers}\r\n"
        );
        self.send(request.as_bytes()).await;
        let head = soon(self.exchange.read_response_head(MAX_CONNECT_HEAD))
            .await
            .expect("a reply");
        if head.status != 200 {
            let reason = head.headers.get("X-Reason").map(str::to_owned);
            return Err(NoTunnel {
                status: head.status,
                reason,
            });
        }
        let address = head
            .headers
            .get_exact("X-CSTP-Address")
            .expect("an address")
            .parse()
            .expect("IPv4");
        let (stream, received) = self.exchange.into_parts();
        let (socket, tls) = stream.into_inner();
        let channel = Channel::new(socket, Connection::Client(tls), received);
        Ok(Tunnel {
            channel,
            address,
            grant: Response {
                head,
                body: Bytes::new(),
            },
        })
    }

    /// The stream, for writing to the tunnel in ways that a channel would not.
    pub(crate) async fn raw_tunnel(mut self, cookie: &str) -> (TlsStream<TcpStream>, Ipv4Addr) {
        let request = format!("CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nHost: {NAME}\r\nCookie: webvpn={cookie}\r\n\r\n");
        self.send(request.as_bytes()).await;
        let head = soon(self.exchange.read_response_head(MAX_CONNECT_HEAD))
            .await
            .expect("a reply");
        assert_eq!(head.status, 200);
        let address = head
            .headers
            .get_exact("X-CSTP-Address")
            .expect("an address")
            .parse()
            .expect("IPv4");
        (self.exchange.into_parts().0, address)
    }
}

/// The cookie of a reply that completes a login.
pub(crate) fn cookie(reply: &Response) -> String {
    let cookie = reply.head.headers.set_cookie("webvpn").expect("a cookie");
    cookie.expose().to_owned()
}

/// Logs a user in and returns the cookie.
pub(crate) async fn log_in(house: &House, user: &str) -> String {
    let mut client = Client::connect(house).await;
    let (reply, text) = client.answer(user, PASSWORD).await;
    assert_eq!(reply.head.status, 200);
    assert!(text.contains("complete"), "{text}");
    cookie(&reply)
}

/// Logs a user in and connects.
pub(crate) async fn tunnel_of(house: &House, user: &str) -> (Tunnel, String) {
    let cookie = log_in(house, user).await;
    let tunnel = Client::connect(house).await.tunnel(&cookie).await.expect("a tunnel");
    (tunnel, cookie)
}

impl Tunnel {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.grant.head.headers.get_exact(name)
    }

    pub(crate) async fn send(&mut self, kind: Kind, payload: &[u8]) {
        self.channel.queue(kind, payload).expect("queued");
        soon(self.channel.flush()).await.expect("sent");
    }

    pub(crate) async fn next(&mut self) -> Frame {
        soon(self.channel.next()).await.expect("a frame")
    }

    /// Waits for the end of the connection, without any frame before it.
    pub(crate) async fn end(mut self) -> Closed {
        soon(self.channel.next()).await.expect_err("the end")
    }
}

/// Writes bytes as exactly one TLS record.
pub(crate) async fn write_record(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) {
    soon(stream.write_all(bytes)).await.expect("written");
    soon(stream.flush()).await.expect("sent");
}

/// A UDP packet without a checksum.
pub(crate) fn packet(from: impl Into<IpAddr>, to: impl Into<IpAddr>, payload: &[u8]) -> Vec<u8> {
    match (from.into(), to.into()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(28 + payload.len()).expect("length").to_be_bytes();
            let mut packet = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 17, 0, 0];
            packet.extend(from.octets().into_iter().chain(to.octets()));
            packet.extend([0, 9, 0, 9, 0, 0, 0, 0]);
            packet.extend(payload);
            packet
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = u16::try_from(8 + payload.len()).expect("length").to_be_bytes();
            let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], 17, 64];
            packet.extend(from.octets().into_iter().chain(to.octets()));
            packet.extend([0, 9, 0, 9, 0, 0, 0, 0]);
            packet.extend(payload);
            packet
        }
        _ => panic!("two families"),
    }
}
