//! What happens to a tunnel.

use std::fmt;

use now::Gap;

use crate::{Generation, PowerWord, Proofs, Rule, WakeKind};

/// Who wants the tunnel up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A person. Exempt from the dial budget, and ends a wait.
    User,
    /// The start of the daemon, or the end of what kept the tunnel down. Waits for traffic if that is configured.
    Boot,
    /// The start of a daemon that was handed the device and the cookie of the one before: the tunnel is on the host, and
    /// its session waits.
    Restore,
}

/// Why the tunnel is to come down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A person, or a service manager on their behalf.
    User,
    /// The process is to be replaced by another one, which gets the device and the cookie: the session goes on. Counts
    /// only together with the end of the process, and as [`StopReason::User`] where there is no session to go on.
    Restart,
}

/// Why a session is over. The words of `session.end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// A person stopped it.
    UserStop,
    /// The gateway ended it.
    Admin,
    /// The login is too old.
    AuthExpired,
    /// Another connection took the session over.
    Replaced,
    /// It cannot go on, for a reason of this host or of the protocol.
    Fatal,
    /// The host came into a network whose rules say so.
    StayDown,
}

impl EndReason {
    /// The word used in logs, status and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::UserStop => "user_stop",
            Self::Admin => "admin",
            Self::AuthExpired => "auth_expired",
            Self::Replaced => "replaced",
            Self::Fatal => "fatal",
            Self::StayDown => "stay_down",
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How the control connection was lost. No reason to end a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossKind {
    /// The peer closed it.
    Eof,
    /// The peer or the path reset it.
    Reset,
    /// Nobody answered any more: kernel keepalive or dead-peer detection.
    Timeout,
    /// What came was not TLS or not a frame.
    Protocol,
}

impl LossKind {
    /// The word used in logs and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Eof => "eof",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
        }
    }
}

impl fmt::Display for LossKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What an attempt to connect failed for, by what is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailClass {
    /// Nothing left this host: it has no way to the gateway. Try again, and at once when the network is another one. No
    /// connection was made, so none counts.
    Offline,
    /// Nobody was reached, or the connection broke: try again.
    Network,
    /// The gateway cannot just now (5xx): try again, and with a new login if it keeps saying so to a cookie.
    Unavailable,
    /// The cookie is dead (401): log in anew.
    CookieRefused,
    /// User, password or certificate are wrong. Never tried again, because gateways ban who guesses.
    AuthRefused,
    /// Configuration or trust is wrong. Final for a tunnel that never was up, tried again for one that was.
    Fatal,
}

/// How far an attempt came before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// There is no cookie from this attempt.
    Login,
    /// It holds a cookie (an old one, or one it just logged in for), and the tunnel request failed.
    Connect,
    /// The tunnel was granted and cannot be used: the session is over. The gateway is told so if the grant can be read.
    Granted,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input<P: Proofs> {
    /// The tunnel is wanted.
    Start {
        /// By whom.
        origin: Origin,
    },
    /// The tunnel is not wanted any more. Each one gets an acknowledgement of its own.
    Stop {
        /// Why.
        reason: StopReason,
        /// The process is to end afterwards.
        exit: bool,
    },
    /// The host's side of the tunnel broke: the device is gone, for instance.
    Cancel,
    /// A person wants the tunnel up, or connected afresh if it is.
    Reconnect,
    /// The connection does its work and is to be replaced in the background: its keys are old, or the host has moved. Nobody
    /// waits for it, so it counts against the dial budget, and is refused while the host is not fully awake.
    Renew(Generation),
    /// A connection stands, and the host is set up for it.
    Connected(Generation),
    /// An attempt failed.
    ConnectFailed {
        /// Whose attempt.
        g: Generation,
        /// What for.
        class: FailClass,
        /// How far it came.
        stage: Stage,
    },
    /// An attempt made this many TCP connections beyond its first.
    Dialled(u32),
    /// The control connection is gone.
    ControlLost {
        /// Whose connection.
        g: Generation,
        /// How.
        kind: LossKind,
    },
    /// The gateway, or the session's own clock, ended the session.
    SessionEnded {
        /// Whose session.
        g: Generation,
        /// Why.
        reason: EndReason,
    },
    /// The host is as it was before the start, or (after [`crate::Effect::Curtail`]) what is left is named.
    Released {
        /// Whose traces are gone.
        g: Generation,
        /// Proof.
        restored: P::Restored,
    },
    /// What the tunnel owes is recorded, or (after [`crate::Effect::Curtail`]) cannot be in time.
    Recorded {
        /// Whose work.
        g: Generation,
        /// Proof.
        owed: P::Owed,
    },
    /// The answer to [`crate::Effect::HandOver`].
    HandedOver {
        /// Whose device and cookie.
        g: Generation,
        /// The next process will get them. If not, the tunnel comes down.
        kept: bool,
    },
    /// There are jobs to work off: at the start, after a wait, or because a person asked.
    JobsDue,
    /// The worker that [`crate::Effect::Housekeep`] started rests again.
    JobsDone,
    /// A source of power words said something. May come twice, late, or never.
    Power(PowerWord),
    /// Whoever knows says what kind of wake it is. May come twice, or never.
    Wake(WakeKind),
    /// The process did not run for a while. One that is told again by another timer counts once.
    ClockGap(Gap),
    /// The gateway has taken the word of [`crate::Effect::Park`].
    Parked(Generation),
    /// Traffic asks for the tunnel. Means something in [`crate::Mode::Unsure`], and to an armed tunnel while the host is awake.
    Demand,
    /// What [`crate::Effect::Arm`] asks for cannot be: no plan is remembered, or it cannot be put on the host.
    NotArmed(Generation),
    /// No program has used the tunnel for as long as was configured. Said again while that is so.
    Idle(Generation),
    /// What the rules say of the network that the host is in, whenever it is another one.
    NetworkRule(Rule),
    /// The host's network is another one. Waits begin from the start.
    PathChange,
    /// An authentic round trip: the first since a gap, a silence or the loss of the control connection. More are harmless.
    ProofOfLife(Generation),
    /// Who was asked has not answered in time, on any channel. The first one since the last proof of life counts.
    PathSilent(Generation),
    /// The deadline of [`crate::Machine::deadline`] has come. Too early is harmless.
    DeadlineReached,
}
