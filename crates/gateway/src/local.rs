//! The local socket: `marmot sessions` asks there and `marmot kick` orders.
//!
//! ```text
//!   socket --api thread: GatewayDaemon for Provider--Question, bounded--> answer_all, on the gateway's thread --answer-->
//! ```
//! The socket is served by a thread of its own, so that a flood there costs packets nothing but the questions that are let
//! through: one at a time.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::thread;

use api::{GatewayDaemon, GatewaySessions, GatewayStatus, Kicked, Peer, Refused, owner};
use config::gateway::GatewayConfig;
use platform::socket::{UnixListener, listen_unix};
use session::gateway::SessionId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tracing::warn;

use crate::shell::Shared;

/// In the runtime folder; no tunnel can have this name.
const SOCKET: &str = "_gateway.sock";

/// Where a gateway of this configuration listens for `marmot sessions`, if it does.
pub fn local_socket(config: &GatewayConfig) -> Option<PathBuf> {
    let path = config.storage.runtime_dir.join(SOCKET);
    config.api.enabled.then_some(path)
}

/// Access to the socket: its group may use it.
const MODE: u32 = 0o660;

/// Questions that wait. Those who ask are at most as many as there are connections, and each asks one at a time.
const QUESTIONS: usize = api::MAX_CONNECTIONS;

enum Question {
    Status(oneshot::Sender<GatewayStatus>),
    Sessions(oneshot::Sender<GatewaySessions>),
    Kick(SessionId, oneshot::Sender<Option<Kicked>>),
}

/// Asks the gateway's thread.
#[derive(Clone)]
struct Provider(mpsc::Sender<Question>);

impl Provider {
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Refused> {
        let (answer, answered) = oneshot::channel();
        self.0.send(question(answer)).await.map_err(|_| Refused::Ending)?;
        answered.await.map_err(|_| Refused::Ending)
    }
}

impl GatewayDaemon for Provider {
    async fn status(&self) -> Result<GatewayStatus, Refused> {
        self.ask(Question::Status).await
    }

    async fn sessions(&self) -> Result<GatewaySessions, Refused> {
        self.ask(Question::Sessions).await
    }

    async fn kick(&self, id: String) -> Result<Kicked, Refused> {
        let unknown = || Refused::NotFound("there is no such session; `marmot sessions` names them".to_owned());
        let id = SessionId::parse(&id).ok_or_else(unknown)?;
        let kicked = self.ask(|answer| Question::Kick(id, answer)).await?;
        kicked.ok_or_else(unknown)
    }
}

/// A socket that listens and is not served yet.
pub(crate) struct LocalSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// A socket that is served until this is dropped.
pub(crate) struct Served {
    path: PathBuf,
    _stop: oneshot::Sender<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl LocalSocket {
    /// Listens, if the configuration wants it. A folder that cannot be used costs the socket only.
    pub(crate) fn open(config: &GatewayConfig) -> Option<Self> {
        let path = local_socket(config)?;
        match listen_unix(&path, MODE, config.api.group.as_deref()) {
            Ok(listener) => Some(Self { listener, path }),
            Err(error) => {
                warn!(%error, "no local socket, so that `marmot sessions` and `marmot kick` cannot reach this gateway");
                None
            }
        }
    }

    /// Answers for the gateway, whose thread must be running [`Questions::answer_all`].
    pub(crate) fn serve(self) -> io::Result<(Served, Questions)> {
        let own = Peer::own()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (sender, questions) = mpsc::channel(QUESTIONS);
        let listener = self.listener;
        let serve = move || {
            runtime.block_on(async move {
                let until = async {
                    let _ = stopped.await;
                };
                match tokio::net::UnixListener::from_std(listener) {
                    Ok(listener) => api::serve_gateway(listener, Provider(sender), owner(own.uid), until).await,
                    Err(error) => warn!(%error, "cannot serve the local socket"),
                }
            });
        };
        thread::Builder::new().name("api".to_owned()).spawn(serve)?;
        let served = Served {
            path: self.path,
            _stop: stop,
        };
        Ok((served, Questions(questions)))
    }
}

/// What is asked.
pub(crate) struct Questions(mpsc::Receiver<Question>);

impl Questions {
    /// Answers until nobody can ask any more. Whoever does not wait for his answer gets none.
    pub(crate) async fn answer_all(mut self, shared: Rc<Shared>) {
        while let Some(question) = self.0.recv().await {
            let now = shared.clock.now();
            match question {
                Question::Status(answer) => {
                    let status = GatewayStatus {
                        pid: std::process::id(),
                        daemon: env!("CARGO_PKG_VERSION").to_owned(),
                        listen: shared.listen.clone(),
                        sessions: shared.sessions.counts(),
                        counters: shared.sessions.totals(),
                    };
                    let _ = answer.send(status);
                }
                Question::Sessions(answer) => drop(answer.send(shared.sessions.describe(now))),
                Question::Kick(id, answer) => drop(answer.send(shared.sessions.kick(id, now))),
            }
            yield_now().await;
        }
    }
}
