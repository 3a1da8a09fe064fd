//! The life of a tunnel instance: one total transition function.
//!
//! ```text
//!                     Connected                ControlLost
//!   Idle --Start--> Starting(g) ----------> Up(g) <-------> Reasserting(g)     Armed(g): see `armed`
//!    ^                  |                     |   Connected       |
//!    |                  +------- Stop, Cancel, final failure -----+
//!    |                                        v
//!    +---- AckStop <- Recorded <- Released -- Stopping(g) ----> Failed(reason)
//! ```
//! The shell turns signals, timers and results into an [`Input`], hands it to [`Machine::handle`], and carries out the
//! [`Effect`]s in order; what comes of them is the next input. Nothing here reads a clock, draws a random number or
//! touches the host. Whether the host sleeps is beside the state, not one of its states: [`Mode`]. Every entry into Stopping raises the [`Generation`]: results of an older one are ignored.
#![forbid(unsafe_code)]

mod armed;
mod backoff;
mod budget;
mod chores;
mod connecting;
mod effect;
mod generation;
mod input;
mod life;
mod machine;
mod proofs;
mod renewing;
mod sleeping;
mod state;
mod stopping;
mod wake;

pub use armed::{DEMAND_LASTS, Rule};
pub use backoff::{Backoff, Jitter};
pub use budget::{DIAL_INTERVAL, DIALS, DialBudget};
pub use effect::{Acknowledged, Cause, Effect, Report};
pub use generation::Generation;
pub use input::{EndReason, FailClass, Input, LossKind, Origin, Stage, StopReason};
pub use machine::{ACK_BUDGET, EXIT_GRACE, Machine, NOTICE_AFTER, OnFailure, STABLE_AFTER, Settings};
pub use proofs::Proofs;
pub use sleeping::{PARK_WAIT, SLEEP_ACK_BUDGET};
pub use state::{Attempt, FailReason, How, Patience, Phase, Session, State, Then, Trigger};
pub use wake::{
    MAINTENANCE_DOUBTED_AFTER, Mode, PowerWord, SLEEP_DOUBTED_AFTER, Source, Surroundings, UNSURE_FOR, WakeKind,
    WakeLimits,
};
