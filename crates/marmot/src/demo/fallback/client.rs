//! The client of the fallback: the real one, with a host in memory that pings and downloads when the storyteller says so.
//!
//! Commands come as lines on standard input, answers go as lines of JSON to standard output; each carries the number of the
//! command, so that an answer that came too late is not taken for another.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::client::{Hooks, MemoryDevice, Place, SignalSource};
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use serde_json::{Value, json};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::{icmp, tcp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::super::download::Download;
use super::super::event::Event;
use super::super::process::Process;
use super::super::stream::Hash;
use super::super::{http, setup, world};
use super::host::Host;
use super::lan::socket;
use super::{QUEUE, listen, play_on_runtime, told, told_to_stop};
use crate::{load, logging};

/// How much longer than the command's own limit the storyteller waits for the answer.
const GRACE: Duration = Duration::from_secs(2);

/// Progress is told every so many bytes.
const TELL_EVERY: u64 = 1 << 20;

/// Numbers the commands of the storyteller.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// Asks the client's host to ping `to`.
pub(crate) fn ping(client: &mut Process, to: IpAddr, limit: Duration) -> Result<Duration> {
    let number = ask(client, &json!({ "ping": to.to_string(), "limit_ms": millis(limit) }))?;
    let answer = client.wait_for("the answer to a ping", None, limit + GRACE, |event| {
        answer_to(number, event)
    })?;
    let micros = answer?
        .get("pong_us")
        .and_then(Value::as_u64)
        .context("an answer without a time")?;
    Ok(Duration::from_micros(micros))
}

/// Asks the client's host to download `path` from the LAN host.
pub(crate) fn get(
    client: &mut Process,
    path: &str,
    limit: Duration,
    progress: &mut dyn FnMut(u64),
) -> Result<Download> {
    let number = ask(client, &json!({ "get": path, "limit_ms": millis(limit) }))?;
    let answer = client.wait_for("the end of the download", None, limit + GRACE, |event| {
        if event.number("to") == Some(number)
            && let Some(arrived) = event.number("arrived")
        {
            progress(arrived);
            return None;
        }
        answer_to(number, event)
    })??;
    let field = |name: &str| {
        answer
            .get(name)
            .and_then(Value::as_u64)
            .context("an answer that lacks a number")
    };
    Ok(Download {
        bytes: field("bytes")?,
        took: Duration::from_micros(field("took_us")?),
        sha256: answer
            .get("sha256")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
    })
}

fn ask(client: &mut Process, command: &Value) -> Result<u64> {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut command = command.clone();
    command["number"] = number.into();
    client.say(&command.to_string())?;
    Ok(number)
}

fn answer_to(number: u64, event: &Event) -> Option<Result<Value>> {
    if event.number("to") != Some(number) {
        return None;
    }
    Some(match event.text("failed") {
        Some(reason) => Err(anyhow!("{reason}")),
        None => event.value("answer").cloned().context("an answer without content"),
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Runs the client and its host until SIGTERM or the end of standard input.
pub(crate) fn play(path: &Path) -> Result<()> {
    let config = load::client(path).map_err(told)?;
    logging::start(config.log).map_err(told)?;
    play_on_runtime(async {
        let (device, host) = MemoryDevice::pair(QUEUE);
        let (orders, signals) = channel(1);
        let hooks = Hooks {
            place: Place::Memory(device),
            signals: SignalSource::Channel(signals),
            ..Hooks::default()
        };
        let commands = listen()?;
        let host = async {
            // Stays where it is: without a host the device would be gone before the goodbye is said.
            let mut host = pin!(obey(commands, (host.from_tunnel, host.to_tunnel)));
            tokio::select! {
                () = told_to_stop() => {}
                ended = &mut host => ended?,
            }
            // The client takes it for SIGTERM, and decides when this ends.
            drop(orders);
            std::future::pending::<Result<()>>().await
        };
        tokio::select! {
            ran = ::client::run_with(config, path.to_owned(), hooks) => Ok(ran?),
            failed = host => failed,
        }
    })
}

async fn obey(mut commands: Receiver<Value>, cable: (Receiver<Bytes>, Sender<Bytes>)) -> Result<()> {
    let mut host = Host::new(&[setup::TUNNEL_V4.into(), setup::TUNNEL_V6.into()], cable, setup::MTU)?;
    loop {
        let command = tokio::select! {
            command = commands.recv() => match command {
                Some(command) => command,
                // The storyteller is gone; so is the reason to be here.
                None => return Ok(()),
            },
            turned = host.turn() => {
                turned?;
                continue;
            }
        };
        let number = command.get("number").and_then(Value::as_u64).unwrap_or_default();
        let answer = match carry_out(&mut host, number, &command).await {
            Ok(answer) => json!({ "to": number, "answer": answer }),
            Err(error) => json!({ "to": number, "failed": format!("{error:#}") }),
        };
        tell(&answer)?;
    }
}

fn tell(line: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("the storyteller does not listen")
}

async fn carry_out(host: &mut Host, number: u64, command: &Value) -> Result<Value> {
    let text = |name: &str| command.get(name).and_then(Value::as_str);
    let limit = Duration::from_millis(command.get("limit_ms").and_then(Value::as_u64).unwrap_or_default());
    if let Some(to) = text("ping") {
        let took = echo(host, to.parse().context("no address")?, number, limit).await?;
        return Ok(json!({ "pong_us": u64::try_from(took.as_micros()).unwrap_or(u64::MAX) }));
    }
    let path = text("get").context("not a command")?;
    let connection = host.sockets.add(socket());
    let download = fetch(host, connection, number, path, limit).await;
    host.sockets.remove(connection);
    let download = download?;
    Ok(json!({
        "bytes": download.bytes,
        "took_us": u64::try_from(download.took.as_micros()).unwrap_or(u64::MAX),
        "sha256": download.sha256,
    }))
}

/// One echo request and its answer.
async fn echo(host: &mut Host, to: IpAddr, number: u64, limit: Duration) -> Result<Duration> {
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

/// Downloads over a fresh connection.
async fn fetch(
    host: &mut Host,
    connection: SocketHandle,
    number: u64,
    path: &str,
    limit: Duration,
) -> Result<Download> {
    let port = 40_000 + u16::try_from(number % 20_000).unwrap_or_default();
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
    let mut body = Body::default();
    let download = host
        .until("the whole download", limit, |_, sockets| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(connection);
            body.ask(socket, &request)?;
            while socket.can_recv() {
                socket
                    .recv(|bytes| (bytes.len(), body.take(bytes)))
                    .map_err(|error| anyhow!("cannot read: {error:?}"))??;
            }
            if body.is_whole() {
                return Ok(Some(asked.elapsed()));
            }
            if !socket.may_recv() {
                bail!("the server closed the connection in the middle");
            }
            body.progress(number)?;
            Ok(None)
        })
        .await?;
    host.sockets.get_mut::<tcp::Socket<'_>>(connection).abort();
    Ok(Download {
        bytes: body.arrived,
        took: download,
        sha256: body.hash.unwrap_or_else(Hash::new).finish(),
    })
}

/// A reply as it arrives.
#[derive(Default)]
struct Body {
    asked: bool,
    head: Vec<u8>,
    length: Option<u64>,
    arrived: u64,
    told: u64,
    hash: Option<Hash>,
}

impl Body {
    fn ask(&mut self, socket: &mut tcp::Socket<'static>, request: &str) -> Result<()> {
        if !self.asked {
            self.asked = true;
            // A fresh buffer takes a request in one go.
            socket
                .send_slice(request.as_bytes())
                .map_err(|error| anyhow!("cannot send a request: {error:?}"))?;
        }
        Ok(())
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
        self.hash.get_or_insert_with(Hash::new).update(bytes);
        self.arrived += bytes.len() as u64;
    }

    fn is_whole(&self) -> bool {
        self.length.is_some_and(|length| self.arrived >= length)
    }

    fn progress(&mut self, number: u64) -> Result<()> {
        if self.arrived >= self.told + TELL_EVERY {
            self.told = self.arrived;
            tell(&json!({ "to": number, "arrived": self.arrived }))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::stream::expected_hash;
    use super::super::lan;
    use super::*;

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
            for (number, bytes) in [(1, 0), (2, 5), (3, 3_000_000)] {
                let connection = host.sockets.add(socket());
                let path = http::data_path(7, bytes);
                let download = fetch(host, connection, number, &path, Duration::from_secs(20))
                    .await
                    .expect("download");
                host.sockets.remove(connection);
                assert_eq!((download.bytes, download.sha256), (bytes, expected_hash(7, bytes)));
            }
        });
    }
}
