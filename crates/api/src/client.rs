//! The other end of the socket.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use crate::limits::{ANSWER_TIMEOUT, MAX_ANSWER, MAX_LINE};
use crate::types::{Denial, Down, Event, History, Housekeeping, Status, Up, UpOrder, Versioned};

/// How long to knock again at a daemon that has no connection left; idle ones give way within 5 s.
const KNOCKING: Duration = Duration::from_secs(8);

/// Between two knocks.
const KNOCK: Duration = Duration::from_millis(50);

/// The word of a daemon that has no connection left.
const BUSY: &str = "busy";

/// The one order that may be carried out twice: what is down stays down.
const DOWN: &str = "/v1/down";

/// Speaks with a daemon; one connection a request. Needs a tokio runtime with I/O and time.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why a daemon gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon listens at {}", .0.display())]
    NotRunning(PathBuf),
    /// The mode of the socket or of its folder keeps us out.
    #[error("cannot open {}: permission denied; ask as root, or as a member of the group that owns it", .0.display())]
    NotPermitted(PathBuf),
    /// Another reason of the system.
    #[error("cannot speak with the daemon at {}: {source}", socket.display())]
    System {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon said no.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The word for programs.
        code: String,
        /// Why, and what to do.
        message: String,
    },
    /// The daemon is silent.
    #[error("the daemon did not answer within {} s", .0.as_secs())]
    TooSlow(Duration),
    /// The daemon ended, or dropped the connection because we did not keep up.
    #[error("the daemon closed the connection")]
    Closed,
    /// What it said is not ours.
    #[error("cannot understand the daemon: {0}")]
    Strange(String),
}

impl Client {
    /// A daemon's socket; nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The tunnel now.
    ///
    /// # Errors
    /// No daemon, or no answer that can be used; so for all that follow.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.ask(Method::GET, "/v1/status").await
    }

    /// Starts the tunnel; returns once that is accepted.
    ///
    /// # Errors
    /// As for [`Client::status`]; the daemon may refuse.
    pub async fn up(&self, order: UpOrder) -> Result<Up, ClientError> {
        let body = serde_json::to_vec(&order).map_err(strange)?;
        limited(async { understand(self.send(&Method::POST, "/v1/up", body.into()).await?).await }).await
    }

    /// Stops the tunnel; returns with the acknowledgement.
    ///
    /// # Errors
    /// As for [`Client::up`].
    pub async fn down(&self) -> Result<Down, ClientError> {
        self.ask(Method::POST, DOWN).await
    }

    /// Sessions that are over, at most `last`.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn history(&self, last: usize) -> Result<History, ClientError> {
        self.ask(Method::GET, &format!("/v1/history?last={last}")).await
    }

    /// What is owed.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn housekeeping(&self) -> Result<Housekeeping, ClientError> {
        self.ask(Method::GET, "/v1/housekeeping").await
    }

    /// Makes a job due again. `job` is a name of [`Client::housekeeping`].
    ///
    /// # Errors
    /// As for [`Client::up`]; not for everybody.
    pub async fn retry(&self, job: &str) -> Result<Housekeeping, ClientError> {
        self.ask(Method::POST, &format!("/v1/housekeeping/{job}/retry")).await
    }

    /// Has somebody work at what is due.
    ///
    /// # Errors
    /// As for [`Client::up`]; not for everybody.
    pub async fn run(&self) -> Result<Housekeeping, ClientError> {
        self.ask(Method::POST, "/v1/housekeeping/run").await
    }

    /// Everything that happens from now on; the first event is the status.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn events(&self) -> Result<EventStream, ClientError> {
        let response = limited(self.send(&Method::GET, "/v1/events", Bytes::new())).await?;
        Ok(EventStream {
            body: response.into_body(),
            pending: BytesMut::new(),
        })
    }

    pub(crate) async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, ClientError> {
        limited(async { understand(self.send(&method, path, Bytes::new()).await?).await }).await
    }

    /// Sends a request; knocks again while the daemon has no connection left, as long as nothing can be done twice by it.
    async fn send(&self, method: &Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let patience = Instant::now() + KNOCKING;
        let harmless = *method == Method::GET || path == DOWN;
        loop {
            let missed = match self.send_once(method, path, body.clone()).await {
                Ok(response) => return Ok(response),
                Err(missed) => missed,
            };
            let again = match missed.again {
                Again::Always => true,
                Again::IfHarmless => harmless,
                Again::Never => false,
            };
            if !again || Instant::now() >= patience {
                return Err(missed.error);
            }
            sleep(KNOCK).await;
        }
    }

    async fn send_once(&self, method: &Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Missed> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| Missed::new(Again::Never, self.unreachable(error)))?;
        let unsent = |_| Missed::new(Again::Always, ClientError::Closed);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(unsent)?;
        // It ends with the answer, or when nobody waits for that any more.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "marmot")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| Missed::new(Again::Never, strange(error)))?;
        let response = sender.send_request(request).await.map_err(Missed::closed)?;
        match response.status() {
            StatusCode::OK => Ok(response),
            status => Err(match whole(response).await {
                Ok(json) => Missed::refused(refusal(status, &json)),
                Err(error) => Missed::new(Again::IfHarmless, error),
            }),
        }
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning(socket),
            io::ErrorKind::PermissionDenied => ClientError::NotPermitted(socket),
            _ => ClientError::System { socket, source },
        }
    }
}

