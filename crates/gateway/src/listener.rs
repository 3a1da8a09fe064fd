//! Where clients arrive: sockets of our own or of the service manager, and the loop that accepts.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use config::gateway::{Listen, Tcp};
use platform::listen::{inherited, listen};
use platform::tcp::{
    GatewayTcp, Keepalive, RETRANSMISSION_TIMEOUT_MAX, configure_gateway, limit_retransmission_timeout,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};
use tracing::{debug, error, warn};

use crate::GatewayError;
use crate::admission::{Admission, Refused, Source};
use crate::connection;
use crate::shell::Shared;

/// How long nothing is accepted after the system had no descriptor or memory for it. The connection stays in the kernel's
/// queue, so trying again at once would only burn the processor that has to free something.
const BACK_OFF: Duration = Duration::from_millis(250);

/// The longest user timeout: routers forget a silent connection after 2 h 4 min at the latest that they may (RFC 5382
/// section 5), and the session outlives its connection anyway.
const HELD_MAX: Duration = Duration::from_secs(7200);

/// Opens the configured addresses, or takes over what the service manager opened if none is configured.
///
/// # Errors
/// Which address could not be opened, and why.
pub(crate) fn open(config: &Listen) -> Result<Vec<TcpListener>, GatewayError> {
    let sockets = if config.addresses.is_empty() {
        inherited()?.tcp
    } else {
        let dual_stack = |address: &SocketAddr| !has_ipv4_twin(address, &config.addresses);
        let open = |address: &SocketAddr| listen(*address, config.backlog, dual_stack(address));
        config.addresses.iter().map(open).collect::<Result<_, _>>()?
    };
    if sockets.is_empty() {
        return Err(GatewayError::NoListener);
    }
    let register = |socket| {
        TcpListener::from_std(socket).map_err(|source| GatewayError::Io {
            what: "register a listening socket",
            source,
        })
    };
    sockets.into_iter().map(register).collect()
}

/// Whether an IPv4 socket wants the same port, so that an IPv6 wildcard must leave IPv4 alone.
fn has_ipv4_twin(address: &SocketAddr, all: &[SocketAddr]) -> bool {
    address.port() != 0
        && all
            .iter()
            .any(|other| other.is_ipv4() && other.port() == address.port())
}

/// Who is in, and what they may do. A connection gives its place back on whatever thread it ends, so this is behind a lock, which nobody takes for
/// a packet.
#[derive(Clone)]
pub(crate) struct Guests(Arc<Book>);

struct Book {
    admission: Mutex<Admission>,
    /// Tunnels that go on without a connection. The session table limits them.
    lone: AtomicUsize,
    /// Somebody left.
    left: Notify,
}

impl Guests {
    /// Nobody is there yet.
    pub(crate) fn new(admission: Admission) -> Self {
        Self(Arc::new(Book {
            admission: Mutex::new(admission),
            lone: AtomicUsize::new(0),
            left: Notify::new(),
        }))
    }

    /// The room of limits. Not to be held across an await.
    pub(crate) fn room(&self) -> MutexGuard<'_, Admission> {
        // It counts; a panic in between leaves it as good as before.
        self.0.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody is left.
    pub(crate) async fn all_left(&self) {
        loop {
            let left = self.0.left.notified();
            if self.room().open() == 0 && self.0.lone.load(Ordering::Relaxed) == 0 {
                return;
            }
            left.await;
        }
    }

    fn admit(&self, address: IpAddr) -> Result<Guest, Refused> {
        let source = Source::of(address);
        self.room().connected(source)?;
        Ok(Guest {
            guests: self.clone(),
            source,
        })
    }
}

/// A guest, counted until dropped: also when its task ends by a panic.
pub(crate) struct Guest {
    guests: Guests,
    source: Source,
}

/// A tunnel without a connection, which is waited for when the gateway stops and takes no place among the connections.
pub(crate) struct Lone(Guests);

impl Drop for Lone {
    fn drop(&mut self) {
        let book = &self.0.0;
        book.lone.fetch_sub(1, Ordering::Relaxed);
        book.left.notify_waiters();
    }
}

