//! What the shell is to do, in order.

use std::time::Duration;

use crate::{EndReason, FailClass, FailReason, Generation, How, LossKind, Mode, Proofs, Trigger, WakeKind};

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
    /// Wait for traffic without a connection: let go of the one that stands, so that the gateway keeps the session; put the
    /// plan of the last session on the host if nothing is there; and hold what programs send. Answer with `Demand` for as long
    /// as something is held, or with `NotArmed`. What is waited for already goes on.
    Arm {
        /// For which instance.
        g: Generation,
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
    /// What may run now, whenever that changes. It begins as [`Mode::Awake`].
    Mode(Mode),
    /// The host is about to sleep: flush, tell the gateway, and answer with [`crate::Input::Parked`] when the gateway has. The
    /// sleep does not wait for it longer than [`crate::PARK_WAIT`]. Once until the next full wake.
    Park {
        /// Whose session.
        g: Generation,
    },
    /// The sleep may begin: answer everybody who announced it and waits. Within [`crate::SLEEP_ACK_BUDGET`] of the first.
    AckSleep,
    /// The host is fully awake after a sleep, or after an announcement without one: say so to the gateway, ask for one proof of
    /// life, and send what a user waits for. Answer with [`crate::Input::ProofOfLife`].
    Woke {
        /// Whose session.
        g: Generation,
        /// How long the process did not run since the last proof of life.
        gap: Duration,
        /// How often the host woke since then, this time included.
        wakes: u32,
    },
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
    /// Wanted up, fully awake, and nobody was heard for [`crate::NOTICE_AFTER`]. Once per silence.
    Reconnecting(Generation),
    /// An attempt failed, and the next one comes after this.
    RetryIn(FailClass, Duration),
    /// An attempt is not made now, why, and how long it waits; without an end that is known where the host must wake first.
    Suppressed(Cause, Option<Duration>),
    /// The host woke, after this long without running since the last proof of life. A wake that turns out to be of another
    /// kind is reported again.
    Wake(WakeKind, Duration),
    /// A reconnect that the user asked for failed; the old connection goes on.
    ReconnectFailed(FailClass),
    /// The tunnel is up, or on its way, already.
    AlreadyWanted,
    /// Too late: the process is about to end.
    StartRefused,
    /// The tunnel failed for good.
    Failed(FailReason),
}

/// Why an attempt to connect is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The dial budget is used up.
    Budget,
    /// A sleep was announced.
    Asleep,
    /// The host is awake for its own purposes.
    Maintenance,
    /// Nobody can tell what kind of wake it is: none until something asks for one, and one until it lasts.
    Unsure,
}

impl Cause {
    /// Why nothing connects in this mode.
    pub(crate) const fn of(mode: Mode) -> Option<Self> {
        match mode {
            Mode::Awake => None,
            Mode::Asleep => Some(Self::Asleep),
            Mode::Maintenance => Some(Self::Maintenance),
            Mode::Unsure => Some(Self::Unsure),
        }
    }

    /// The word of `reconnects_suppressed_total{cause}`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Asleep => "asleep",
            Self::Maintenance => "maintenance",
            Self::Unsure => "unsure",
        }
    }
}
