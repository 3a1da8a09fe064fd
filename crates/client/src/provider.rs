//! The façade of a tunnel: what may be asked of it, and what it tells. Whoever gives orders is above it (signals, the API
//! socket, the demo, later a C interface for an operating system's tunnel service); the shell and the host are below it.
//!
//! ```text
//!   signals, API socket, demo --> Provider --orders--> Shell --> machine, host, ledger
//!                                          <--acknowledgements, status, events--
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use api::{EVENT_QUEUE, Event};
use ledger::Owed;
use lifecycle::{Origin, StopReason, WakeKind};
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::books::Books;
use crate::gate::Gate;
use crate::status::Status;

/// Orders that wait for the shell, which takes them at once. More than the API socket serves at a time.
pub(crate) const MAX_ORDERS: usize = 64;

/// A cheap handle on a tunnel that runs somewhere in this process.
#[derive(Clone, Debug)]
pub struct Provider {
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<Status>,
    events: broadcast::Sender<Event>,
    books: Books,
    gate: Gate,
    name: Arc<str>,
}

/// How a start was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// The word of the state right after the order.
    pub state: &'static str,
    /// The tunnel instance that comes up, or is up.
    pub generation: u64,
    /// The tunnel was up, or on its way, already.
    pub already: bool,
}

/// Why an order was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// The process is about to end.
    #[error("the client is about to exit")]
    Exiting,
    /// The tunnel's shell has ended.
    #[error("the client has ended")]
    Ended,
    /// Something in the order is wrong.
    #[error("{0}")]
    Mistaken(String),
}

/// The answer to a stop.
#[derive(Clone, Debug, PartialEq)]
pub struct Stopped {
    /// Time from the order to this answer.
    pub took: Duration,
    /// How the host was left.
    pub outcome: Outcome,
}

/// How a stop left the host.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// There was no tunnel.
    WasDown,
    /// The tunnel is down.
    Down {
        /// What could not be restored in time, one sentence each; empty if the host is as it was.
        residue: Vec<String>,
        /// What became of the housekeeping that the session leaves.
        owed: Owed,
    },
    /// Device and session wait for the next process.
    HandedOver,
}

/// Something the shell is to do, with the place for its answer.
pub(crate) enum Order {
    Start(Origin, oneshot::Sender<Result<Started, Refused>>),
    Reconnect(oneshot::Sender<Result<Started, Refused>>),
    Stop {
        reason: StopReason,
        exit: bool,
        answer: oneshot::Sender<Stopped>,
    },
    Cancel(String),
    Sleep(oneshot::Sender<()>),
    Wake(WakeKind),
    JobsDue,
    Reload(oneshot::Sender<Result<(), Refused>>),
}

impl Order {
    /// Nobody who gives it waits, or nothing that can be read of the host would change what it means: a person is there, the
    /// tunnel comes down, or it says itself what the host does.
    pub(crate) fn is_urgent(&self) -> bool {
        match self {
            Self::Start(Origin::User, _)
            | Self::Reconnect(_)
            | Self::Stop { .. }
            | Self::Cancel(_)
            | Self::Sleep(_)
            | Self::Wake(_) => true,
            Self::Start(Origin::Boot | Origin::Restore, _) | Self::JobsDue | Self::Reload(_) => false,
        }
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(origin, _) => write!(f, "start ({origin:?})"),
            Self::Reconnect(_) => f.write_str("reconnect"),
            Self::Stop { reason, exit, .. } => write!(f, "stop ({reason:?}, exit: {exit})"),
            Self::Cancel(_) => f.write_str("cancel"),
            Self::Sleep(_) => f.write_str("sleep"),
            Self::Wake(kind) => write!(f, "wake ({kind:?})"),
            Self::JobsDue => f.write_str("work off what is owed"),
            Self::Reload(_) => f.write_str("reload"),
        }
    }
}

/// The shell's end of the façade.
pub(crate) struct Counter {
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) events: broadcast::Sender<Event>,
}

impl Provider {
    /// Both ends, for the tunnel `name` with its `books`. `status` gets every change.
    pub(crate) fn pair(name: &str, (books, gate): (Books, Gate), status: watch::Sender<Status>) -> (Self, Counter) {
        let (sender, orders) = mpsc::channel(MAX_ORDERS);
        let (events, _) = broadcast::channel(EVENT_QUEUE);
        let provider = Self {
            orders: sender,
            status: status.subscribe(),
            events: events.clone(),
            books,
            gate,
            name: name.into(),
        };
        (provider, Counter { orders, status, events })
    }

    /// Wants the tunnel up. Accepted in every state, and never waits for housekeeping.
    ///
    /// # Errors
    /// [`Refused::Exiting`] and [`Refused::Ended`].
    pub async fn start(&self, origin: Origin) -> Result<Started, Refused> {
        self.ask(|answer| Order::Start(origin, answer)).await?
    }

    /// Wants the tunnel up, or connected afresh if it is.
    ///
    /// # Errors
    /// As for [`Provider::start`].
    pub async fn reconnect(&self) -> Result<Started, Refused> {
        self.ask(Order::Reconnect).await?
    }

    /// Takes the tunnel down, and ends the shell afterwards if `exit`. The answer comes within
    /// [`lifecycle::ACK_BUDGET`], whatever gateway, host and disk do.
    ///
    /// # Errors
    /// [`Refused::Ended`].
    pub async fn stop(&self, reason: StopReason, exit: bool) -> Result<Stopped, Refused> {
        self.ask(|answer| Order::Stop { reason, exit, answer }).await
    }

    /// Takes the tunnel down because of a mistake on this side. `error` is in the status, and what the shell ends with.
    ///
    /// # Errors
    /// [`Refused::Ended`].
    pub async fn cancel(&self, error: String) -> Result<(), Refused> {
        self.orders.send(Order::Cancel(error)).await.map_err(|_| Refused::Ended)
    }

    /// The host is about to sleep. When this returns, within [`lifecycle::SLEEP_ACK_BUDGET`], nothing connects and no chore runs
    /// any more, until [`Provider::wake`] or until the clocks say otherwise. May be told twice, or never.
    ///
    /// # Errors
    /// [`Refused::Ended`].
    pub async fn sleep(&self) -> Result<(), Refused> {
        self.ask(Order::Sleep).await
    }

    /// The host is awake. May be told twice, or never.
    ///
    /// # Errors
    /// [`Refused::Ended`].
    pub async fn wake(&self, kind: WakeKind) -> Result<(), Refused> {
        self.orders.send(Order::Wake(kind)).await.map_err(|_| Refused::Ended)
    }

    /// Reads the configuration again: all of it counts, or nothing.
    ///
    /// # Errors
    /// [`Refused::Mistaken`] with the mistakes, and [`Refused::Ended`].
    pub async fn reload(&self) -> Result<(), Refused> {
        self.ask(Order::Reload).await?
    }

    /// Sees to it that what is owed is worked off, as soon as nothing is in the way.
    ///
    /// # Errors
    /// [`Refused::Ended`].
    pub async fn work_now(&self) -> Result<(), Refused> {
        self.orders.send(Order::JobsDue).await.map_err(|_| Refused::Ended)
    }

    /// The tunnel's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn books(&self) -> &Books {
        &self.books
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The status, and its changes.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// An order whose answer nobody waits for.
    pub(crate) async fn tell<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<(), Refused> {
        let (answer, _) = oneshot::channel();
        self.orders.send(order(answer)).await.map_err(|_| Refused::Ended)
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, Refused> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).await.map_err(|_| Refused::Ended)?;
        answered.await.map_err(|_| Refused::Ended)
    }
}
