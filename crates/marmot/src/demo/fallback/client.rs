//! The client of the fallback: the real one, with a host in memory that pings and downloads when the storyteller says so.
//!
//! Commands come as lines on standard input, answers go as lines of JSON to standard output; each carries the number of the
//! command, so that an answer that came too late is not taken for another.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::client::{Hooks, MemoryDevice, Place, SignalSource};
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use platform::signals::Signal;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, WeakSender, channel};

use super::super::download::Download;
use super::super::event::Event;
use super::super::process::Process;
use super::super::setup;
use super::super::stage::Order;
use super::host::Host;
use super::{QUEUE, errand, listen, play_on_runtime, told, told_to_stop};
use crate::{load, logging};

/// How much longer than the command's own limit the storyteller waits for the answer.
const GRACE: Duration = Duration::from_secs(2);

/// Ports that downloads come from, one after the other.
const FIRST_PORT: u16 = 40_000;
const PORTS: u64 = 20_000;

/// Orders, as the client's host hands them on.
const DOWN: &str = "down";
const UP: &str = "up";

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

/// Tells the client what to do with its tunnel.
pub(crate) fn order(client: &mut Process, order: Order) -> Result<()> {
    let word = match order {
        Order::Down => DOWN,
        Order::Up => UP,
    };
    ask(client, &json!({ "order": word })).map(drop)
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
            let cable = (host.from_tunnel, host.to_tunnel);
            let mut host = pin!(obey(commands, cable, orders.downgrade()));
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

async fn obey(
    mut commands: Receiver<Value>,
    cable: (Receiver<Bytes>, Sender<Bytes>),
    orders: WeakSender<Signal>,
) -> Result<()> {
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
        if let Some(order) = command.get("order").and_then(Value::as_str) {
            let signal = if order == DOWN {
                Signal::TunnelDown
            } else {
                Signal::TunnelUp
            };
            if let Some(orders) = orders.upgrade() {
                orders.send(signal).await.context("the client takes no orders")?;
            }
            continue;
        }
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
        let took = errand::echo(host, to.parse().context("no address")?, number, limit).await?;
        return Ok(json!({ "pong_us": u64::try_from(took.as_micros()).unwrap_or(u64::MAX) }));
    }
    let path = text("get").context("not a command")?;
    let port = FIRST_PORT + u16::try_from(number % PORTS).unwrap_or_default();
    let progress = |arrived| tell(&json!({ "to": number, "arrived": arrived }));
    let download = errand::fetch(host, port, path, limit, progress).await?;
    Ok(json!({
        "bytes": download.bytes,
        "took_us": u64::try_from(download.took.as_micros()).unwrap_or(u64::MAX),
        "sha256": download.sha256,
    }))
}
