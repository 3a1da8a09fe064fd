//! What the client's host of the fallback does when told: echo requests and downloads, over its own IP stack.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::{icmp, tcp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr};

use super::super::download::Download;
use super::super::stream::Hash;
use super::super::{http, setup, world};
use super::host::Host;
use super::lan::socket;

/// Progress is told every so many bytes.
const TELL_EVERY: u64 = 1 << 20;

/// One echo request and its answer.
pub(super) async fn echo(host: &mut Host, to: IpAddr, number: u64, limit: Duration) -> Result<Duration> {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 1024]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    // Each request has its own, so that a late answer to another never gets here.
    let identifier = u16::try_from(number & 0xffff).unwrap_or_default();
    socket
        .bind(icmp::Endpoint::Ident(identifier))
        .map_err(|error| anyhow!("cannot ping: {error:?}"))?;
    let message = request(to, identifier);
    socket
        .send_slice(&message, to.into())
        .map_err(|error| anyhow!("cannot ping: {error:?}"))?;
    let handle = host.sockets.add(socket);
    let sent = Instant::now();
    let answered = host
        .until(&format!("the answer of {to}"), limit, |_, sockets| {
            let socket = sockets.get_mut::<icmp::Socket<'_>>(handle);
            Ok(socket.can_recv().then(|| sent.elapsed()))
        })
        .await;
    host.sockets.remove(handle);
    answered
}

fn request(to: IpAddr, identifier: u16) -> Vec<u8> {
    const DATA: &[u8] = &[0x6d; 56];
    let (ident, seq_no, data) = (identifier, 1, DATA);
    match to {
        IpAddr::V4(_) => {
            let request = Icmpv4Repr::EchoRequest { ident, seq_no, data };
            let mut message = vec![0; request.buffer_len()];
            request.emit(&mut Icmpv4Packet::new_unchecked(&mut message), &Default::default());
            message
        }
        IpAddr::V6(to) => {
            let request = Icmpv6Repr::EchoRequest { ident, seq_no, data };
            let mut message = vec![0; request.buffer_len()];
            let packet = &mut Icmpv6Packet::new_unchecked(&mut message);
            request.emit(&setup::TUNNEL_V6, &to, packet, &Default::default());
            message
        }
    }
}

/// Downloads from the LAN host over a fresh connection from `port`; `progress` hears how many bytes of data have arrived.
pub(super) async fn fetch(
    host: &mut Host,
    port: u16,
    path: &str,
    limit: Duration,
    progress: impl FnMut(u64) -> Result<()>,
) -> Result<Download> {
    let connection = host.sockets.add(socket());
    let download = fetch_over(host, connection, port, path, limit, progress).await;
    host.sockets.remove(connection);
    download
}

async fn fetch_over(
    host: &mut Host,
    connection: SocketHandle,
    port: u16,
    path: &str,
    limit: Duration,
    mut progress: impl FnMut(u64) -> Result<()>,
) -> Result<Download> {
    host.until("a connection to the LAN host", limit, |interface, sockets| {
        let socket = sockets.get_mut::<tcp::Socket<'_>>(connection);
        if socket.state() == tcp::State::Closed {
            socket
                .connect(interface.context(), (IpAddr::from(world::HOST), http::PORT), port)
                .map_err(|error| anyhow!("cannot connect: {error:?}"))?;
        }
        Ok(socket.may_send().then_some(()))
    })
    .await?;

    let asked = Instant::now();
    let request = http::request(&world::HOST.to_string(), path);
    let socket = host.sockets.get_mut::<tcp::Socket<'_>>(connection);
    // A fresh buffer takes a request in one go.
    socket
        .send_slice(request.as_bytes())
        .map_err(|error| anyhow!("cannot send a request: {error:?}"))?;
    let mut body = Body::new();
    let mut told = 0;
    let took = host
        .until("the whole download", limit, |_, sockets| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(connection);
            while socket.can_recv() {
                socket
                    .recv(|bytes| (bytes.len(), body.take(bytes)))
                    .map_err(|error| anyhow!("cannot read: {error:?}"))??;
            }
            let whole = body.is_whole();
            if whole || body.arrived >= told + TELL_EVERY {
                told = body.arrived;
                progress(told)?;
            }
            if !whole && !socket.may_recv() {
                bail!("the server closed the connection in the middle");
            }
            Ok(whole.then(|| asked.elapsed()))
        })
        .await?;
    host.sockets.get_mut::<tcp::Socket<'_>>(connection).abort();
    Ok(Download {
        bytes: body.arrived,
        took,
        sha256: body.hash.finish(),
    })
}

/// A reply as it arrives.
struct Body {
    head: Vec<u8>,
    length: Option<u64>,
    arrived: u64,
    hash: Hash,
}

impl Body {
    fn new() -> Self {
        Self {
            head: Vec::new(),
            length: None,
            arrived: 0,
            hash: Hash::new(),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        if self.length.is_some() {
            self.data(bytes);
            return Ok(());
        }
        self.head.extend_from_slice(bytes);
        if let Some((head, length)) = http::read_reply(&self.head)? {
            self.length = Some(length);
            let rest = self.head.split_off(head);
            self.data(&rest);
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.arrived += bytes.len() as u64;
    }

    fn is_whole(&self) -> bool {
        self.length.is_some_and(|length| self.arrived >= length)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::stream::expected_hash;
    use super::super::{QUEUE, lan};
    use super::*;
    use tokio::sync::mpsc::channel;

    /// A client's host and the LAN host with a cable between them instead of a tunnel.
    fn with_hosts<T>(story: impl AsyncFnOnce(&mut Host) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(async {
            let (to_lan, from_client) = channel(QUEUE);
            let (to_client, from_lan) = channel(QUEUE);
            let addresses = [setup::TUNNEL_V4.into(), setup::TUNNEL_V6.into()];
            let mut host = Host::new(&addresses, (from_lan, to_lan), setup::MTU).expect("host");
            tokio::select! {
                told = story(&mut host) => told,
                lan = lan::serve((from_client, to_client)) => panic!("the LAN ended: {lan:?}"),
            }
        })
    }

    #[test]
    fn the_lan_host_answers_pings_of_both_families() {
        with_hosts(async |host| {
            for to in [IpAddr::from(world::HOST), IpAddr::from(world::HOST_V6)] {
                echo(host, to, 1, Duration::from_secs(5)).await.expect("answer");
            }
            let nobody = echo(
                host,
                "10.20.0.99".parse().expect("address"),
                2,
                Duration::from_millis(20),
            )
            .await;
            nobody.expect_err("nobody there");
        });
    }

    #[test]
    fn downloads_arrive_whole_one_after_the_other() {
        with_hosts(async |host| {
            for (port, bytes) in [(40_001, 0), (40_002, 5), (40_003, 3_000_000)] {
                let path = http::data_path(7, bytes);
                let mut heard = 0;
                let progress = |arrived| {
                    heard = arrived;
                    Ok(())
                };
                let download = fetch(host, port, &path, Duration::from_secs(20), progress)
                    .await
                    .expect("download");
                assert_eq!((download.bytes, download.sha256), (bytes, expected_hash(7, bytes)));
                assert_eq!(heard, bytes);
            }
        });
    }
}
