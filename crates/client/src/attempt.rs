//! One attempt to connect: dial, TLS, login if needed, CONNECT.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use channel::Channel;
use config::DtlsSuite;
use dtls::{Psk, Suite};
use lifecycle::{FailClass, Stage};
use plan::Transport;
use platform::network::ipv6_available;
use rustls::Connection;
use session::client::{Authenticated, ConnectError, Established, Renewal, RenewalBy, Terms, Wants};
use session::resume::{SEED_BYTES, SessionKey};
use tracing::debug;
use wire::offer::{DtlsGrant, Grant, PSK_NEGOTIATE, RekeyMethod};
use wire::text::escape;

use crate::ClientError;
use crate::books::Books;
use crate::caller::{Caller, TlsFacts, facts, peer_of, take_apart};
use crate::clock;
use crate::datapath::DataPath;
use crate::gate::Gate;
use crate::gateway_names;
use crate::login::log_in;
use crate::route::RouteWatch;
use crate::setup::Setup;

/// The least packet that every path of a family carries: RFC 791 (what every host must reassemble), RFC 8200 section 5.
const LEAST_MTU_V4: u16 = 576;
const LEAST_MTU_V6: u16 = 1280;

/// A connection over which frames flow, and its session.
pub(crate) struct Link {
    /// Nothing once it is lost, while the data channel carries packets alone.
    pub(crate) channel: Option<Channel>,
    pub(crate) established: Established,
    /// What the gateway granted of a data channel, until the pump begins with it.
    pub(crate) granted: Option<Granted>,
    /// The data channel, once the pump has begun.
    pub(crate) data: Option<DataPath>,
    /// Lower the segment size of TCP connections to what fits.
    pub(crate) clamp_mss: bool,
    /// What becomes of packets while the host sleeps or is awake for its own purposes, and how old one may get in a gap.
    pub(crate) sleep: config::Sleep,
    /// How long no program uses the tunnel until that is told.
    pub(crate) idle: Option<Duration>,
    /// Mark of the tunnel's slot for its sockets.
    pub(crate) mark: Option<u32>,
}

impl Link {
    /// The largest packet that goes into the tunnel now, in bytes.
    pub(crate) fn mtu(&self) -> u16 {
        let granted = self.established.grant().mtu;
        let carried = self.data.as_ref().and_then(DataPath::mtu);
        carried.map_or(granted, |carried| carried.min(granted))
    }

    /// Watches the way that the control connection was made on.
    pub(crate) fn route(&self) -> Option<RouteWatch> {
        let socket = self.channel.as_ref()?.socket();
        let (peer, own) = (socket.peer_addr().ok()?, socket.local_addr().ok()?);
        Some(RouteWatch::new(peer, self.mark, own.ip()))
    }

    /// Begins with the data channel that was granted, and goes on with what `before` has of the connection before.
    pub(crate) fn begin_data(&mut self, before: Option<DataPath>) {
        let now = clock::now();
        self.data = self.granted.take().map(|granted| {
            let Granted { terms, gateway, mark } = granted;
            let mut data = DataPath::new(terms, (gateway, mark), before, now);
            data.begin(now);
            data
        });
    }
}

/// A data channel that the gateway granted.
pub(crate) struct Granted {
    pub(crate) terms: Terms,
    /// Its UDP port.
    pub(crate) gateway: SocketAddr,
    /// Mark of the tunnel's slot for its sockets.
    pub(crate) mark: Option<u32>,
}

/// What an attempt starts from.
pub(crate) struct Attempt {
    pub(crate) setup: Arc<Setup>,
    /// Mark of the tunnel's slot for its sockets.
    pub(crate) mark: Option<u32>,
    /// What lets them through the lockdown.
    pub(crate) gate: Gate,
    /// Addresses to try before asking a name server.
    pub(crate) known: Vec<SocketAddr>,
    /// The cookie of the session; `None` logs in.
    pub(crate) cookie: Option<Authenticated>,
    /// The session's addresses, to keep them.
    pub(crate) previous: Vec<IpAddr>,
    /// Takes the record of the session that a login makes.
    pub(crate) books: Books,
    /// Counts TCP connections.
    pub(crate) dialled: Arc<AtomicU32>,
}

