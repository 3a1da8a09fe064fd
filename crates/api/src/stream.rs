//! Events to one reader: the status first, then one line each; a reader that does not keep up is dropped.
//!
//! ```text
//!   daemon --broadcast--> pump --queue of EVENT_QUEUE lines--> body of the answer --> socket
//!                          |  full: hang up. The reader connects again, and begins with the status.
//! ```

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{Notify, OwnedSemaphorePermit, broadcast, mpsc, watch};
use tracing::debug;

use crate::limits::EVENT_QUEUE;
use crate::types::{Event, Happening, Status, Versioned};

/// One reader of events.
pub(crate) struct Reader {
    /// Its place among [`crate::limits::MAX_READERS`].
    pub(crate) place: OwnedSemaphorePermit,
    pub(crate) receiver: broadcast::Receiver<Event>,
    pub(crate) hang_up: Arc<Notify>,
    pub(crate) ending: watch::Receiver<()>,
}

/// The lines that wait for a reader, as the body of an answer.
#[derive(Debug)]
pub(crate) struct Lines(mpsc::Receiver<Bytes>);

/// What follows from an event that could not be passed on.
enum Stop {
    /// The reader is gone, or the daemon.
    Over,
    /// The reader is too slow.
    TooSlow,
}

impl Reader {
    /// Begins with `status`; the rest follows by itself.
    pub(crate) fn begin(self, status: Status) -> Lines {
        let (queue, lines) = mpsc::channel(EVENT_QUEUE);
        let first = Event {
            at_unix_ms: now_unix_ms(),
            what: Happening::Status {
                status: Box::new(status),
            },
        };
        // The queue is empty: the first line fits.
        let _ = pass(&queue, &first);
        tokio::spawn(self.pump(queue));
        Lines(lines)
    }

    async fn pump(mut self, queue: mpsc::Sender<Bytes>) {
        let stop = loop {
            let event = tokio::select! {
                biased;
                event = self.receiver.recv() => event,
                () = queue.closed() => break Stop::Over,
                _ = self.ending.changed() => break drain(&mut self.receiver, &queue),
            };
            let passed = match event {
                Ok(event) => pass(&queue, &event),
                Err(RecvError::Closed) => Err(Stop::Over),
                Err(RecvError::Lagged(_)) => Err(Stop::TooSlow),
            };
            if let Err(stop) = passed {
                break stop;
            }
        };
        if let Stop::TooSlow = stop {
            debug!("a reader of events does not keep up and is dropped");
            self.hang_up.notify_one();
        }
        drop(self.place);
    }
}

/// Passes on what has happened before the end.
fn drain(receiver: &mut broadcast::Receiver<Event>, queue: &mpsc::Sender<Bytes>) -> Stop {
    loop {
        let passed = match receiver.try_recv() {
            Ok(event) => pass(queue, &event),
            Err(TryRecvError::Empty | TryRecvError::Closed) => Err(Stop::Over),
            Err(TryRecvError::Lagged(_)) => Err(Stop::TooSlow),
        };
        if let Err(stop) = passed {
            return stop;
        }
    }
}

fn pass(queue: &mpsc::Sender<Bytes>, event: &Event) -> Result<(), Stop> {
    queue
        .try_send(Versioned::line(event).into())
        .map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Stop::TooSlow,
            mpsc::error::TrySendError::Closed(_) => Stop::Over,
        })
}

/// The wall clock, for the first line; the daemon dates all others.
fn now_unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
