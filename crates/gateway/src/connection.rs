//! One TCP connection, from accept to its tunnel or its end.
//!
//! ```text
//!   accept -> TLS handshake -> requests and replies -> CONNECT -> the worker of the session
//!             handshake        login deadline, number of
//!             deadline         requests, sizes
//! ```
//! Stock clients log in over one connection and ask for the tunnel over another, or do both over one; nothing here
//! outlives the connection but what the session room keeps.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use channel::{Exchange, ExchangeError, Limits, Request};
use now::Now;
use rustls::Connection;
use session::gateway::{ConnectRefused, Front, FrontOutput, Verdict};
use session::resume::BINDING_BYTES;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};
use wire::HttpError;
use wire::http::{Headers, ResponseHead};
use wire::offer::{Logout, MarmotDatagram, MarmotSession, Offer, Refusal};
use wire::text::escape;

use crate::admission::{LINGER, Refused, Source};
use crate::authentication::{Admitted, Answer, Question};
use crate::grant::Secrets;
use crate::listener::Guest;
use crate::sessions::{Booking, Caller};
use crate::settings::Settings;
use crate::shell::Shared;
use crate::tunnel::{Manners, Terms};
use crate::worker::Carriage;
use crate::{certificate, grant};

/// How long the reply that grants a tunnel may take to leave. It is a few KiB; who does not read that is not there.
const GRANT_TIME: Duration = Duration::from_secs(10);

/// What a client hears whose connection was overtaken by a reload.
const RECONFIGURED: &str = "the gateway has been reconfigured, try again";

/// Serves one connection until a worker carries it, or to its end.
pub(crate) async fn serve(shared: Rc<Shared>, guest: Guest, socket: TcpStream, peer: SocketAddr, accepted: Instant) {
    let shared = &*shared;
    let mut stopping = shared.stopping.clone();
    // One and the same from the handshake to the grant, whatever is reloaded meanwhile.
    let settings = shared.settings();
    let arrival = async {
        let stream = handshake(shared, &settings, socket, peer, accepted).await?;
        log_in(shared, &settings, stream, peer).await
    };
    let arrived = tokio::select! {
        arrived = arrival => arrived,
        _ = stopping.wait_for(|stopping| *stopping) => None,
    };
    let Some((tunnel, mut exchange)) = arrived else {
        return;
    };
    let Tunnel {
        booking,
        grant,
        terms,
        port,
    } = tunnel;
    let Terms { mtu, parks, .. } = terms;
    // From here on the session counts as connected, until its tunnel says otherwise.
    let ours = port.as_ref().map(|(_, ours)| *ours);
    let granted = async {
        if let Some((open, _)) = port {
            // A client may be quick with its first datagram.
            let _ = open.await;
        }
        // Nothing of who had these addresses before.
        shared.sessions.flows().gone(&booking.connected.lease).await;
        exchange.send(&grant).await
    };
    if !matches!(timeout(GRANT_TIME, granted).await, Ok(Ok(()))) {
        let why = "the client did not take its grant";
        return shared.sessions.nobody_came(&booking, why, shared.clock.now());
    }
    let (stream, received) = exchange.into_parts();
    let (socket, tls) = stream.into_inner();
    let tls = Connection::Server(tls);
    let data =
        ours.and_then(|ours| grant::data_channel(&settings.config, &booking.connected, &tls, (ours, parks), mtu));
    // The worker's runtime watches it from now on.
    let socket = match socket.into_std() {
        Ok(socket) => socket,
        Err(error) => {
            return shared
                .sessions
                .nobody_came(&booking, &error.to_string(), shared.clock.now());
        }
    };
    let carriage = Carriage {
        session: booking.connected.id,
        epoch: booking.connected.epoch,
        group: booking.connected.group.clone(),
        socket,
        tls,
        received,
        guest,
        terms,
        manners: Manners::of(&settings.config),
        data,
    };
    shared.sessions.crew().carry(booking.worker, carriage);
}