/// An attempt that succeeded.
pub(crate) struct Opened {
    pub(crate) link: Link,
    pub(crate) cookie: Authenticated,
    /// The address of the gateway.
    pub(crate) peer: IpAddr,
    pub(crate) known: Vec<SocketAddr>,
    pub(crate) tls: TlsFacts,
}

/// An attempt that failed.
pub(crate) struct Failure {
    pub(crate) error: ClientError,
    pub(crate) stage: Stage,
    /// What it logged in for before it failed.
    pub(crate) cookie: Option<Authenticated>,
}

impl Failure {
    /// The attempt by cookie that was not made because there is no cookie for this gateway and user.
    pub(crate) fn without_cookie() -> Self {
        Self {
            error: ConnectError::CookieRefused.into(),
            stage: Stage::Connect,
            cookie: None,
        }
    }

    /// What is to be done about it, after so many connections.
    pub(crate) fn class_after(&self, dialled: u32) -> FailClass {
        match self.error.class() {
            FailClass::Offline if dialled > 0 => FailClass::Network,
            class => class,
        }
    }
}

impl Attempt {
    /// Makes the attempt. Dropping the future abandons it.
    pub(crate) async fn run(self) -> Result<Box<Opened>, Failure> {
        let no_login = |error| Failure {
            error,
            stage: Stage::Login,
            cookie: None,
        };
        let config = &self.setup.config;
        self.gate.close(config).await.map_err(no_login)?;
        let mut known = self.known;
        if known.is_empty() && self.gate.is_closed() {
            known = gateway_names::remembered(config).await;
        }
        if self.cookie.is_none() {
            // Gateways ban who logs in again and again for nothing.
            let takes = self.books.takes_records().await;
            takes.map_err(|trouble| no_login(ClientError::Unrecorded(trouble)))?;
        }
        let mut caller = Caller::new(Arc::clone(&self.setup), self.mark, known, self.dialled).through(self.gate);
        let mut cookie = match self.cookie {
            Some(cookie) => cookie,
            None => with_key(log_in(&mut caller).await.map_err(no_login)?),
        };
        let mut opened = open_tunnel(&mut caller, &mut cookie, &self.previous).await;
        if let Err(ClientError::Connect(ConnectError::Stale(_))) = opened {
            opened = open_tunnel(&mut caller, &mut cookie, &self.previous).await;
        }
        match opened {
            Ok((link, peer, tls)) => {
                gateway_names::remember(&self.setup.config, caller.known());
                Ok(Box::new(Opened {
                    link,
                    peer,
                    tls,
                    known: caller.known().to_vec(),
                    cookie,
                }))
            }
            // The same cookie would be answered in the same way for ever.
            Err(error @ ClientError::Connect(ConnectError::Grant(_))) => Err(Failure {
                error,
                stage: Stage::Granted,
                cookie: None,
            }),
            Err(error) => Err(Failure {
                error,
                stage: Stage::Connect,
                cookie: Some(cookie),
            }),
        }
    }
}

/// A key for the session that begins with this login. Without randomness there is none: the cookie alone decides then.
fn with_key(cookie: Authenticated) -> Authenticated {
    let mut seed = [0; SEED_BYTES];
    match aws_lc_rs::rand::fill(&mut seed) {
        Ok(()) => cookie.with_key(SessionKey::from_seed(seed)),
        Err(_) => cookie,
    }
}

