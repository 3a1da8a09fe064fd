//! Works off what is owed after a tunnel: history, hooks, uploads.
//!
//! ```text
//!   shell --close--> ledger <--claim, progress, finish-- Worker --> history    (ledger)
//!     |                                                    |------> hooks      (platform::children)
//!     '-- work_off(stop) --------------------------------->|------> collector  (HTTP)
//!                                                          '------> Office     (what needs the shell: a logout)
//! ```
//! It works only while it is told to: a shell does not tell it before the stop is acknowledged, nor while the host sleeps.
//! It may as well run in a process of its own, after the tunnel's has ended.
#![forbid(unsafe_code)]

mod alone;
mod bench;
mod calendar;
mod collector;
mod hooks;
mod office;
mod settings;
mod summary;
mod worker;

pub use alone::work_off_alone;
pub use calendar::rfc3339;
pub use collector::{Collector, TrustError, UPLOAD_TIMEOUT, collector_tls};
pub use hooks::MAX_HOOKS;
pub use office::{NoOffice, Office};
pub use settings::Settings;
pub use worker::{Attempt, Ended, Failure, OFFICE_TIMEOUT, Outcome, Worker};
