//! One attempt to connect: dial, TLS, login if needed, CONNECT.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use channel::Channel;
use lifecycle::{FailClass, Stage};
use platform::network::ipv6_available;
use rustls::Connection;
use session::client::{Authenticated, ConnectError, Established, Wants};

use crate::ClientError;
use crate::books::Books;
use crate::caller::{Caller, TlsFacts, facts, peer_of, take_apart};
use crate::clock;
use crate::login::log_in;
use crate::setup::Setup;

/// A connection over which frames flow, and its session.
pub(crate) struct Link {
    pub(crate) channel: Channel,
    pub(crate) established: Established,
}

/// What an attempt starts from.
pub(crate) struct Attempt {
    pub(crate) setup: Arc<Setup>,
    /// Mark of the tunnel's slot for its sockets.
    pub(crate) mark: Option<u32>,
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

    /// What is to be done about it.
    pub(crate) fn class(&self) -> FailClass {
        self.error.class()
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
        if self.cookie.is_none() {
            // Gateways ban who logs in again and again for nothing.
            let takes = self.books.takes_records().await;
            takes.map_err(|trouble| no_login(ClientError::Unrecorded(trouble)))?;
        }
        let mut caller = Caller::new(Arc::clone(&self.setup), self.mark, self.known, self.dialled);
        let cookie = match self.cookie {
            Some(cookie) => cookie,
            None => log_in(&mut caller).await.map_err(no_login)?,
        };
        match open_tunnel(&mut caller, &cookie, self.previous).await {
            Ok((link, peer, tls)) => Ok(Box::new(Opened {
                link,
                peer,
                tls,
                known: caller.known().to_vec(),
                cookie,
            })),
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

async fn open_tunnel(
    caller: &mut Caller,
    cookie: &Authenticated,
    previous: Vec<IpAddr>,
) -> Result<(Link, IpAddr, TlsFacts), ClientError> {
    let identity = caller.setup().identity.clone();
    let mut requesting = None;
    let (head, conversation) = caller
        .ask_for_tunnel(|base_mtu| {
            let wants = Wants {
                v4: true,
                v6: ipv6_available(),
                base_mtu,
                previous,
            };
            let (phase, request) = cookie.request(&identity, &wants);
            requesting = Some(phase);
            request
        })
        .await?;
    let requesting = requesting.ok_or(ConnectError::CookieRefused)?;
    let now = clock::now();
    let mut established = requesting.reply(&head, now)?;
    if let Some(dpd) = caller.setup().config.session.dpd {
        established.set_dpd(Some(dpd), now);
    }
    let (socket, tls, received) = take_apart(conversation)?;
    let (peer, facts) = (peer_of(&socket)?, facts(&tls));
    let channel = Channel::new(socket, Connection::Client(tls), received);
    Ok((Link { channel, established }, peer, facts))
}
