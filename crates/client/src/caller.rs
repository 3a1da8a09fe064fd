//! A caller of the gateway: makes TLS connections, and asks one thing after the other over them.
//!
//! The gateway may close the connection between any two requests (stock clients with a certificate do, too), so every
//! request goes over the connection that is there, or over a new one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::BytesMut;
use channel::{Exchange, ExchangeError, Limits, Response};
use platform::tcp::{self, ClientTcp, Keepalive};
use rustls::{ClientConnection, HandshakeKind};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;
use wire::http::ResponseHead;

use crate::ClientError;
use crate::dial::{dial, resolve};
use crate::setup::Setup;
use crate::trust::When;

type Conversation = Exchange<TlsStream<TcpStream>>;

/// A connection with the path MTU its kernel knew at the start, in bytes.
struct Live {
    conversation: Conversation,
    path_mtu: Option<u16>,
}

/// What a TLS connection agreed on, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFacts {
    pub(crate) version: String,
    pub(crate) cipher: String,
    pub(crate) group: String,
    pub(crate) resumed: bool,
}

/// One attempt's way to the gateway.
pub(crate) struct Caller {
    setup: Arc<Setup>,
    mark: Option<u32>,
    /// Addresses that worked or were found before, to be tried without asking a name server.
    known: Vec<SocketAddr>,
    live: Option<Live>,
    /// TCP connections made, counted for the dial budget.
    dialled: Arc<AtomicU32>,
}

impl Caller {
    pub(crate) fn new(setup: Arc<Setup>, mark: Option<u32>, known: Vec<SocketAddr>, dialled: Arc<AtomicU32>) -> Self {
        Self {
            setup,
            mark,
            known,
            live: None,
            dialled,
        }
    }

    pub(crate) fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Addresses for the next attempt, the one that answered first.
    pub(crate) fn known(&self) -> &[SocketAddr] {
        &self.known
    }

    /// Sends a request and takes the whole reply.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<Response, ClientError> {
        let (live, response) = self.converse(request, Read::Whole).await?;
        let closing = response
            .head
            .headers
            .get("Connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        self.live = Some(live).filter(|_| !closing);
        Ok(response)
    }

    /// Sends a request, and takes the head of the reply and the connection. `request` is told the path MTU in bytes.
    pub(crate) async fn ask_for_tunnel(
        &mut self,
        request: impl FnOnce(Option<u16>) -> Vec<u8>,
    ) -> Result<(ResponseHead, Conversation), ClientError> {
        if self.live.is_none() {
            self.live = Some(self.connect().await?);
        }
        let request = request(self.live.as_ref().and_then(|live| live.path_mtu));
        let (live, response) = self.converse(&request, Read::Head).await?;
        Ok((response.head, live.conversation))
    }

    /// The next request goes over a new connection.
    pub(crate) fn hang_up(&mut self) {
        self.live = None;
    }