impl Guest {
    /// The connection is gone; its place is free again, and its tunnel goes on.
    pub(crate) fn leave_tunnel(self) -> Lone {
        self.guests.0.lone.fetch_add(1, Ordering::Relaxed);
        Lone(self.guests.clone())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.room().disconnected(self.source);
        self.guests.0.left.notify_waiters();
    }
}

/// Accepts connections until the gateway stops; the listening socket closes with it.
pub(crate) async fn accept_all(listener: TcpListener, shared: Rc<Shared>) {
    let mut stopping = shared.stopping.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        match accepted {
            Ok((socket, peer)) => admit(&shared, socket, peer),
            Err(error) if concerns_one_connection(&error) => {
                debug!(%error, "a connection was gone before it was accepted")
            }
            Err(error) => {
                if let Some(more) = shared.cannot_accept.pass(shared.clock.now()) {
                    error!(%error, more, "cannot accept connections; raise the limit of open files or of memory");
                }
                sleep(BACK_OFF).await;
            }
        }
    }
}

fn admit(shared: &Rc<Shared>, socket: TcpStream, peer: SocketAddr) {
    let guest = match shared.guests.admit(peer.ip()) {
        Ok(guest) => guest,
        Err(refused) => {
            shared.tallies.count(|tally| tally.refused += 1);
            if let (Refused::Connections, Some(more)) = (refused, shared.full.pass(shared.clock.now())) {
                warn!(more, "a connection was refused: `limits.connections` is reached");
            }
            return debug!(%peer, limit = refused.word(), "not let in");
        }
    };
    let settings = shared.settings();
    if let Err(error) = configure_gateway(&socket, &options(&settings.config.tcp, settings.config.park.ttl)) {
        return debug!(%peer, %error, "a connection was gone before it was configured");
    }
    // Kernels before 6.15 cannot; what was in flight then arrives later.
    let _ = limit_retransmission_timeout(&socket, RETRANSMISSION_TIMEOUT_MAX);
    spawn_local(connection::serve(
        Rc::clone(shared),
        guest,
        socket,
        peer,
        Instant::now(),
    ));
}

/// A connection is held for as long as its client may be silent, but no longer than [`HELD_MAX`].
fn options(tcp: &Tcp, park_ttl: Option<Duration>) -> GatewayTcp {
    let config::Keepalive { idle, interval, count } = tcp.keepalive;
    GatewayTcp {
        keepalive: Keepalive { idle, interval, count },
        user_timeout: tcp.user_timeout.min(park_ttl.unwrap_or(HELD_MAX)).min(HELD_MAX),
    }
}

/// Errors of accept(2) that belong to the connection that was about to be accepted. Linux reports pending network errors
/// of the new socket this way.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkDown,
        NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("address")).collect()
    }

    #[test]
    fn an_ipv6_wildcard_leaves_ipv4_to_a_socket_of_its_own() {
        let both = addresses(&["[::]:443", "0.0.0.0:443"]);
        assert!(has_ipv4_twin(&both[0], &both));
        let apart = addresses(&["[::]:443", "0.0.0.0:8443"]);
        assert!(!has_ipv4_twin(&apart[0], &apart));
    }

    #[test]
    fn a_port_in_use_is_named() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("runtime");
        runtime.block_on(async {
            let first = open(&Listen {
                addresses: addresses(&["127.0.0.1:0"]),
                backlog: 8,
            })
            .expect("open");
            let taken = first[0].local_addr().expect("address");
            let error = open(&Listen {
                addresses: vec![taken],
                backlog: 8,
            })
            .expect_err("in use");
            assert!(error.to_string().contains(&taken.to_string()), "{error}");
            assert_eq!(error.exit_code(), 1);
        });
    }

    #[test]
    fn running_out_of_descriptors_concerns_everybody() {
        let too_many_files = io::Error::from_raw_os_error(24);
        assert!(!concerns_one_connection(&too_many_files));
        assert!(concerns_one_connection(&io::ErrorKind::ConnectionAborted.into()));
    }
}
