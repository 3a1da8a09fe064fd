//! What the shell is to do, in order.

use std::time::Duration;

use crate::{EndReason, FailClass, FailReason, Generation, How, LossKind, Trigger};

/// Something to do. `R` is the proof that the host was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect<R> {
    /// Try to connect once; answer with `Connected` or `ConnectFailed`. A connection that stands goes on until then.
    Connect {
        /// For which instance.
        g: Generation,
        /// With or without logging in.
        how: How,
        /// What for.
        trigger: Trigger,
    },
    /// Drop the attempt that is running; it will not be heard of again.
    Abort {
        /// Whose attempt.
        g: Generation,
    },
    /// Say goodbye for good if the socket takes it at once.
    Goodbye {
        /// On whose connection.
        g: Generation,
    },
    /// Stop forwarding, restore the host, and answer with `Released`.
    Release {
        /// Whose traces to remove.
        g: Generation,
    },
    /// Acknowledge one stop.
    AckStop {
        /// Time since the stop began.
        took: Duration,
        /// With which result.
        outcome: Acknowledged<R>,
    },
    /// Tell whoever watches.
    Report(Report),
    /// End the process, with the reason if it failed.
    Exit(Option<FailReason>),
}

/// How a stop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged<R> {
    /// There was no tunnel.
    WasDown,
    /// The host is restored, or what is left is named in the proof.
    Restored(R),
    /// Restoring the host takes longer than the budget and goes on.
    Overrun,
}

/// Something a person or a counter may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A session began.
    SessionStart(Generation),
    /// A session is over. There is exactly one for each [`Report::SessionStart`].
    SessionEnd(Generation, EndReason),
    /// The control connection is gone; the session waits.
    PathLost(Generation, LossKind),
    /// The session has a control connection again, after this much awake time.
    PathBack(Generation, Duration),
    /// The session has been without a connection for [`crate::NOTICE_AFTER`]. Once per loss.
    Reconnecting(Generation),
    /// An attempt failed, and the next one comes after this.
    RetryIn(FailClass, Duration),
    /// The dial budget is used up; the next attempt comes after this.
    Suppressed(Duration),
    /// A reconnect that the user asked for failed; the old connection goes on.
    ReconnectFailed(FailClass),
    /// The tunnel is up, or on its way, already.
    AlreadyWanted,
    /// Too late: the process is about to end.
    StartRefused,
    /// The tunnel failed for good.
    Failed(FailReason),
}