    /// One request and its reply over the living connection, or a new one. A connection that was idle may have been closed
    /// meanwhile without a whole answer; then, and only then, the request is repeated once.
    async fn converse(&mut self, request: &[u8], read: Read) -> Result<(Live, Response), ClientError> {
        if let Some(mut live) = self.live.take() {
            match self.exchange(&mut live.conversation, request, read).await {
                Ok(response) => return Ok((live, response)),
                Err(error) if closed_while_idle(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let mut live = self.connect().await?;
        let response = self.exchange(&mut live.conversation, request, read).await?;
        Ok((live, response))
    }

    async fn exchange(
        &self,
        conversation: &mut Conversation,
        request: &[u8],
        read: Read,
    ) -> Result<Response, ClientError> {
        let limit = self.setup.config.gateway.handshake_timeout;
        let talk = async {
            let sent = conversation.send(request).await;
            let response = match read {
                Read::Whole => conversation.read_response().await,
                Read::Head => conversation
                    .read_response_head(wire::limits::MAX_CONNECT_HEAD)
                    .await
                    .map(|head| Response {
                        head,
                        body: bytes::Bytes::new(),
                    }),
            };
            // A gateway that hangs up says why in an alert, which the failed writing would hide.
            match (sent, response) {
                (_, Ok(response)) => Ok(response),
                (Err(sent), Err(read)) if tls_error(&read).is_none() => Err(sent),
                (_, Err(read)) => Err(read),
            }
        };
        match timeout(limit, talk).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(match tls_error(&error) {
                Some(tls) => self.setup.trust.explain(tls, When::Conversation),
                None => error.into(),
            }),
            Err(_) => Err(ClientError::TooSlow {
                what: "its answer",
                limit,
            }),
        }
    }

    async fn connect(&mut self) -> Result<Live, ClientError> {
        let socket = self.dial().await?;
        let limit = self.setup.config.gateway.handshake_timeout;
        let trust = &self.setup.trust;
        let stream = match timeout(limit, trust.connector().connect(trust.name(), socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.handshake_problem(error)),
            Err(_) => {
                return Err(ClientError::TooSlow {
                    what: "the tls handshake",
                    limit,
                });
            }
        };
        let path_mtu = path_mtu(stream.get_ref().0);
        Ok(Live {
            conversation: Exchange::new(stream, Limits::default()),
            path_mtu,
        })
    }

    /// Known addresses first: after a loss the name servers may be reachable through the tunnel only.
    async fn dial(&mut self) -> Result<TcpStream, ClientError> {
        let gateway = &self.setup.config.gateway;
        let options = self.options();
        let limit = gateway.dial_timeout;
        if !self.known.is_empty() {
            let half = Instant::now() + limit / 2;
            if let Ok(stream) = dial(&self.known, &options, half).await {
                return Ok(self.reached(stream));
            }
        }
        let deadline = Instant::now() + limit;
        let mut found = resolve(&gateway.url.host, gateway.url.port, &gateway.addresses, deadline).await?;
        let stream = dial(&found, &options, deadline).await?;
        self.known.clear();
        self.known.append(&mut found);
        Ok(self.reached(stream))
    }

    fn reached(&mut self, stream: TcpStream) -> TcpStream {
        self.dialled.fetch_add(1, Ordering::Relaxed);
        if let Ok(peer) = stream.peer_addr() {
            self.known.retain(|address| *address != peer);
            self.known.insert(0, peer);
        }
        stream
    }

    fn options(&self) -> ClientTcp {
        let tcp = &self.setup.config.tcp;
        ClientTcp {
            keepalive: Keepalive {
                idle: tcp.keepalive.idle,
                interval: tcp.keepalive.interval,
                count: tcp.keepalive.count,
            },
            mark: self.mark,
            send_buffer: tcp.send_buffer_bytes.and_then(|bytes| usize::try_from(bytes).ok()),
        }
    }

    fn handshake_problem(&self, error: io::Error) -> ClientError {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => self.setup.trust.explain(tls, When::Handshake),
            None => ExchangeError::Io(error).into(),
        }
    }
}

/// How much of a reply is read.
#[derive(Clone, Copy)]
enum Read {
    Whole,
    Head,
}

/// Takes a conversation apart: socket, TLS state, and all plaintext that was read beyond the head.
pub(crate) fn take_apart(conversation: Conversation) -> Result<(TcpStream, ClientConnection, BytesMut), ClientError> {
    let (stream, mut received) = conversation.into_parts();
    let (socket, mut tls) = stream.into_inner();
    let broken = |error: rustls::Error| ExchangeError::Io(io::Error::new(io::ErrorKind::InvalidData, error));
    let waiting = tls.process_new_packets().map_err(broken)?.plaintext_bytes_to_read();
    let start = received.len();
    received.resize(start + waiting, 0);
    io::Read::read_exact(&mut tls.reader(), &mut received[start..]).map_err(ExchangeError::Io)?;
    Ok((socket, tls, received))
}

/// What `tls` agreed on.
pub(crate) fn facts(tls: &ClientConnection) -> TlsFacts {
    let word = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
    TlsFacts {
        version: word(tls.protocol_version().map(|version| format!("{version:?}"))),
        cipher: word(
            tls.negotiated_cipher_suite()
                .map(|suite| format!("{:?}", suite.suite())),
        ),
        group: word(
            tls.negotiated_key_exchange_group()
                .map(|group| format!("{:?}", group.name())),
        ),
        resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
    }
}

fn path_mtu(socket: &TcpStream) -> Option<u16> {
    let info = tcp::info(socket).ok()?;
    (info.pmtu > 0).then(|| u16::try_from(info.pmtu).unwrap_or(u16::MAX))
}

fn tls_error(error: &ExchangeError) -> Option<&rustls::Error> {
    match error {
        ExchangeError::Io(error) => error.get_ref()?.downcast_ref(),
        ExchangeError::Truncated | ExchangeError::Http(_) => None,
    }
}

/// Whether the peer went away without a byte of an answer.
fn closed_while_idle(error: &ClientError) -> bool {
    match error {
        ClientError::Exchange(ExchangeError::Truncated) => true,
        ClientError::Exchange(ExchangeError::Io(error)) => {
            matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
        }
        _ => false,
    }
}

/// The address of a peer, for checks of what it grants.
pub(crate) fn peer_of(socket: &TcpStream) -> Result<IpAddr, ClientError> {
    Ok(socket.peer_addr().map_err(ExchangeError::Io)?.ip())
}