async fn open_tunnel(
    caller: &mut Caller,
    cookie: &mut Authenticated,
    previous: &[IpAddr],
) -> Result<(Link, IpAddr, TlsFacts), ClientError> {
    let identity = caller.setup().identity.clone();
    let (datagrams, ecn) = (caller.setup().config.dtls.enabled, caller.setup().config.dtls.ecn);
    let mut requesting = None;
    let (head, conversation) = caller
        .ask_for_tunnel(&mut |route| {
            let wants = Wants {
                v4: true,
                v6: ipv6_available(),
                base_mtu: route.path_mtu,
                previous: previous.to_vec(),
                datagrams,
                ecn,
            };
            let (phase, request) = cookie.request(&identity, &wants, route.binding.as_ref());
            requesting = Some(phase);
            request
        })
        .await?;
    let requesting = requesting.ok_or(ConnectError::CookieRefused)?;
    let now = clock::now();
    let mut established = requesting.reply(&head, now).inspect_err(|error| {
        if let ConnectError::Stale(epoch) = error {
            cookie.outdated(*epoch);
        }
    })?;
    cookie.granted(established.grant());
    if let Some(dpd) = caller.setup().config.session.dpd {
        established.set_dpd(Some(dpd), now);
    }
    let (socket, tls, received) = take_apart(conversation)?;
    let (peer, facts) = (peer_of(&socket)?, facts(&tls));
    let tls = Connection::Client(tls);
    let granted = granted(caller, established.grant(), &tls, peer);
    if let Some(granted) = &granted {
        caller.admit(&[granted.gateway], Transport::Udp).await?;
    }
    let channel = Channel::new(socket, tls, received);
    let link = Link {
        channel: Some(channel),
        established,
        granted,
        data: None,
        clamp_mss: caller.setup().config.dtls.mss_clamp,
        sleep: caller.setup().config.sleep,
        idle: caller
            .setup()
            .config
            .on_demand
            .idle
            .filter(|_| caller.setup().config.on_demand.enabled),
        mark: caller.mark(),
    };
    Ok((link, peer, facts))
}

/// The data channel that goes with a grant; nothing if there is none that we know how to use.
fn granted(caller: &Caller, grant: &Grant, tls: &Connection, peer: IpAddr) -> Option<Granted> {
    let config = &caller.setup().config;
    let dtls = grant.dtls.as_ref().filter(|_| config.dtls.enabled)?;
    if dtls.cipher != PSK_NEGOTIATE {
        debug!(
            cipher = escape(&dtls.cipher),
            "the gateway grants another kind of data channel"
        );
        return None;
    }
    let key = channel::data_channel_key(tls).ok()?;
    let ours = grant.marmot_datagram.is_some();
    let mtu = config
        .tunnel
        .mtu
        .map_or(grant.mtu, |most| most.min(grant.mtu))
        .min(plan::MAX_MTU);
    let terms = Terms {
        psk: Psk::new(key.as_slice())?,
        app_id: dtls.app_id.clone(),
        suites: config.dtls.suites.iter().copied().map(suite).collect(),
        ours,
        ecn: config.dtls.ecn && grant.marmot_datagram.is_some_and(|datagram| datagram.ecn),
        parks: ours && grant.park.is_some(),
        dpd: dtls.dpd,
        keepalive: dtls.keepalive,
        mtu,
        floor: if grant.v6.is_some() { LEAST_MTU_V6 } else { LEAST_MTU_V4 }.min(mtu),
        path_mtu_discovery: config.dtls.path_mtu_discovery,
        renewals: renewals(grant, dtls, config.dtls.rekey.filter(|_| ours)),
    };
    Some(Granted {
        terms,
        gateway: SocketAddr::new(peer, dtls.port),
        mark: caller.mark(),
    })
}

/// When keys are renewed: between our own ends by the configuration, else as the gateway advises. A stock gateway never
/// insists (measured), and no renegotiation is spoken here: `ssl` is another handshake over UDP, and a new CONNECT for the
/// control channel.
fn renewals(grant: &Grant, dtls: &DtlsGrant, own: Option<Duration>) -> Vec<Renewal> {
    let mut renewals = Vec::new();
    let advised = grant.rekey.map(|rekey| rekey.time);
    if let Some(after) = own.into_iter().chain(advised).min() {
        let by = RenewalBy::Connect;
        renewals.push(Renewal { after, by });
    }
    if let Some(rekey) = dtls.rekey {
        let by = match rekey.method {
            RekeyMethod::Ssl => RenewalBy::Handshake,
            RekeyMethod::NewTunnel => RenewalBy::Connect,
        };
        renewals.push(Renewal { after: rekey.time, by });
    }
    renewals
}

fn suite(suite: DtlsSuite) -> Suite {
    match suite {
        DtlsSuite::Aes128Gcm => Suite::Aes128GcmSha256,
        DtlsSuite::ChaCha20Poly1305 => Suite::Chacha20Poly1305Sha256,
        DtlsSuite::Aes256Gcm => Suite::Aes256GcmSha384,
    }
}
