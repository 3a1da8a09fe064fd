//! The local socket of a running client or gateway, spoken to as curl would: one request a connection, JSON back.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Lab, PATIENCE, Site, eventually};

/// The longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 16 << 20;

/// A client's socket, or a gateway's.
#[derive(Clone, Debug)]
pub struct Control {
    socket: PathBuf,
}

impl Control {
    /// Of the tunnel of this name, as [`client_settings`](crate::client_settings) configures it.
    pub fn of(lab: &Lab, tunnel: &str) -> Self {
        Self {
            socket: lab.folder().join("run").join(format!("{tunnel}.sock")),
        }
    }

    /// Of the gateway of a site, as [`gateway_settings`](crate::gateway_settings) configures it.
    pub fn of_gateway(lab: &Lab, site: &Site) -> Self {
        let folder = lab.folder().join(format!("gateway-run-{}", site.plan.name()));
        Self {
            socket: folder.join("_gateway.sock"),
        }
    }

    /// Where it is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Connects, and waits for somebody to listen.
    ///
    /// # Errors
    /// If nobody does.
    pub fn connect(&self) -> Result<UnixStream> {
        let stream = eventually("somebody at the socket", PATIENCE, || {
            Ok(UnixStream::connect(&self.socket).ok())
        })?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .context("cannot set a deadline")?;
        stream
            .set_write_timeout(Some(PATIENCE))
            .context("cannot set a deadline")?;
        Ok(stream)
    }

    /// One request, whatever comes back: the status code and the body.
    ///
    /// # Errors
    /// If no answer can be read.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, Value)> {
        let mut stream = self.connect()?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: marmot\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // It may refuse in the middle of a long request, and say so.
        let asked = stream.write_all(request.as_bytes());
        answer(stream).or_else(|e| asked.map_or_else(|cause| Err(cause).context("cannot ask the daemon"), |()| Err(e)))
    }

    /// Looks.
    ///
    /// # Errors
    /// If the answer is not 200.
    pub fn get(&self, path: &str) -> Result<Value> {
        good(self.ask("GET", path, "")?)
    }

    /// Orders.
    ///
    /// # Errors
    /// As [`Control::get`].
    pub fn post(&self, path: &str) -> Result<Value> {
        good(self.ask("POST", path, "")?)
    }

    /// Orders the tunnel down. Returns the answer and how long it took, connecting included.
    ///
    /// # Errors
    /// As [`Control::get`].
    pub fn down(&self) -> Result<(Value, Duration)> {
        let began = Instant::now();
        let answer = self.post("/v1/down")?;
        Ok((answer, began.elapsed()))
    }

    /// Orders the tunnel up. Returns the answer and how long it took.
    ///
    /// # Errors
    /// As [`Control::get`].
    pub fn up(&self) -> Result<(Value, Duration)> {
        let began = Instant::now();
        let answer = self.post("/v1/up")?;
        Ok((answer, began.elapsed()))
    }

    /// Listens to events.
    ///
    /// # Errors
    /// If the daemon does not begin to tell.
    pub fn events(&self) -> Result<Events> {
        let mut stream = self.connect()?;
        let request = "GET /v1/events HTTP/1.1\r\nHost: marmot\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).context("cannot ask for events")?;
        let mut events = Events {
            reader: BufReader::new(stream),
        };
        events.wait_for("\"event\":\"status\"")?;
        Ok(events)
    }

    /// Waits until the tunnel is in this state. Returns the whole status.
    ///
    /// # Errors
    /// If it does not come.
    pub fn wait_state(&self, state: &str) -> Result<Value> {
        eventually(&format!("the state {state}"), PATIENCE, || {
            let status = self.get("/v1/status")?;
            Ok((status["state"] == state).then_some(status))
        })
    }
}

/// Events as they come, one a line.
#[derive(Debug)]
pub struct Events {
    reader: BufReader<UnixStream>,
}

impl Events {
    /// Waits for a line with this text, and returns it.
    ///
    /// # Errors
    /// If the daemon is silent for too long, or ends.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        loop {
            let mut line = String::new();
            let length = self.reader.read_line(&mut line).context("no event")?;
            ensure!(length > 0, "the daemon ended without an event with {text}");
            if line.contains(text) {
                return Ok(line);
            }
        }
    }

    /// All that is left until the daemon ends.
    ///
    /// # Errors
    /// If it does not end, and is silent for too long.
    pub fn rest(mut self) -> Result<String> {
        let mut rest = String::new();
        self.reader.read_to_string(&mut rest).context("no end of events")?;
        Ok(rest)
    }
}

/// Reads an answer to its end: status code and JSON body.
///
/// # Errors
/// If it is no HTTP, or its body no JSON.
pub fn answer(stream: UnixStream) -> Result<(u16, Value)> {
    let mut bytes = Vec::new();
    let read = stream.take(MAX_ANSWER).read_to_end(&mut bytes);
    // Who left a part of our request unread resets the connection behind its answer.
    if bytes.is_empty() {
        read.context("the daemon does not answer")?;
    }
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").context("the answer has no head")?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.with_context(|| format!("this is no HTTP: {head}"))?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body)? } else { body.to_owned() };
    let value = serde_json::from_str(&body).with_context(|| format!("this is no JSON: {body:?}"))?;
    Ok((code, value))
}

fn unchunk(mut body: &str) -> Result<String> {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).context("a chunk has a length")?;
        whole.push_str(rest.get(..length).context("a chunk is whole")?);
        body = rest.get(length + 2..).unwrap_or_default();
    }
    Ok(whole)
}

fn good((code, value): (u16, Value)) -> Result<Value> {
    ensure!(code == 200, "the daemon answered {code}: {value}");
    Ok(value)
}
