//! A caller of the gateway: makes TLS connections, and asks one thing after the other over them.
//!
//! The gateway may close the connection between any two requests (stock clients with a certificate do, too), so every
//! request goes over the connection that is there, or over a new one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use channel::{Exchange, ExchangeError, Limits, Response};
use plan::Transport;
use platform::tcp::{self, ClientTcp, Keepalive};
use rustls::{ClientConnection, HandshakeKind};
use session::resume::BINDING_BYTES;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;
use wire::http::ResponseHead;

use crate::ClientError;
use crate::dial::{dial, resolve};
use crate::gate::Gate;
use crate::gateway_names;
use crate::nat64::through_translator;
use crate::setup::Setup;
use crate::trust::When;

/// A known address that takes longer to answer may not be the gateway's any more: a round trip around the world takes a third of it.
const LOOK_UP_AFTER: Duration = Duration::from_secs(1);

type Conversation = Exchange<TlsStream<TcpStream>>;

/// A connection, and what a request for a tunnel says of it.
struct Live {
    conversation: Conversation,
    route: Route,
}

/// What is particular to one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// The path MTU that its kernel knew at the start, in bytes.
    pub(crate) path_mtu: Option<u16>,
    /// What proofs of possession are bound to.
    pub(crate) binding: Option<[u8; BINDING_BYTES]>,
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
    gate: Gate,
    /// Something has left this host, whether or not anybody was reached.
    tried: bool,
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
            gate: Gate::default(),
            tried: false,
            dialled,
        }
    }

    /// Whatever is dialled is let through this gate first.
    pub(crate) fn through(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }

    /// Lets the tunnel's sockets through the lockdown to these.
    ///
    /// # Errors
    /// They stay closed.
    pub(crate) async fn admit(&self, addresses: &[SocketAddr], transport: Transport) -> Result<(), ClientError> {
        let gateways = addresses.iter().map(|address| (*address, transport));
        self.gate.admit(gateways).await
    }

    /// Connects to one of `addresses`, which a lockdown lets through from now on.
    async fn dial_to(&self, addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, ClientError> {
        self.admit(addresses, Transport::Tcp).await?;
        dial(addresses, &self.options(), deadline).await
    }

    pub(crate) fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Mark of the tunnel's slot for its sockets.
    pub(crate) fn mark(&self) -> Option<u32> {
        self.mark
    }

    /// Addresses for the next attempt, the one that answered first.
    pub(crate) fn known(&self) -> &[SocketAddr] {
        &self.known
    }

    /// Sends a request and takes the whole reply.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<Response, ClientError> {
        let (live, response) = self.converse(&mut |_| request.to_vec(), Read::Whole).await?;
        let closing = response
            .head
            .headers
            .get("Connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        self.live = Some(live).filter(|_| !closing);
        Ok(response)
    }

    /// Sends a request, and takes the head of the reply and the connection. `request` makes one for each connection that is
    /// tried.
    pub(crate) async fn ask_for_tunnel(
        &mut self,
        request: &mut (dyn FnMut(Route) -> Vec<u8> + Send),
    ) -> Result<(ResponseHead, Conversation), ClientError> {
        let (live, response) = self.converse(request, Read::Head).await?;
        Ok((response.head, live.conversation))
    }

    /// The next request goes over a new connection.
    pub(crate) fn hang_up(&mut self) {
        self.live = None;
    }

    /// One request and its reply over the living connection, or a new one. A connection that was idle may have been closed
    /// meanwhile without a whole answer; then, and only then, the request is repeated once.
    async fn converse(
        &mut self,
        request: &mut (dyn FnMut(Route) -> Vec<u8> + Send),
        read: Read,
    ) -> Result<(Live, Response), ClientError> {
        if let Some(mut live) = self.live.take() {
            let bytes = request(live.route);
            match self.exchange(&mut live.conversation, &bytes, read).await {
                Ok(response) => return Ok((live, response)),
                Err(error) if closed_while_idle(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let mut live = self.connect().await?;
        let bytes = request(live.route);
        let response = self.exchange(&mut live.conversation, &bytes, read).await?;
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

    /// A known address may have become somebody else's, who accepts TCP but is not the gateway: then the name is asked for.
    async fn connect(&mut self) -> Result<Live, ClientError> {
        let (socket, known) = self.dial().await?;
        let peer = peer_of(&socket);
        let problem = match self.shake_hands(socket).await {
            Ok(live) => return Ok(live),
            Err(problem) => problem,
        };
        if !known {
            return Err(problem);
        }
        match self.look_up_and_dial(peer.ok().as_slice()).await {
            Ok(found) => {
                let socket = self.reached_new(found);
                self.shake_hands(socket).await
            }
            // What is known is told; that there is nothing else says less.
            Err(_) => Err(problem),
        }
    }

    async fn shake_hands(&self, socket: TcpStream) -> Result<Live, ClientError> {
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
        let (socket, tls) = stream.get_ref();
        let route = Route {
            path_mtu: path_mtu(socket),
            binding: channel::resume_binding_at_client(tls).ok(),
        };
        Ok(Live {
            conversation: Exchange::new(stream, Limits::default()),
            route,
        })
    }

    /// Known addresses come first: after a loss the name servers may be reachable through the tunnel only. If none of them answers soon, or
    /// all fail, the name is asked for, and what is new joins the race: the gateway may have moved. Whether it was a known one.
    async fn dial(&mut self) -> Result<(TcpStream, bool), ClientError> {
        if self.known.is_empty() {
            let found = self.look_up_and_dial(&[]).await.map_err(|error| self.in_all(error))?;
            return Ok((self.reached_new(found), false));
        }
        let (raced, tried) = self.race().await;
        self.tried |= tried;
        match raced {
            Ok(Raced::Known(stream)) => Ok((self.reached(stream), true)),
            Ok(Raced::New(found)) => Ok((self.reached_new(found), false)),
            Err(error) => Err(self.in_all(error)),
        }
    }

    /// Known addresses against what is looked up. Also says whether anything left this host.
    async fn race(&self) -> (Result<Raced, ClientError>, bool) {
        let deadline = Instant::now() + self.setup.config.gateway.dial_timeout;
        let skip: Vec<IpAddr> = self.known.iter().map(SocketAddr::ip).collect();
        let mut known = pin!(self.dial_to(&self.known, deadline));
        let mut known_failed = match timeout(LOOK_UP_AFTER, &mut known).await {
            Ok(Ok(stream)) => return (Ok(Raced::Known(stream)), true),
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        let mut new = pin!(self.look_up_and_dial(&skip));
        let mut new_failed = None;
        while known_failed.is_none() || new_failed.is_none() {
            tokio::select! {
                outcome = &mut known, if known_failed.is_none() => match outcome {
                    Ok(stream) => return (Ok(Raced::Known(stream)), true),
                    Err(error) => known_failed = Some(error),
                },
                outcome = &mut new, if new_failed.is_none() => match outcome {
                    Ok(found) => return (Ok(Raced::New(found)), true),
                    Err(error) => new_failed = Some(error),
                },
            }
        }
        // The addresses that are looked up are tried as well, so that they are the last word; but that there are no others says less.
        let tried = known_failed.as_ref().is_some_and(left_this_host);
        let error = match (known_failed, new_failed) {
            (Some(known), Some(ClientError::Dial(new))) if new.is_empty() => known,
            (Some(_), Some(error)) | (None, Some(error)) | (Some(error), None) => error,
            (None, None) => ClientError::Local("nothing was dialled".to_owned()),
        };
        (Err(error), tried)
    }

    /// Asks for the addresses of the gateway, and connects to one of them that is not among `tried`.
    async fn look_up_and_dial(&self, tried: &[IpAddr]) -> Result<Found, ClientError> {
        let gateway = &self.setup.config.gateway;
        let deadline = Instant::now() + gateway.dial_timeout;
        let (url, marked) = (&gateway.url, (self.mark, deadline));
        let found = match &url.host {
            config::Host::Name(name) if gateway.addresses.is_empty() && self.gate.is_closed() => {
                self.look_up(name, url.port, marked).await
            }
            host => resolve(host, url.port, &gateway.addresses, marked).await,
        };
        let mut addresses = through_translator(found?, marked).await;
        addresses.retain(|address| !tried.contains(&address.ip()));
        let stream = self.dial_to(&addresses, deadline).await?;
        Ok(Found { stream, addresses })
    }

    /// What may be asked under a lockdown.
    async fn look_up(
        &self,
        name: &str,
        port: u16,
        marked: (Option<u32>, Instant),
    ) -> Result<Vec<SocketAddr>, ClientError> {
        if self.setup.config.lockdown.allow_dns_lookup {
            return gateway_names::look_up(&self.gate, name, port, marked).await;
        }
        let problem = "the lockdown lets nobody ask, and no address is known that answers; set gateway.addresses, or \
                       lockdown.allow_dns_lookup";
        Err(ClientError::Resolve {
            host: name.to_owned(),
            problem: problem.to_owned(),
            offline: false,
        })
    }

    /// What the last step failed for, as the end of all that was tried.
    fn in_all(&self, error: ClientError) -> ClientError {
        match error {
            ClientError::Dial(error) if self.tried => error.after_others().into(),
            ClientError::Resolve { host, problem, .. } if self.tried => ClientError::Resolve {
                host,
                problem,
                offline: false,
            },
            error => error,
        }
    }

    fn reached_new(&mut self, found: Found) -> TcpStream {
        self.known = found.addresses;
        self.reached(found.stream)
    }

    fn reached(&mut self, stream: TcpStream) -> TcpStream {
        self.tried = true;
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

/// A connection to an address that was looked up, and all that were.
struct Found {
    stream: TcpStream,
    addresses: Vec<SocketAddr>,
}

/// Who was first.
enum Raced {
    Known(TcpStream),
    New(Found),
}

/// Whether anything was sent before this failed.
fn left_this_host(error: &ClientError) -> bool {
    !matches!(error, ClientError::Dial(error) if error.is_offline())
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::secrets::Secrets;
    use crate::testing::{Behaviour, Pki, StubGateway, client_config};

    fn setup(pki: &Pki, port: u16, addresses: &str) -> Arc<Setup> {
        let toml = format!("[gateway]\nurl = \"https://vpn.test:{port}\"\naddresses = [{addresses}]\n");
        Arc::new(Setup::new(client_config(pki, &toml), Secrets::default()).expect("usable"))
    }

    /// Somebody at `address` who takes connections and speaks no TLS.
    async fn stranger(address: SocketAddr) {
        let listener = TcpListener::bind(address).await.expect("bind");
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, b"220 not a gateway\r\n").await;
            }
        });
    }

    #[tokio::test]
    async fn a_remembered_address_that_is_somebody_elses_now_is_looked_up_again() {
        let pki = Pki::new("vpn.test");
        let gateway = StubGateway::start(&pki, Behaviour::default()).await;
        let moved = SocketAddr::from(([127, 0, 0, 2], gateway.port));
        let current = SocketAddr::from(([127, 0, 0, 1], gateway.port));
        stranger(moved).await;
        let setup = setup(&pki, gateway.port, "\"127.0.0.2\", \"127.0.0.1\"");
        let dialled = Arc::new(AtomicU32::new(0));
        let mut caller = Caller::new(setup, None, vec![moved], Arc::clone(&dialled));
        caller.connect().await.map(|_| ()).expect("found again");
        assert_eq!(caller.known(), [current]);
        assert_eq!(dialled.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_remembered_address_that_swallows_everything_loses_to_one_that_is_looked_up() {
        let pki = Pki::new("vpn.test");
        let gateway = StubGateway::start(&pki, Behaviour::default()).await;
        let moved = SocketAddr::from(([127, 0, 0, 2], gateway.port));
        let current = SocketAddr::from(([127, 0, 0, 1], gateway.port));
        // Its queue is full, so that the kernel drops every further SYN.
        let hole = tokio::net::TcpSocket::new_v4().expect("socket");
        hole.bind(moved).expect("bind");
        let _hole = hole.listen(1).expect("listen");
        let mut stuffing = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(moved)).await {
            stuffing.push(stream.expect("loopback"));
        }
        let setup = setup(&pki, gateway.port, "\"127.0.0.1\"");
        let patience = setup.config.gateway.dial_timeout;
        let mut caller = Caller::new(setup, None, vec![moved], Arc::default());
        let begun = Instant::now();
        caller.connect().await.map(|_| ()).expect("found");
        let took = begun.elapsed();
        assert_eq!(caller.known(), [current]);
        assert!(took >= LOOK_UP_AFTER && took < patience / 2, "{took:?}");
    }

    #[tokio::test]
    async fn what_the_remembered_address_did_is_told_if_there_is_no_other() {
        let pki = Pki::new("vpn.test");
        let port = TcpListener::bind("127.0.0.2:0")
            .await
            .expect("bind")
            .local_addr()
            .expect("address")
            .port();
        let moved = SocketAddr::from(([127, 0, 0, 2], port));
        stranger(moved).await;
        let setup = setup(&pki, port, "\"127.0.0.2\"");
        let mut caller = Caller::new(setup, None, vec![moved], Arc::default());
        let error = caller.connect().await.err().expect("no gateway");
        assert!(error.to_string().contains("does not speak tls"), "{error}");
    }
}
