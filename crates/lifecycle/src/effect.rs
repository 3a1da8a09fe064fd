//! What the shell is to do, in order.

use std::time::Duration;

use crate::{EndReason, FailClass, FailReason, Generation, How, LossKind, Proofs, Trigger};

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect<P: Proofs> {
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
    /// Make durable what this instance owes, and answer with `Recorded`.
    Record {
        /// Whose work.
        g: Generation,
    },
    /// Stop forwarding without a word, leave the host and the record as they are, see that the next process gets device
    /// and cookie, and answer with `HandedOver`.
    HandOver {
        /// Whose.
        g: Generation,
    },
    /// The budget is used up: answer at once what has not been answered, with a proof that names what is missing
    /// (`Released`, then `Recorded`; or `HandedOver`). The work itself goes on; a `Released` follows when it is done.
    Curtail {
        /// Whose stop.
        g: Generation,
    },
    /// Acknowledge one stop.
    AckStop {
        /// Time since the stop began.
        took: Duration,
        /// With which result.
        outcome: Acknowledged<P>,
    },
    /// Work off what is due, behind everything else; answer with `JobsDone`.
    Housekeep,
    /// Have the worker take up nothing: no job and no chore. What it has in hand goes on. The next worker is not held.
    Hold,
    /// Let the worker go on after [`Effect::Hold`].
    Resume,
    /// Stop working off: put back what is running.
    Rest,
    /// Tell whoever watches.
    Report(Report),
    /// End the process, with the reason if it failed.
    Exit(Option<FailReason>),
}

/// How a stop ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Acknowledged<P: Proofs> {
    /// There was no tunnel.
    WasDown,
    /// The tunnel is down.
    Down {
        /// The host is restored, or what is left is named.
        restored: P::Restored,
        /// The owed work is recorded, or why it is not.
        owed: P::Owed,
    },
    /// Device and cookie wait for the next process.
    HandedOver,
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
