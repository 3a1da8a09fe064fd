//! `[housekeeping]`, the same in both configuration files: what happens after a session, and how long it is kept.

use std::path::PathBuf;
use std::time::Duration;

use crate::CollectorUrl;
use crate::document::Document;

/// What is done after a session has ended, and how long the records of it are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Housekeeping {
    /// Who works it off.
    pub run: Run,
    /// Folder with the administrator's executables; one that does not exist is an empty one.
    pub hooks_dir: PathBuf,
    /// How long one executable may run. 1 s to 1 h; default 60 s.
    pub hook_timeout: Duration,
    /// How much of what one executable writes is kept, first and last bytes together. 256 to 65536; default 4096.
    pub hook_output_bytes: usize,
    /// How often a job is tried before it is given up. 1 to 1000; default 12.
    pub attempts: u32,
    /// The wait after the first failure, doubled after each. 1 s to `retry_max`; default 5 s.
    pub retry_first: Duration,
    /// The longest wait between two attempts. 1 s to 24 h; default 1 h.
    pub retry_max: Duration,
    /// How long after its session a job is given up, once it has failed three times. 1 min to 365 d; default 7 d.
    pub give_up_after: Duration,
    /// Finished jobs that are kept; they tell which sessions are closed. 1 to 5000; default 100.
    pub keep_done: usize,
    /// Jobs given up that are kept. 1 to 5000; default 100.
    pub keep_failed: usize,
    /// Sessions that the local history keeps. 0 to 5000; default 1000.
    pub keep_history: usize,
    /// Whatever of the three is older than this goes. 1 d to 10 years; default 90 d.
    pub keep: Duration,
    /// Where summaries of sessions are sent to; `None` sends none.
    pub collector: Option<CollectorUrl>,
    /// PEM: only these authorities are trusted for the collector; `None` asks the system's own store.
    pub collector_ca_file: Option<PathBuf>,
}

/// Who works off what is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// A unit of the service manager when one started us (`NOTIFY_SOCKET`), otherwise the daemon itself.
    Auto,
    /// The daemon, in the background.
    Daemon,
    /// Somebody else: a unit of the service manager that calls `marmot housekeep`.
    Unit,
}

impl Run {
    /// Whether the daemon does it itself; `managed` says whether a service manager started us.
    pub fn in_daemon(self, managed: bool) -> bool {
        match self {
            Run::Auto => !managed,
            Run::Daemon => true,
            Run::Unit => false,
        }
    }
}

const DAY_S: f64 = 86_400.0;

/// As many files as a ledger keeps of one folder (`ledger::MAX_KEPT`).
const MOST_KEPT: u32 = 5000;

/// Reads `[housekeeping]`.
pub(crate) fn read(document: &Document<'_>) -> Option<Housekeeping> {
    let section = document.section("housekeeping");
    let run = section.choice(
        "run",
        "auto",
        &[("auto", Run::Auto), ("daemon", Run::Daemon), ("unit", Run::Unit)],
    );
    let hooks_dir = section.path("hooks_dir", "/etc/marmot/housekeeping.d");
    let retry_first = section.seconds("retry_first_s", 5.0, 1.0..=3600.0);
    let retry_max = section.seconds("retry_max_s", 3600.0, 1.0..=DAY_S);
    if retry_first > retry_max {
        section.wrong(
            "retry_first_s",
            "is more than housekeeping.retry_max_s",
            Some("the wait grows from retry_first_s to retry_max_s".into()),
        );
    }
    let what = "http://host or https://host, with a port and a path if needed";
    let collector: Option<CollectorUrl> = section.optional("collector", what, str::parse);
    let collector_ca_file = section.optional_path("collector_ca_file");
    if collector_ca_file.is_some() && !collector.as_ref().is_some_and(|url| url.tls) {
        section.wrong(
            "collector_ca_file",
            "has no effect without an https address in housekeeping.collector",
            None,
        );
    }
    Some(Housekeeping {
        run: run?,
        hooks_dir: hooks_dir?,
        hook_timeout: section.seconds("hook_timeout_s", 60.0, 1.0..=3600.0),
        hook_output_bytes: section.integer("hook_output_bytes", 4096, 256..=65_536) as usize,
        attempts: section.integer("attempts", 12, 1..=1000),
        retry_first,
        retry_max,
        give_up_after: section.seconds("give_up_after_s", 7.0 * DAY_S, 60.0..=365.0 * DAY_S),
        keep_done: section.integer("keep_done", 100, 1..=MOST_KEPT) as usize,
        keep_failed: section.integer("keep_failed", 100, 1..=MOST_KEPT) as usize,
        keep_history: section.integer("keep_history", 1000, 0..=MOST_KEPT) as usize,
        keep: Duration::from_secs(u64::from(section.integer("keep_days", 90, 1..=3650)) * DAY_S as u64),
        collector,
        collector_ca_file,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_to_itself_the_daemon_steps_back_for_a_service_manager() {
        assert!(Run::Auto.in_daemon(false) && !Run::Auto.in_daemon(true));
        assert!(Run::Daemon.in_daemon(true) && !Run::Unit.in_daemon(false));
    }
}
