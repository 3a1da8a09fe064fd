//! A daemon that only answers, its socket, and requests byte by byte.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::{
    Daemon, Down, EVENT_QUEUE, Event, Happening, History, Housekeeping, Job, JobState, Owed, Peer, Privilege, Refused,
    Session, State, Status, Up, UpOrder,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, broadcast, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything takes, the 5 s limits included.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const JOB: &str = "1800000000-0123456789abcdef";

#[derive(Clone)]
pub(crate) struct Fake(Arc<Inner>);

struct Inner {
    events: broadcast::Sender<Event>,
    orders: Mutex<Vec<String>>,
    /// `down` waits for it, if it is there.
    gate: Option<Notify>,
    /// A call of `down` has begun.
    begun: Notify,
}

impl Fake {
    fn new(gate: Option<Notify>) -> Self {
        Self(Arc::new(Inner {
            events: broadcast::Sender::new(EVENT_QUEUE),
            orders: Mutex::default(),
            gate,
            begun: Notify::new(),
        }))
    }

    pub(crate) fn orders(&self) -> Vec<String> {
        self.0.orders.lock().expect("not poisoned").clone()
    }

    pub(crate) fn tell(&self, what: Happening) {
        let _ = self.0.events.send(Event {
            at_unix_ms: 1_800_000_000_000,
            what,
        });
    }

    /// How many read events.
    pub(crate) fn readers(&self) -> usize {
        self.0.events.receiver_count()
    }

    pub(crate) async fn down_has_begun(&self) {
        within(self.0.begun.notified()).await;
    }

    pub(crate) fn open_the_gate(&self) {
        self.0.gate.as_ref().expect("a gate").notify_one();
    }

    fn note(&self, order: impl Into<String>) {
        self.0.orders.lock().expect("not poisoned").push(order.into());
    }
}

impl Daemon for Fake {
    async fn status(&self) -> Status {
        Status {
            name: "work".to_owned(),
            state: State::Up,
            ..Status::default()
        }
    }

    async fn up(&self, order: UpOrder) -> Result<Up, Refused> {
        self.note(if order.reconnect { "reconnect" } else { "up" });
        Ok(Up {
            state: State::Starting,
            ..Up::default()
        })
    }

    async fn down(&self) -> Result<Down, Refused> {
        self.note("down");
        self.0.begun.notify_one();
        if let Some(gate) = &self.0.gate {
            gate.notified().await;
        }
        Ok(Down {
            ms: 2.5,
            owed: Owed::Recorded,
            job: Some(JOB.to_owned()),
            ..Down::default()
        })
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    async fn housekeeping(&self) -> Result<Housekeeping, Refused> {
        let job = Job {
            id: JOB.to_owned(),
            state: JobState::Failed,
            ..Job::default()
        };
        Ok(Housekeeping {
            jobs: vec![job],
            ..Housekeeping::default()
        })
    }

    async fn retry(&self, job: String) -> Result<Housekeeping, Refused> {
        if job != JOB {
            return Err(Refused::NotFound("there is no such job".to_owned()));
        }
        self.note(format!("retry {job}"));
        self.housekeeping().await
    }

    async fn run(&self) -> Result<Housekeeping, Refused> {
        self.note("run");
        self.housekeeping().await
    }

    async fn history(&self, last: usize) -> Result<History, Refused> {
        let session = Session {
            job: JOB.to_owned(),
            ..Session::default()
        };
        Ok(History {
            sessions: vec![session; last],
        })
    }
}

/// A socket in a folder of its own, with a server behind it.
pub(crate) struct Site {
    folder: TempDir,
    pub(crate) fake: Fake,
    end: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

impl Site {
    /// Everybody who runs this test administers.
    pub(crate) fn new() -> Self {
        let own = Peer::own().expect("credentials").uid;
        Self::with(Fake::new(None), api::owner(own))
    }

    /// `down` does not answer before the gate opens.
    pub(crate) fn gated() -> Self {
        let own = Peer::own().expect("credentials").uid;
        Self::with(Fake::new(Some(Notify::new())), api::owner(own))
    }

    pub(crate) fn allowing(allow: impl Fn(Peer, Privilege) -> bool + Clone + Send + Sync + 'static) -> Self {
        Self::with(Fake::new(None), allow)
    }

    fn with(fake: Fake, allow: impl Fn(Peer, Privilege) -> bool + Clone + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("work.sock")).expect("a socket");
        let (end, ended) = oneshot::channel::<()>();
        let server = tokio::spawn(api::serve(listener, fake.clone(), allow, async {
            let _ = ended.await;
        }));
        Self {
            folder,
            fake,
            end: Some(end),
            server,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("work.sock")
    }

    pub(crate) fn client(&self) -> api::Client {
        api::Client::new(self.socket())
    }

    pub(crate) async fn connect(&self) -> UnixStream {
        within(UnixStream::connect(self.socket())).await.expect("connected")
    }

    /// One request on a connection of its own; everything that comes back until the end.
    pub(crate) async fn raw(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut stream = self.connect().await;
        // A server that has heard enough closes; what it said is there all the same.
        let _ = stream.write_all(request.as_ref()).await;
        Answer::read(&mut stream).await
    }

    pub(crate) fn begin_to_end(&mut self) {
        self.end.take().expect("not ended yet").send(()).expect("it runs");
    }

    pub(crate) async fn ended(self) {
        within(self.server).await.expect("no panic");
    }
}

/// What came back on a connection that is over.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) async fn read(stream: &mut UnixStream) -> Self {
        let mut bytes = Vec::new();
        // A reset behind the answer is an end, too.
        let _ = within(stream.read_to_end(&mut bytes)).await;
        let text = String::from_utf8(bytes).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        Self {
            status: status.unwrap_or(0),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The word of a refusal.
    pub(crate) fn code(&self) -> String {
        let json = self.json();
        assert_eq!(json["version"], 1, "{json}");
        assert!(
            json["error"]["message"].as_str().is_some_and(|text| !text.is_empty()),
            "{json}"
        );
        json["error"]["code"].as_str().expect("a word").to_owned()
    }
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: marmot\r\nconnection: close\r\n\r\n")
}

pub(crate) fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: marmot\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// Asks for the status on a connection that stays.
pub(crate) async fn ask(stream: &mut UnixStream) {
    let keep = get("/v1/status").replace("connection: close\r\n", "");
    stream.write_all(keep.as_bytes()).await.expect("written");
    let mut heard = Vec::new();
    while !heard.ends_with(b"}\n") {
        assert_ne!(within(stream.read_buf(&mut heard)).await.expect("read"), 0, "closed");
    }
    assert!(
        heard.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&heard)
    );
}

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("in time")
}

/// Says that a test did not run, and fails where none may be left out.
#[track_caller]
pub(crate) fn skip(name: &str, reason: &str) {
    let required = std::env::var_os("MARMOT_LAB").is_some_and(|value| value == "required");
    assert!(!required, "{name}: {reason}");
    eprintln!("SKIPPED {name}: {reason}");
}
