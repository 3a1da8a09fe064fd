//! What the server needs of a daemon.

use std::future::Future;

use tokio::sync::broadcast;

use crate::types::{Down, Event, History, Housekeeping, Status, Up, UpOrder};

/// A running daemon; a cheap handle, cloned for each request. No method waits for the network or for housekeeping, and
/// each answers within 10 s: later the request is answered for it with `too_slow`.
pub trait Daemon: Clone + Send + Sync + 'static {
    /// The tunnel now.
    fn status(&self) -> impl Future<Output = Status> + Send;

    /// Starts the tunnel; answers as soon as that is accepted, within 50 ms. A tunnel that is up stays as it is, unless
    /// the order says to connect anew.
    fn up(&self, order: UpOrder) -> impl Future<Output = Result<Up, Refused>> + Send;

    /// Stops the tunnel; answers with the acknowledgement. The daemon stays.
    fn down(&self) -> impl Future<Output = Result<Down, Refused>> + Send;

    /// Everything that happens from now on. The channel's capacity is [`crate::EVENT_QUEUE`]; it closes when the daemon
    /// ends. The server puts the status in front, asked after this call, so that nothing falls between.
    fn events(&self) -> broadcast::Receiver<Event>;

    /// What is owed: at most [`crate::MAX_JOBS`] jobs, and the counts of all.
    fn housekeeping(&self) -> impl Future<Output = Result<Housekeeping, Refused>> + Send;

    /// Makes a failed or waiting job due, and sees to it that somebody works. `job` is 1 to 64 of `[0-9a-z-]`.
    /// [`Refused::NotFound`] if there is none.
    fn retry(&self, job: String) -> impl Future<Output = Result<Housekeeping, Refused>> + Send;

    /// Sees to it that somebody works at what is due; does not wait for the end.
    fn run(&self) -> impl Future<Output = Result<Housekeeping, Refused>> + Send;

    /// The last sessions that are over, at most `last` (1 to [`crate::MAX_HISTORY`]), the oldest first.
    fn history(&self, last: usize) -> impl Future<Output = Result<History, Refused>> + Send;
}

/// Why a daemon did not do it. The text is lower case, says what to do, and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such job. 404, `not_found`.
    #[error("{0}")]
    NotFound(String),
    /// Not in this state; the text says what to do. 409, `conflict`.
    #[error("{0}")]
    Conflict(String),
    /// The disk or the system did not let us. 500, `failed`.
    #[error("{0}")]
    Failed(String),
    /// The daemon is about to end. 503, `ending`.
    #[error("the daemon is about to end")]
    Ending,
}