/// The TLS handshake. `None` if it came to nothing.
async fn handshake(
    shared: &Shared,
    settings: &Settings,
    socket: TcpStream,
    peer: SocketAddr,
    accepted: Instant,
) -> Option<Stream> {
    let handshake = TlsAcceptor::from(settings.tls.clone()).accept(socket);
    match timeout_at(accepted + settings.config.limits.handshake_timeout, handshake).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            shared.tallies.count(|tally| tally.no_tls += 1);
            debug!(%peer, error = error.to_string().as_str(), "no TLS");
            None
        }
        Err(_) => {
            shared.tallies.count(|tally| tally.too_slow += 1);
            debug!(%peer, "cut: the TLS handshake took too long");
            None
        }
    }
}

/// The HTTP part, up to a granted tunnel. `None` if it came to nothing; the connection is then closed.
async fn log_in(
    shared: &Shared,
    settings: &Settings,
    stream: Stream,
    peer: SocketAddr,
) -> Option<(Tunnel, Exchange<Stream>)> {
    let limits = &settings.config.limits;
    let certificate_user = certificate_user(settings, &stream, peer);
    let exchange = Exchange::new(
        stream,
        Limits {
            head: limits.head_bytes,
            body: limits.body_bytes,
        },
    );
    let mut dialogue = Dialogue {
        shared,
        settings,
        peer,
        exchange,
        certificate_user,
        admitted: None,
    };
    match timeout(limits.login_timeout, dialogue.run()).await {
        Ok(Some(tunnel)) => Some((tunnel, dialogue.exchange)),
        Ok(None) => {
            linger(dialogue.exchange).await;
            None
        }
        Err(_) => {
            shared.tallies.count(|tally| tally.too_slow += 1);
            debug!(%peer, "cut: the login took too long");
            None
        }
    }
}

type Stream = TlsStream<TcpStream>;

/// A tunnel that the session room has given, and the reply that says so.
struct Tunnel {
    booking: Booking,
    grant: Vec<u8>,
    /// What of it matters once packets flow.
    terms: Terms,
    /// If a data channel is granted: ready when datagrams arrive, and whether the client is one of ours.
    port: Option<(oneshot::Receiver<()>, Option<MarmotDatagram>)>,
}

/// The HTTP part of a connection.
struct Dialogue<'a> {
    shared: &'a Shared,
    settings: &'a Settings,
    peer: SocketAddr,
    exchange: Exchange<Stream>,
    /// The user that the client's certificate names.
    certificate_user: Option<String>,
    /// The yes to the password that was right.
    admitted: Option<Admitted>,
}

