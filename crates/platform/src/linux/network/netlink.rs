//! A conversation with the kernel in rtnetlink: commands that are acknowledged, questions, and lists.
//!
//! The request builders of the crate rtnetlink take a closed connection for success, so we count acknowledgements and ends
//! of lists ourselves.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, Socket, SocketAddr};

use super::message;

/// The kernel answers in microseconds; after twice this time the answer is lost (a full receive buffer).
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Commands in flight at once: their acknowledgements (about 1 kB of socket memory each) stay far below the default receive
/// buffer of 212 kB.
const BATCH: usize = 32;

/// Belongs to the network namespace of the thread that opened it.
#[derive(Clone, Debug)]
pub(crate) struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Opens a conversation and spawns the task that carries it, which ends when the last clone is dropped.
    pub(crate) fn open() -> io::Result<Self> {
        let (mut connection, handle, _unsolicited) = rtnetlink::new_connection()?;
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        // Lets the kernel (4.20 and newer) pick the routes of one table out of a million; we look again in any case.
        let _ = connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true);
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Has the kernel do something, and waits until it says it did.
    pub(crate) async fn command(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut answers = self.request(message, NLM_F_ACK | flags)?;
        loop {
            match next(&mut answers).await? {
                NetlinkPayload::Error(answer) if answer.code.is_none() => return Ok(()),
                NetlinkPayload::Error(answer) => return Err(answer.to_io()),
                _ => {}
            }
        }
    }

    /// [`Netlink::command`] for what the kernel takes its time over: it works while we send, so that happens on a thread of
    /// its own, over a socket of its own, in the network namespace of this thread.
    pub(crate) async fn slow_command(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        let socket = Socket::new(NETLINK_ROUTE)?;
        let worked = tokio::task::spawn_blocking(move || -> io::Result<Vec<u8>> {
            socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
            Ok(socket.recv_from_full()?.0)
        });
        let bytes = within(worked).await?.map_err(io::Error::other)??;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes)
            .map_err(|error| io::Error::other(error.to_string()))?;
        match answer.payload {
            NetlinkPayload::Error(answer) if answer.code.is_none() => Ok(()),
            NetlinkPayload::Error(answer) => Err(answer.to_io()),
            _ => Err(io::Error::other("the kernel gave no answer")),
        }
    }

    /// [`Netlink::command`] for many, a bounded number at a time. Stops at the first group with a failure and tells which
    /// one failed first.
    pub(crate) async fn commands(
        &self,
        messages: Vec<RouteNetlinkMessage>,
        flags: u16,
    ) -> Result<(), (usize, io::Error)> {
        let mut messages = messages.into_iter();
        let mut done = 0;
        loop {
            let group: Vec<_> = messages
                .by_ref()
                .take(BATCH)
                .map(|message| self.command(message, flags))
                .collect();
            if group.is_empty() {
                return Ok(());
            }
            for result in futures_util::future::join_all(group).await {
                result.map_err(|error| (done, error))?;
                done += 1;
            }
        }
    }

    /// Asks for one thing.
    pub(crate) async fn question(&self, message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        let mut answers = self.request(message, 0)?;
        match next(&mut answers).await? {
            NetlinkPayload::InnerMessage(answer) => Ok(answer),
            NetlinkPayload::Error(answer) if answer.code.is_some() => Err(answer.to_io()),
            _ => Err(io::Error::other("the kernel gave no answer")),
        }
    }

    /// Asks for a list and keeps of it what `keep` makes something of. Empty where the kernel knows no such list (no IPv6,
    /// no such table).
    pub(crate) async fn list<T>(
        &self,
        message: RouteNetlinkMessage,
        mut keep: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut answers = self.request(message, NLM_F_DUMP)?;
        let mut kept = Vec::new();
        let error = loop {
            match next(&mut answers).await? {
                NetlinkPayload::InnerMessage(item) => kept.extend(keep(item)),
                NetlinkPayload::Done(end) if end.code == 0 => return Ok(kept),
                NetlinkPayload::Done(end) => break io::Error::from_raw_os_error(end.code.abs()),
                NetlinkPayload::Error(answer) => break answer.to_io(),
                _ => {}
            }
        };
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => Ok(Vec::new()),
            _ => Err(error),
        }
    }

    /// Waits at most `limit` until programs can use an address of this host. IPv6 addresses become usable a moment after
    /// the kernel acknowledged them, in a work queue (addrconf_dad_work in net/ipv6/addrconf.c).
    pub(crate) async fn wait_for_address(&self, address: IpAddr, limit: Duration) -> bool {
        let start = tokio::time::Instant::now();
        let mut pause = Duration::from_micros(500);
        loop {
            let route = message::route_lookup(address);
            if let Ok(RouteNetlinkMessage::NewRoute(route)) = self.question(RouteNetlinkMessage::GetRoute(route)).await
                && route.header.kind == RouteType::Local
            {
                return true;
            }
            if start.elapsed() >= limit {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + use<>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        self.handle.clone().request(request).map_err(|_| closed())
    }
}

async fn next(
    answers: &mut (impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin),
) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
    let answer = within(answers.next()).await?;
    answer.map(|message| message.payload).ok_or_else(closed)
}

/// Waits twice: a process that was stopped meanwhile finds the first time limit over before it gets to read the answer.
async fn within<T>(answer: impl Future<Output = T>) -> io::Result<T> {
    let mut answer = std::pin::pin!(answer);
    for _ in 0..2 {
        if let Ok(value) = tokio::time::timeout(ANSWER_WITHIN, &mut answer).await {
            return Ok(value);
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel's answer was lost"))
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the netlink socket was closed")
}
