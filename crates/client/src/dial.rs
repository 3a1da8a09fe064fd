//! From a name to a TCP connection: happy eyeballs (RFC 8305).
//!
//! ```text
//!   resolve --> interleave families --> connect to the first
//!                                        | 250 ms, or it failed at once
//!                                       connect to the next, the first goes on ...    the first that stands wins
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use platform::tcp::{self, ClientTcp};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::ClientError;
use crate::route::{has_network, is_local};

/// Head start of an address over the next one (RFC 8305 section 5, Connection Attempt Delay).
const STAGGER: Duration = Duration::from_millis(250);

/// Addresses that are tried at most; a name with more is a mistake or an attack.
const MAX_ADDRESSES: usize = 16;

/// A gateway that could not be reached, address by address.
#[derive(Debug)]
pub struct DialError {
    failures: Vec<(SocketAddr, String)>,
    /// Nothing left this host.
    offline: bool,
}

impl DialError {
    /// Whether nothing left this host: it has no way to any of the addresses.
    pub(crate) fn is_offline(&self) -> bool {
        self.offline
    }

    /// Whether there was no address to try.
    pub(crate) fn is_empty(&self) -> bool {
        self.failures.is_empty()
    }

    /// Something did leave it before.
    pub(crate) fn after_others(self) -> Self {
        Self { offline: false, ..self }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot reach the gateway: ")?;
        for (index, (address, failure)) in self.failures.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{address}: {failure}")?;
        }
        Ok(())
    }
}

impl std::error::Error for DialError {}

/// Looks a name up. `given` addresses replace the look-up.
pub(crate) async fn resolve(
    host: &config::Host,
    port: u16,
    given: &[IpAddr],
    (mark, deadline): (Option<u32>, Instant),
) -> Result<Vec<SocketAddr>, ClientError> {
    let with_port = |address: &IpAddr| SocketAddr::new(*address, port);
    let name = match host {
        _ if !given.is_empty() => return Ok(given.iter().map(with_port).collect()),
        config::Host::Address(address) => return Ok(vec![with_port(address)]),
        config::Host::Name(name) => name,
    };
    let failed = |problem: String| ClientError::Resolve {
        host: name.clone(),
        problem,
        offline: !has_network(mark),
    };
    match timeout_at(deadline, tokio::net::lookup_host((name.as_str(), port))).await {
        Err(_) => Err(failed("no name server answered in time".to_owned())),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Ok(Ok(found)) => {
            let mut addresses: Vec<SocketAddr> = Vec::new();
            for address in found {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            if addresses.is_empty() {
                return Err(failed("the name has no address".to_owned()));
            }
            Ok(interleave(addresses))
        }
    }
}

/// Alternates the families, the first one first (RFC 8305 section 4); the system has sorted within a family.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv4() == first_is_v4);
    let mut mixed = Vec::with_capacity(first.len() + second.len());
    while !first.is_empty() || !second.is_empty() {
        mixed.extend(first.pop_front());
        mixed.extend(second.pop_front());
    }
    mixed.truncate(MAX_ADDRESSES);
    mixed
}

/// Connects to the first of `addresses` that answers before `deadline`. Every socket gets `options` before its first
/// segment. Dropping the future drops all attempts.
pub(crate) async fn dial(
    addresses: &[SocketAddr],
    options: &ClientTcp,
    deadline: Instant,
) -> Result<TcpStream, ClientError> {
    let mut waiting: VecDeque<_> = addresses.iter().copied().collect();
    let mut running = JoinSet::new();
    let mut failures: Vec<(SocketAddr, String)> = Vec::new();
    let mut offline = true;
    let mut next_start = Instant::now();
    loop {
        if waiting.is_empty() && running.is_empty() {
            break;
        }
        tokio::select! {
            () = sleep_until(deadline) => break,
            () = sleep_until(next_start), if !waiting.is_empty() => {
                if let Some(address) = waiting.pop_front() {
                    match open(address, options) {
                        Ok(socket) => {
                            running.spawn(async move { (address, socket.connect(address).await) });
                            next_start = Instant::now() + STAGGER;
                        }
                        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(not_permitted()),
                        // A host may have no sockets of one family at all (EAFNOSUPPORT).
                        Err(error) => {
                            failures.push((address, error.to_string()));
                            next_start = Instant::now();
                        }
                    }
                }
            }
            Some(done) = running.join_next(), if !running.is_empty() => {
                match done {
                    Ok((_, Ok(stream))) => return Ok(stream),
                    Ok((address, Err(error))) => {
                        offline &= is_local(&error);
                        failures.push((address, error.to_string()));
                        next_start = Instant::now();
                    }
                    Err(_) => {}
                }
            }
        }
    }
    for address in addresses {
        if !failures.iter().any(|(failed, _)| failed == address) {
            let reason = if waiting.contains(address) {
                "not tried, no time left"
            } else {
                "no answer in time"
            };
            failures.push((*address, reason.to_owned()));
            offline = false;
        }
    }
    Err(DialError { failures, offline }.into())
}