impl Dialogue<'_> {
    /// Answers requests until a tunnel is granted, or until the connection is to be closed.
    async fn run(&mut self) -> Option<Tunnel> {
        let mut front = Front::new(self.settings.policy.clone(), self.certificate_user.clone());
        for _ in 0..self.settings.config.limits.requests_per_connection {
            let request = match self.exchange.read_request().await {
                Ok(Some(request)) => request,
                Ok(None) => return None,
                Err(error) => return self.refuse(&error).await,
            };
            if let Some(outcome) = self.answer(&mut front, request).await {
                return outcome;
            }
        }
        self.shared.tallies.count(|tally| tally.bad_http += 1);
        debug!(peer = %self.peer, "closed: too many requests");
        None
    }

    /// Answers one request. `None`: read the next one; otherwise the connection goes on as a tunnel, or ends.
    async fn answer(&mut self, front: &mut Front, request: Request) -> Option<Option<Tunnel>> {
        let mut output = front.request(&request.head, &request.body);
        drop(request);
        loop {
            output = match output {
                FrontOutput::Reply { message, close } => {
                    let sent = self.exchange.send(&message).await;
                    return if close || sent.is_err() { Some(None) } else { None };
                }
                FrontOutput::Verify { user, password, group } => {
                    let question = Question {
                        user,
                        password: Some(password),
                        group,
                    };
                    front.verdict(self.verify(question).await)
                }
                FrontOutput::Login { user, group } => self.login(front, user, group).await,
                FrontOutput::Logout(logout) => front.logged_out(self.logout(&logout)),
                FrontOutput::Connect(offer) => return Some(self.connect(&offer).await),
            };
        }
    }

    /// Has a password checked, if its source and its user have tries left.
    async fn verify(&mut self, question: Question) -> Verdict {
        let source = Source::of(self.peer.ip());
        let user = question.user.clone();
        let now = self.shared.clock.now();
        if let Err(refused) = self.shared.guests.room().attempt(source, &user, now) {
            self.too_many(&user, refused, now);
            return Verdict::TooMany;
        }
        let answer = self.shared.authenticator.ask(question).await;
        match answer {
            Answer::Granted(admitted) => {
                self.shared.guests.room().succeeded(source, &user);
                self.admitted = Some(admitted);
                Verdict::Granted
            }
            Answer::Denied => {
                self.denied(&user, "credentials");
                Verdict::Denied
            }
            Answer::Busy => {
                self.shared.guests.room().succeeded(source, &user);
                Verdict::Busy
            }
        }
    }

    /// Opens a session for a user who is authenticated: by the password just checked, or by the certificate, whose user
    /// has yet to be looked up.
    async fn login(&mut self, front: &mut Front, user: String, group: Option<String>) -> FrontOutput {
        let admitted = match self.admitted.take() {
            Some(admitted) => admitted,
            None => {
                let question = Question {
                    user: user.clone(),
                    password: None,
                    group: group.clone(),
                };
                match self.shared.authenticator.ask(question).await {
                    Answer::Granted(admitted) => admitted,
                    Answer::Denied => {
                        self.denied(&user, "certificate");
                        return reply(401, "Login failed", None);
                    }
                    Answer::Busy => {
                        return reply(503, "Service Unavailable", Some("too many logins at once, try again"));
                    }
                }
            }
        };
        // From this look to the session there is no await: a reload is before both or after both.
        let current = self.shared.settings();
        if !self.may_log_in_under(&current) || !admitted.still_holds(&user, current.users.as_ref()) {
            return self.overtaken();
        }
        let now = self.shared.clock.now();
        let certified = self.certificate_user.as_ref() == Some(&user);
        let outcome = self
            .shared
            .sessions
            .login(&user, group.as_deref(), (admitted.reservation, certified), now);
        if let Err(refused) = &outcome {
            info!(peer = %self.peer.ip(), why = %refused, user = escape(&user).as_str(), "login refused");
        }
        front.logged_in(outcome)
    }

    /// Ends a session for a client that could not say goodbye, if its source has tries left.
    fn logout(&self, logout: &Logout) -> Verdict {
        let source = Source::of(self.peer.ip());
        let now = self.shared.clock.now();
        if let Err(refused) = self.shared.guests.room().try_token(source, now) {
            self.too_many("", refused, now);
            return Verdict::TooMany;
        }
        match self.shared.sessions.logout(logout, now) {
            Ok(()) => {
                self.shared.guests.room().token_was_right(source);
                Verdict::Granted
            }
            Err(wrong) => {
                self.denied("", &wrong.to_string());
                Verdict::Denied
            }
        }
    }

    /// Grants or refuses a tunnel.
    async fn connect(&mut self, offer: &Offer) -> Option<Tunnel> {
        let now = self.shared.clock.now();
        let booking = match self.take_seat(offer, now) {
            Ok(booking) => booking,
            Err(refusal) => {
                let _ = self.exchange.send(&refusal.encode()).await;
                return None;
            }
        };
        let (id, epoch) = (booking.connected.id, booking.connected.epoch);
        let token = offer.session.then(|| self.shared.sessions.logout_token(id, epoch, now));
        let secrets = Secrets {
            logout: token,
            ticket: booking.ticket.clone(),
        };
        let config = &self.settings.config;
        let crew = self.shared.sessions.crew();
        let mut grant = grant::grant(config, &booking.connected, offer, secrets, self.peer.ip());
        let udp_port = crew.port_beside(self.tcp_port());
        let app_id = || crew.app_id(booking.worker).to_vec();
        let app_id = grant::datagrams(config, (udp_port, app_id), offer, &mut grant);
        let port = app_id.map(|app_id| crew.open_port(booking.worker, (id, epoch), app_id));
        // Not sent here: this future can be dropped at its deadline, and then nobody would give the seat back.
        Some(Tunnel {
            booking,
            grant: grant.encode(),
            terms: Terms {
                mtu: grant.mtu,
                parks: grant.park.is_some(),
                bundles: grant.marmot_bundle,
            },
            port: port.map(|port| (port, grant.marmot_datagram)),
        })
    }

    /// A place for whoever may go on with the session that it shows. Only what is wrong counts as an attempt of its source: a
    /// good proof is not held up by others who guess from the same address.
    fn take_seat(&self, offer: &Offer, now: Now) -> Result<Booking, Refusal> {
        let current = self.shared.settings();
        if self.certificate_user.is_some() && !Arc::ptr_eq(&self.settings.tls, &current.tls) {
            // Who vouched for the certificate is known only for the settings of the handshake.
            return Err(Refusal::Unavailable(Some(RECONFIGURED.to_owned())));
        }
        let source = Source::of(self.peer.ip());
        let caller = Caller {
            offer,
            peer: self.peer,
            binding: self.binding(),
            certificate_user: self.certificate_user.as_deref(),
        };
        let standing = |user: &str, group: Option<&str>| current.standing(user, group);
        let outcome = self.shared.sessions.connect(&caller, standing, now);
        let is_wrong = matches!(outcome, Err(ConnectRefused::NoProof));
        let counted = is_wrong.then(|| self.shared.guests.room().try_token(source, now));
        if let Some(Err(refused)) = counted {
            self.too_many("", refused, now);
            return Err(Refusal::Unavailable(Some(
                "too many attempts, try again later".to_owned(),
            )));
        }
        outcome.map_err(|refused| {
            if let (ConnectRefused::PoolExhausted, Some(more)) = (&refused, self.shared.exhausted.pass(now)) {
                warn!(more, "address pool exhausted: a session got no tunnel; enlarge [pool]");
            }
            if is_wrong {
                self.denied("", &refused.to_string());
            } else {
                debug!(peer = %self.peer, %refused, "no tunnel");
            }
            refusal(&refused)
        })
    }

    /// What names this connection, for a proof that came over it.
    fn binding(&self) -> Option<[u8; BINDING_BYTES]> {
        let (_, tls) = self.exchange.stream().get_ref();
        channel::resume_binding_at_gateway(tls).ok()
    }

    /// The port that the client came to.
    fn tcp_port(&self) -> u16 {
        let (socket, _) = self.exchange.stream().get_ref();
        socket.local_addr().map_or(0, |address| address.port())
    }

    /// Tells a client what was wrong with its HTTP, if that is what went wrong.
    async fn refuse(&mut self, error: &ExchangeError) -> Option<Tunnel> {
        debug!(peer = %self.peer, error = error.to_string().as_str(), "no request");
        let ExchangeError::Http(error) = error else { return None };
        self.shared.tallies.count(|tally| tally.bad_http += 1);
        let (status, reason) = match error {
            HttpError::HeadTooLong { .. } | HttpError::TooManyHeaders { .. } => {
                (431, "Request Header Fields Too Large")
            }
            HttpError::BodyTooLong { .. } => (413, "Content Too Large"),
            HttpError::Version => (505, "HTTP Version Not Supported"),
            HttpError::TransferCoding => (501, "Not Implemented"),
            HttpError::Syntax(_)
            | HttpError::Ambiguous
            | HttpError::Length
            | HttpError::Chunk(_)
            | HttpError::Truncated => (400, "Bad Request"),
        };
        if let FrontOutput::Reply { message, .. } = reply(status, reason, None) {
            let _ = self.exchange.send(&message).await;
        }
        None
    }

    /// Whether the way this client logs in is one under the settings now in force too. Which authorities vouched for its
    /// certificate is known only for the settings of its handshake.
    fn may_log_in_under(&self, current: &Settings) -> bool {
        let same_authorities = Arc::ptr_eq(&self.settings.tls, &current.tls);
        self.settings.policy == current.policy && (same_authorities || self.certificate_user.is_none())
    }

    /// A reload came between the check and the session: what was checked may not hold any more.
    fn overtaken(&self) -> FrontOutput {
        debug!(peer = %self.peer, "login refused: a reload overtook it");
        reply(503, "Service Unavailable", Some(RECONFIGURED))
    }

    /// An attempt that was refused before any work was done for it: as cheap to make as a line is to write.
    fn too_many(&self, user: &str, refused: Refused, now: Now) {
        self.shared.tallies.count(|tally| tally.denied += 1);
        if let Some(more) = self.shared.too_many.pass(now) {
            let (why, user) = (refused.word(), escape(user));
            info!(peer = %self.peer.ip(), why, more, user = user.as_str(), "login denied");
        }
    }

    fn denied(&self, user: &str, why: &str) {
        self.shared.tallies.count(|tally| tally.denied += 1);
        // A string value is quoted in every format: a name cannot pass for more fields of the line.
        info!(peer = %self.peer.ip(), why, user = escape(user).as_str(), "login denied");
    }
}

