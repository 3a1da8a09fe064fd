//! The daemon's end of the socket: who gets in, how many, and for how long.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::access::{Peer, Privilege};
use crate::daemon::Daemon;
use crate::denied::Denied;
use crate::limits::{
    GRACE, HEAD_TIMEOUT, LINGER, MAX_CONNECTIONS, MAX_HEAD, MAX_READERS, MAX_TURNED_AWAY, RESERVED, WRITE_TIMEOUT,
};
use crate::patient::Patient;
use crate::routes::{Caller, Desk, router};

/// How long to wait when the system has no descriptor for a new connection.
const BREATHER: Duration = Duration::from_millis(100);

/// Answers everybody who connects to `listener`, until `until` is done; then answers that are on their way get 50 ms.
/// Needs tokio's I/O and time drivers; all of it may run on a thread of its own, so that a flood costs packets nothing.
/// Dropped, it ends at once.
///
/// `allow` is asked with [`Privilege::Use`] for each connection; see [`crate::owner`] for the usual rule.
pub async fn serve<D, A, U>(listener: UnixListener, daemon: D, allow: A, until: U)
where
    D: Daemon,
    A: Fn(Peer, Privilege) -> bool + Clone + Send + Sync + 'static,
    U: Future<Output = ()>,
{
    let routes = |ending: &watch::Sender<()>| {
        router(Desk {
            daemon,
            readers: Arc::new(Semaphore::new(MAX_READERS)),
            ending: ending.subscribe(),
        })
    };
    serve_routes(listener, routes, allow, until).await;
}

/// The same for any paths; they are made with what tells them that the daemon ends.
pub(crate) async fn serve_routes<A, U>(
    listener: UnixListener,
    routes: impl FnOnce(&watch::Sender<()>) -> Router,
    allow: A,
    until: U,
) where
    A: Fn(Peer, Privilege) -> bool + Clone + Send + Sync + 'static,
    U: Future<Output = ()>,
{
    let ending = watch::Sender::new(());
    let door = Door::new(routes(&ending), allow, &ending);
    let mut connections = JoinSet::new();
    tokio::pin!(until);
    loop {
        tokio::select! {
            biased;
            () = &mut until => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => door.welcome(stream, &mut connections),
                Err(error) => {
                    warn!(%error, "cannot accept a connection to the local socket");
                    sleep(BREATHER).await;
                }
            }
        }
    }
    drop(ending);
    // Whoever is not done by then has been told by the end of his connection.
    let _ = timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
}

/// Lets connections in, or not.
struct Door<A> {
    router: TowerToHyperService<Router>,
    allow: A,
    common: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    ending: watch::Receiver<()>,
}

impl<A: Fn(Peer, Privilege) -> bool> Door<A> {
    fn new(router: Router, allow: A, ending: &watch::Sender<()>) -> Self {
        Self {
            router: TowerToHyperService::new(router),
            allow,
            common: Arc::new(Semaphore::new(MAX_CONNECTIONS - RESERVED)),
            reserved: Arc::new(Semaphore::new(RESERVED)),
            turned_away: Arc::new(Semaphore::new(MAX_TURNED_AWAY)),
            ending: ending.subscribe(),
        }
    }

    fn welcome(&self, stream: UnixStream, connections: &mut JoinSet<()>) {
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                warn!(%error, "cannot tell who connected to the local socket");
                return;
            }
        };
        if !(self.allow)(peer, Privilege::Use) {
            let message = format!("user {} may not use this socket", peer.uid);
            self.turn_away(stream, &Denied::not_permitted(message), connections);
            return;
        }
        let administers = (self.allow)(peer, Privilege::Administer);
        let Some(place) = self.place(administers) else {
            self.turn_away(stream, &Denied::busy(), connections);
            return;
        };
        let hang_up = Arc::new(Notify::new());
        let guest = Guest {
            router: self.router.clone(),
            caller: Caller {
                peer,
                administers,
                hang_up,
            },
        };
        connections.spawn(guest.stay(stream, place, self.ending.clone()));
    }

    fn place(&self, administers: bool) -> Option<OwnedSemaphorePermit> {
        let common = Arc::clone(&self.common).try_acquire_owned();
        common
            .or_else(|full| match administers {
                true => Arc::clone(&self.reserved).try_acquire_owned(),
                false => Err(full),
            })
            .ok()
    }

    /// Says why, if not too many wait to hear it.
    fn turn_away(&self, mut stream: UnixStream, denied: &Denied, connections: &mut JoinSet<()>) {
        let Ok(place) = Arc::clone(&self.turned_away).try_acquire_owned() else {
            return;
        };
        let answer = denied.raw();
        connections.spawn(async move {
            // To close with a request unread would cost the peer the answer. What he sends is read and forgotten.
            let told = async {
                stream.write_all(&answer).await?;
                stream.shutdown().await?;
                let mut forgotten = [0; 1024];
                while stream.read(&mut forgotten).await? > 0 {}
                std::io::Result::Ok(())
            };
            let _ = timeout(LINGER, told).await;
            drop(place);
        });
    }
}

/// One connection that was let in.
#[derive(Clone)]
struct Guest {
    router: TowerToHyperService<Router>,
    caller: Caller,
}

impl Guest {
    async fn stay(self, stream: UnixStream, place: OwnedSemaphorePermit, mut ending: watch::Receiver<()>) {
        let hang_up = Arc::clone(&self.caller.hang_up);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(Patient::new(stream, WRITE_TIMEOUT)), self);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = hang_up.notified() => Ok(()),
            _ = ending.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "a connection to the local socket ended");
        }
        drop(place);
    }
}

impl Service<Request<Incoming>> for Guest {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.caller.clone());
        self.router.call(request)
    }
}