/// Events as they come.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    pending: BytesMut,
}

impl EventStream {
    /// The next event, whenever it comes; `None` when the daemon ended in order. May be dropped and called again without
    /// a loss.
    ///
    /// # Errors
    /// The daemon is gone, or we did not keep up: connect again.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        match self.next_line().await? {
            Some(line) => parse(&line).map(Some),
            None => Ok(None),
        }
    }

    /// As [`EventStream::next`], but the line as it came, without its end: with all that a newer daemon says.
    ///
    /// # Errors
    /// As for [`EventStream::next`].
    pub async fn next_line(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line = self.pending.split_to(end);
                self.pending.advance(1);
                return Ok(Some(line.freeze()));
            }
            if self.pending.len() > MAX_LINE {
                return Err(ClientError::Strange("a line without an end".to_owned()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(_)) => return Err(ClientError::Closed),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.pending.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// A request that got no answer of use.
struct Missed {
    again: Again,
    error: ClientError,
}

/// Whether it may be sent again.
enum Again {
    /// Nothing was done.
    Always,
    /// It may have been carried out: only what does no harm twice.
    IfHarmless,
    /// It would get the same answer.
    Never,
}

impl Missed {
    fn new(again: Again, error: ClientError) -> Self {
        Self { again, error }
    }

    fn refused(error: ClientError) -> Self {
        let busy = matches!(&error, ClientError::Refused { code, .. } if code == BUSY);
        Self::new(if busy { Again::Always } else { Again::Never }, error)
    }

    /// For hyper, all ends of a connection are errors of the same kind, but that of one before the request was begun.
    fn closed(error: hyper::Error) -> Self {
        let again = match error.is_canceled() {
            true => Again::Always,
            false => Again::IfHarmless,
        };
        Self::new(again, ClientError::Closed)
    }
}

async fn limited<T>(work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    let limit = ANSWER_TIMEOUT + KNOCKING;
    timeout(limit, work).await.map_err(|_| ClientError::TooSlow(limit))?
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| {
        if error.is::<LengthLimitError>() {
            ClientError::Strange(format!("an answer of more than {MAX_ANSWER} bytes"))
        } else {
            ClientError::Closed
        }
    })
}

async fn understand<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    parse(&whole(response).await?)
}

/// One answer of our version.
fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, ClientError> {
    #[derive(serde::Deserialize)]
    struct Head {
        version: u32,
    }
    let Head { version } = serde_json::from_slice(json).map_err(strange)?;
    if version != crate::VERSION {
        let (ours, theirs) = (crate::VERSION, version);
        let message = format!("it speaks version {theirs}, this program version {ours}; use programs of one release");
        return Err(ClientError::Strange(message));
    }
    let answer: Versioned<T> = serde_json::from_slice(json).map_err(strange)?;
    Ok(answer.body)
}

fn refusal(status: StatusCode, json: &[u8]) -> ClientError {
    match parse::<Denial>(json) {
        Ok(Denial { error }) => ClientError::Refused {
            status: status.as_u16(),
            code: error.code,
            message: error.message,
        },
        // hyper itself answers what is no HTTP, without a body.
        Err(_) => ClientError::Strange(format!("it answered {status}")),
    }
}

fn strange(error: impl std::fmt::Display) -> ClientError {
    ClientError::Strange(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_named_and_never_taken_for_ours() {
        let other = parse::<Status>(br#"{"version":2,"state":"up"}"#).expect_err("not ours");
        assert!(other.to_string().contains("version 2"), "{other}");
        for strange in ["", "{}", "[]", "{\"version\":1", "<html>"] {
            assert!(
                matches!(parse::<Status>(strange.as_bytes()), Err(ClientError::Strange(_))),
                "{strange}"
            );
        }
    }
}