/// What a client hears that gets no tunnel.
fn refusal(refused: &ConnectRefused) -> Refusal {
    match refused {
        ConnectRefused::UnknownCookie
        | ConnectRefused::NoProof
        | ConnectRefused::NoCertificate
        | ConnectRefused::NotAdmitted
        | ConnectRefused::Revoked
        | ConnectRefused::Expired => Refusal::Cookie,
        ConnectRefused::Stale(id, epoch) => Refusal::Stale(MarmotSession {
            id: id.to_string(),
            epoch: *epoch,
        }),
        ConnectRefused::StateLost
        | ConnectRefused::Undecided
        | ConnectRefused::NoPlace(_)
        | ConnectRefused::PoolExhausted => Refusal::Unavailable(Some(refused.to_string())),
    }
}

/// The user that the client's certificate names, if it showed one and certificates count here.
fn certificate_user(settings: &Settings, stream: &Stream, peer: SocketAddr) -> Option<String> {
    if !settings.config.auth.methods.certificate() {
        return None;
    }
    let (_, tls) = stream.get_ref();
    let leaf = tls.peer_certificates()?.first()?;
    match certificate::user_name(leaf, settings.config.auth.user_from) {
        Ok(user) => Some(user),
        Err(fault) => {
            info!(peer = %peer.ip(), %fault, "a client certificate names no user");
            None
        }
    }
}

/// A reply without a body that closes the connection.
fn reply(status: u16, reason: &str, x_reason: Option<&str>) -> FrontOutput {
    let mut headers = Headers::new();
    headers.push("Connection", "close");
    if let Some(text) = x_reason {
        headers.push("X-Reason", text);
    }
    let head = ResponseHead {
        status,
        reason: reason.to_owned(),
        headers,
    };
    FrontOutput::Reply {
        message: head.encode(b""),
        close: true,
    }
}

/// Closes so that the last reply arrives: says farewell, and reads for a while what the client may still be sending.
async fn linger(exchange: Exchange<Stream>) {
    let (mut stream, _) = exchange.into_parts();
    let (most, time) = LINGER;
    let close = async {
        stream.shutdown().await?;
        let mut rest = (&mut stream).take(most as u64);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    let _ = timeout(time, close).await;
}
