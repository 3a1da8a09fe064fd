//! A gateway made of the session crate's pieces: enough to log in, to ask for a tunnel, and to misbehave on order.

use std::sync::{Arc, Mutex, PoisonError};

use channel::{Channel, Exchange, Limits};
use rustls::Connection;
use session::gateway::{Front, FrontOutput, FrontPolicy, Verdict};
use session::resume::BINDING_BYTES;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use wire::Secret;
use wire::cstp::{Frame, Kind};
use wire::http::Method;
use wire::offer::{Grant, MarmotSession, Offer, Refusal};

use super::Pki;

/// How the gateway behaves. May be changed while it runs.
#[derive(Clone)]
pub(crate) struct Behaviour {
    /// Every reply is the last on its connection.
    pub(crate) close_after_reply: bool,
    /// It speaks the XML dialogue.
    pub(crate) xml: bool,
    /// It wants a client certificate at the TLS level.
    pub(crate) demand_certificate: bool,
    /// Its grant cannot be read.
    pub(crate) garbled_grant: bool,
    /// What CONNECT is answered with instead of a grant.
    pub(crate) refusal: Option<Refusal>,
    pub(crate) grant: Grant,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            close_after_reply: false,
            xml: true,
            demand_certificate: false,
            garbled_grant: false,
            refusal: None,
            grant: Grant {
                v4: Some("10.78.0.2/24".parse().expect("net")),
                include: vec!["10.77.0.0/24".parse().expect("net")],
                mtu: 1400,
                ..Grant::default()
            },
        }
    }
}

/// What the gateway saw.
#[derive(Debug)]
pub(crate) enum Seen {
    /// A TCP connection.
    Call,
    /// Somebody logged in.
    Login(String),
    /// Somebody ended an epoch of a session with its token.
    Logout(u64, Secret),
    /// A wrong password.
    Denied,
    /// A cookie that is none of this gateway's.
    UnknownCookie,
    /// A CONNECT proved possession of the session's key, as this epoch.
    Proof(u64),
    /// A CONNECT offered a key, and proved nothing.
    Key,
    /// A tunnel was granted.
    Tunnel {
        epoch: u64,
        orders: mpsc::UnboundedSender<Order>,
    },
    /// A frame that is no data.
    Frame(Kind, Vec<u8>),
    /// A tunnel's connection ended.
    Closed(u64),
}

/// What a tunnel's connection is to do.
#[derive(Debug)]
pub(crate) enum Order {
    Send(Kind, Vec<u8>),
    Close,
}

/// The right password of everybody.
pub(crate) const PASSWORD: &str = "right";

struct Shared {
    behaviour: Behaviour,
    cookies: Vec<String>,
    logins: u64,
    epoch: u64,
}

pub(crate) struct StubGateway {
    pub(crate) port: u16,
    seen: mpsc::UnboundedReceiver<Seen>,
    shared: Arc<Mutex<Shared>>,
    listener: AbortHandle,
}

impl Drop for StubGateway {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl StubGateway {
    pub(crate) async fn start(pki: &Pki, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let tls = if behaviour.demand_certificate {
            pki.demanding_server_config()
        } else {
            pki.server_config()
        };
        let acceptor = TlsAcceptor::from(tls);
        let (told, seen) = mpsc::unbounded_channel();
        let shared = Arc::new(Mutex::new(Shared {
            behaviour,
            cookies: Vec::new(),
            logins: 0,
            epoch: 0,
        }));
        let state = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut calls = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let call = Call {
                    shared: Arc::clone(&state),
                    told: told.clone(),
                };
                let _ = told.send(Seen::Call);
                let acceptor = acceptor.clone();
                calls.spawn(async move {
                    if let Ok(stream) = acceptor.accept(socket).await {
                        call.serve(stream).await;
                    }
                });
            }
        });
        Self {
            port,
            seen,
            shared,
            listener: task.abort_handle(),
        }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner).behaviour);
    }

    /// Every cookie is forgotten.
    pub(crate) fn forget_cookies(&self) {
        self.shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .cookies
            .clear();
    }

    /// The next thing the gateway sees that `pick` takes.
    pub(crate) async fn until<T>(&mut self, mut pick: impl FnMut(Seen) -> Option<T>) -> T {
        let wait = async {
            loop {
                let seen = self.seen.recv().await.expect("the gateway runs");
                if let Some(found) = pick(seen) {
                    return found;
                }
            }
        };
        tokio::time::timeout(super::PATIENCE, wait)
            .await
            .expect("the gateway saw it in time")
    }

    /// The next tunnel that is granted.
    pub(crate) async fn tunnel(&mut self) -> (u64, mpsc::UnboundedSender<Order>) {
        self.until(|seen| match seen {
            Seen::Tunnel { epoch, orders } => Some((epoch, orders)),
            _ => None,
        })
        .await
    }

    /// What was seen and not asked for yet.
    pub(crate) fn rest(&mut self) -> Vec<Seen> {
        std::iter::from_fn(|| self.seen.try_recv().ok()).collect()
    }
}

struct Call {
    shared: Arc<Mutex<Shared>>,
    told: mpsc::UnboundedSender<Seen>,
}