fn open(address: SocketAddr, options: &ClientTcp) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    tcp::configure_client(&socket, options)?;
    Ok(socket)
}

fn not_permitted() -> ClientError {
    ClientError::Platform(platform::PlatformError::NotPermitted {
        what: "mark the tunnel's own packets".to_owned(),
        hint: "CAP_NET_ADMIN is needed; run as root, or give the service the capability".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        (listener, address)
    }

    /// A port nobody listens on.
    async fn refusing() -> SocketAddr {
        listener().await.1
    }

    /// A listener whose queue is full, so that the kernel drops every further SYN.
    async fn black_hole() -> (TcpListener, SocketAddr, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().expect("socket");
        socket.bind(address("127.0.0.1:0")).expect("bind");
        let listener = socket.listen(1).expect("listen");
        let address = listener.local_addr().expect("address");
        let mut stuffing = Vec::new();
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            stuffing.push(stream.expect("loopback"));
        }
        (listener, address, stuffing)
    }

    #[test]
    fn families_alternate_and_the_first_one_stays_first() {
        let mixed = interleave(
            ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]
                .map(address)
                .to_vec(),
        );
        assert_eq!(
            mixed,
            ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"].map(address)
        );
    }

    #[tokio::test]
    async fn given_addresses_replace_the_look_up() {
        let host = config::Host::Name("does-not-exist.invalid".into());
        let given = ["192.0.2.1".parse().expect("address")];
        let found = resolve(&host, 443, &given, (None, soon())).await.expect("given");
        assert_eq!(found, [address("192.0.2.1:443")]);
    }

    #[tokio::test]
    async fn a_refusing_address_gives_way_to_the_next_at_once() {
        let (_listener, good) = listener().await;
        let bad = refusing().await;
        let begin = Instant::now();
        let stream = dial(
            &[bad, bad, bad, bad, bad, bad, bad, bad, good],
            &ClientTcp::default(),
            soon(),
        )
        .await;
        assert_eq!(stream.expect("connected").peer_addr().expect("peer"), good);
        assert!(begin.elapsed() < STAGGER * 4, "refusals are not waited for");
    }

    #[tokio::test]
    async fn a_black_hole_gives_way_after_the_head_start() {
        let (_full, hole, _stuffing) = black_hole().await;
        let (_listener, good) = listener().await;
        let begin = Instant::now();
        let stream = dial(&[hole, good], &ClientTcp::default(), soon())
            .await
            .expect("connected");
        assert_eq!(stream.peer_addr().expect("peer"), good);
        assert!(begin.elapsed() >= STAGGER);
    }

    #[tokio::test]
    async fn every_address_is_listed_with_its_failure() {
        let (_full, hole, _stuffing) = black_hole().await;
        let bad = refusing().await;
        let deadline = Instant::now() + Duration::from_millis(400);
        let error = dial(&[bad, hole], &ClientTcp::default(), deadline)
            .await
            .expect_err("nobody there")
            .to_string();
        assert!(error.contains(&format!("{bad}: Connection refused")), "{error}");
        assert!(error.contains(&format!("{hole}: no answer in time")), "{error}");
    }

    #[tokio::test]
    async fn an_address_without_a_socket_fails_alone() {
        let mut options = ClientTcp::default();
        // Beyond what Linux takes (32,767 s): no socket can be had for any address.
        options.keepalive.idle = Duration::from_secs(100_000);
        let addresses = ["192.0.2.1:443", "[2001:db8::1]:443"].map(address);
        let error = dial(&addresses, &options, soon()).await.expect_err("no sockets");
        let ClientError::Dial(error) = error else {
            panic!("{error}")
        };
        assert!(error.is_offline(), "nothing left this host");
        let failed: Vec<_> = error.failures.iter().map(|(address, _)| *address).collect();
        assert_eq!(failed, addresses);
    }

    #[tokio::test]
    async fn an_attempt_is_offline_only_if_no_address_was_tried_on_the_network() {
        // It means nothing without an interface.
        let nowhere = address("[fe80::1]:443");
        let bad = refusing().await;
        for (addresses, offline) in [(vec![nowhere], true), (vec![nowhere, bad], false), (vec![bad], false)] {
            let error = dial(&addresses, &ClientTcp::default(), soon())
                .await
                .expect_err("nobody");
            let ClientError::Dial(error) = error else {
                panic!("{error}")
            };
            assert_eq!(error.is_offline(), offline, "{error}");
        }
        let (_full, hole, _stuffing) = black_hole().await;
        let deadline = Instant::now() + Duration::from_millis(400);
        let error = dial(&[nowhere, hole], &ClientTcp::default(), deadline)
            .await
            .expect_err("nobody");
        assert!(!matches!(error, ClientError::Dial(error) if error.is_offline()));
    }

    #[tokio::test]
    async fn options_are_set_on_the_socket() {
        let (_listener, good) = listener().await;
        let stream = dial(&[good], &ClientTcp::default(), soon()).await.expect("connected");
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.keepalive().expect("keepalive") && socket.tcp_nodelay().expect("nodelay"));
    }
}
