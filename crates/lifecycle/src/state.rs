//! The states of a tunnel instance.

use std::fmt;

use now::Awake;

use crate::{Generation, Origin};

/// Where a tunnel is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Down, nothing of it on the host.
    Idle,
    /// Wanted, never up yet. Nothing of it is on the host before the gateway has granted it.
    Starting {
        /// Which instance.
        g: Generation,
        /// Its attempt to connect.
        attempt: Attempt,
    },
    /// The rules of the network say that there is no tunnel in it. Wanted, and nothing of it on the host.
    StayDown,
    /// Device, addresses and routes are on the host, and there is no connection: the first packet makes one.
    Armed {
        /// Which instance.
        g: Generation,
        /// Whether a session waits at the gateway.
        session: Session,
    },
    /// Forwarding.
    Up {
        /// Which instance.
        g: Generation,
        /// When the connection was made.
        since: Awake,
        /// The attempt to replace the connection, while the old one serves.
        replacement: Option<Attempt>,
    },
    /// It was up or armed, and is without a connection that it should have; device and routes stay.
    Reasserting {
        /// Which instance.
        g: Generation,
        /// Its attempt to connect.
        attempt: Attempt,
        /// Whether the session waits for it.
        session: Session,
        /// When the connection was lost.
        lost: Awake,
    },
    /// On its way down.
    Stopping {
        /// Which instance. The fence is raised already: only `Released` is heard from it.
        g: Generation,
        /// When it began.
        since: Awake,
        /// Stops that wait for their acknowledgement.
        stops: u32,
        /// What comes next.
        then: Then,
        /// How far it has come.
        phase: Phase,
        /// How long to wait for that.
        patience: Patience,
    },
    /// Down for a reason that waiting does not mend.
    Failed(FailReason),
}

impl State {
    /// The word used in logs and status.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Starting { .. } => "starting",
            Self::StayDown => "stay_down",
            Self::Armed { .. } => "armed",
            Self::Up { .. } => "up",
            Self::Reasserting { .. } => "reasserting",
            Self::Stopping { .. } => "stopping",
            Self::Failed(_) => "failed",
        }
    }
}

/// What became of the session whose connection is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// It can go on.
    Kept,
    /// It is over, and reported so; the next connection begins another.
    Over,
}

/// An attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The shell is at it.
    Running(How, Trigger),
    /// It comes at this time.
    Waiting(How, Awake),
}

impl Attempt {
    /// Whether the shell is at it.
    pub const fn is_running(self) -> bool {
        match self {
            Self::Running(..) => true,
            Self::Waiting(..) => false,
        }
    }

    /// With or without logging in.
    pub const fn how(self) -> How {
        match self {
            Self::Running(how, _) | Self::Waiting(how, _) => how,
        }
    }
}

/// With or without logging in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// From the beginning.
    Login,
    /// With the cookie of the session.
    Cookie,
}

/// What an attempt is made for. The words of `reconnect_attempts_total{trigger}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A person wants it now. Exempt from the dial budget.
    User,
    /// The daemon starts.
    Boot,
    /// The last attempt failed, or the connection was lost.
    Retry,
    /// Keys are to be renewed, or the host has moved; the connection before still stands.
    Renewal,
    /// The host is fully awake again.
    Wake,
    /// A program sent a packet into an armed tunnel.
    Demand,
}

impl Trigger {
    /// The word of `reconnect_attempts_total{trigger}`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Boot => "boot",
            Self::Retry => "retry",
            Self::Renewal => "renewal",
            Self::Wake => "wake",
            Self::Demand => "demand",
        }
    }
}

impl From<Origin> for Trigger {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::User => Self::User,
            Origin::Boot | Origin::Restore => Self::Boot,
        }
    }
}

/// What comes after a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Idle,
    /// A start that came while stopping.
    Start(Origin),
    /// The reason for which it stopped is kept.
    Fail(FailReason),
    /// The end of the process, with the reason if it failed.
    Exit(Option<FailReason>),
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Device and cookie are being left for the next process.
    HandingOver,
    /// The host is being restored.
    Releasing,
    /// The host is restored; what is owed is being recorded.
    Recording,
    /// The budget is used up, and the shell has been told to answer with what it has.
    Curtailed {
        /// The host was not restored yet.
        releasing: bool,
    },
    /// Acknowledged; the host is not restored yet.
    Settling,
}

/// How long a stop waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// The stop is to be acknowledged by then, whatever happens.
    Budget(Awake),
    /// Acknowledged; the process ends by then.
    Grace(Awake),
    /// Acknowledged; there is time.
    Spent,
}

/// Why a tunnel failed for good. The shell knows the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailReason {
    /// User, password or certificate were refused.
    AuthRefused,
    /// Configuration or trust is wrong, or the gateway's grant was refused.
    Fatal,
    /// The gateway ended the session.
    Ended,
    /// The host's side broke.
    Cancelled,
}

impl fmt::Display for FailReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AuthRefused => "auth_refused",
            Self::Fatal => "fatal",
            Self::Ended => "ended",
            Self::Cancelled => "cancelled",
        })
    }
}