impl Call {
    async fn serve(self, stream: TlsStream<TcpStream>) {
        let certificate = stream.get_ref().1.peer_certificates().map(|_| "alice".to_owned());
        let binding = channel::resume_binding_at_gateway(stream.get_ref().1).expect("a connection that stands");
        let policy = FrontPolicy {
            password: true,
            certificate: true,
            ..FrontPolicy::default()
        };
        let mut front = Front::new(Arc::new(policy), certificate);
        let mut exchange = Exchange::new(stream, Limits::default());
        while let Ok(Some(request)) = exchange.read_request().await {
            let (behaviour, xml) = {
                let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
                (shared.behaviour.clone(), shared.behaviour.xml)
            };
            let content_type = request.head.headers.get("Content-Type").unwrap_or_default();
            if !xml && request.head.method == Method::Post && content_type.starts_with("application/xml") {
                let _ = exchange
                    .send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .await;
                return;
            }
            let mut output = front.request(&request.head, &request.body);
            let (message, close) = loop {
                output = match output {
                    FrontOutput::Reply { message, close } => break (message, close),
                    FrontOutput::Verify { password, .. } => {
                        let right = password.expose() == PASSWORD;
                        if !right {
                            let _ = self.told.send(Seen::Denied);
                        }
                        front.verdict(if right { Verdict::Granted } else { Verdict::Denied })
                    }
                    FrontOutput::Login { user, .. } => front.logged_in(Ok(self.log_in(user))),
                    FrontOutput::Logout(logout) => {
                        let _ = self.told.send(Seen::Logout(logout.session.epoch, logout.token));
                        front.logged_out(Verdict::Granted)
                    }
                    FrontOutput::Connect(offer) => match self.refusal(&offer, &behaviour, &binding) {
                        Some(refusal) => break (refusal.encode(), true),
                        None if behaviour.garbled_grant => {
                            break (b"HTTP/1.1 200 OK\r\nX-CSTP-MTU: all of it\r\n\r\n".to_vec(), true);
                        }
                        None => return self.tunnel(exchange, behaviour.grant).await,
                    },
                };
            };
            if exchange.send(&message).await.is_err() || close || behaviour.close_after_reply {
                return exchange.close().await;
            }
        }
    }

    fn log_in(&self, user: String) -> Secret {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.logins += 1;
        let cookie = format!("cookie{}", shared.logins);
        shared.cookies.push(cookie.clone());
        let _ = self.told.send(Seen::Login(user));
        Secret::new(cookie)
    }

    fn refusal(&self, offer: &Offer, behaviour: &Behaviour, binding: &[u8; BINDING_BYTES]) -> Option<Refusal> {
        if let (Some(key), Some(resume)) = (&offer.park, &offer.resume) {
            session::resume::verify(key, binding, resume).expect("a good proof");
            let _ = self.told.send(Seen::Proof(resume.session.epoch));
        } else if offer.park.is_some() {
            let _ = self.told.send(Seen::Key);
        }
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = behaviour.grant.ticket.as_ref();
        let known = shared.cookies.iter().any(|cookie| cookie == offer.cookie.expose())
            || ticket.is_some_and(|ticket| ticket == &offer.cookie);
        if !known {
            let _ = self.told.send(Seen::UnknownCookie);
        }
        behaviour.refusal.clone().or((!known).then_some(Refusal::Cookie))
    }

    async fn tunnel(&self, mut exchange: Exchange<TlsStream<TcpStream>>, grant: Grant) {
        let epoch = {
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.epoch += 1;
            shared.epoch
        };
        let grant = Grant {
            session: Some(MarmotSession {
                id: "s1".to_owned(),
                epoch,
            }),
            ..grant
        };
        if exchange.send(&grant.encode()).await.is_err() {
            return;
        }
        let (stream, received) = exchange.into_parts();
        let (socket, tls) = stream.into_inner();
        let mut channel = Channel::new(socket, Connection::Server(tls), received);
        let (orders, mut queue) = mpsc::unbounded_channel();
        let _ = self.told.send(Seen::Tunnel { epoch, orders });
        loop {
            tokio::select! {
                frame = channel.next() => match frame {
                    Ok(frame) if frame.kind == Kind::Data => {
                        channel.queue(Kind::Data, &echo(&frame)).expect("room");
                    }
                    Ok(frame) => {
                        let answer = match frame.kind {
                            Kind::Park => Some(Kind::ParkAnswer),
                            Kind::Awake => Some(Kind::AwakeAnswer),
                            _ => None,
                        };
                        if let Some(answer) = answer {
                            channel.queue(answer, &frame.payload).expect("room");
                        }
                        let _ = self.told.send(Seen::Frame(frame.kind, frame.payload.to_vec()));
                    }
                    Err(_) => break,
                },
                Some(order) = queue.recv() => match order {
                    Order::Send(kind, payload) => channel.queue(kind, &payload).expect("room"),
                    Order::Close => break,
                },
            }
        }
        let _ = self.told.send(Seen::Closed(epoch));
    }
}

/// An IPv4 packet with its addresses exchanged.
fn echo(frame: &Frame) -> Vec<u8> {
    let mut packet = frame.payload.to_vec();
    let (source, destination) = packet[12..20].split_at_mut(4);
    source.swap_with_slice(destination);
    packet
}
