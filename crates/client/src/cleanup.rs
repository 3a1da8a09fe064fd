//! `marmot cleanup`: takes off this host what a killed client left, without starting a tunnel.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use config::client::ClientConfig;
use ledger::{End, JobId, Ledger};
use platform::PlatformError;
use platform::network::Restored;
use tokio::sync::watch;

use crate::ClientError;
use crate::account::is_bare;
use crate::books::{Trouble, limits, lock_keeper, open_ledger, running};
use crate::clock;
use crate::gate;
use crate::host::Host;
use crate::listener::ApiSocket;

/// What a clean-up did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanupReport {
    /// What was removed from this host, in words.
    pub removed: Vec<String>,
    /// What is left on it, one sentence each.
    pub residue: Vec<String>,
    /// What stays because its policy says so, one sentence each.
    pub kept: Vec<String>,
    /// Sessions that nobody had ended; they are due jobs now.
    pub jobs: Vec<JobId>,
    /// What of the ledger could not be read or written, one sentence each.
    pub problems: Vec<String>,
}

impl CleanupReport {
    /// Whether the host is clean and nothing was lost.
    pub fn is_clean(&self) -> bool {
        self.residue.is_empty() && self.problems.is_empty()
    }
}

/// Who cleans up, which decides over a lockdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleaning {
    /// A service that has ended: no lockdown is lifted that nobody has asked to be.
    Automatic,
    /// A person: a lockdown that lasts while the tunnel is up ends with it.
    Asked,
    /// A person who wants the lockdown gone, whatever its policy, and whether or not the tunnel runs.
    Unlock,
}

/// Restores the host from the records of sessions that nobody ended, and from the slot of the tunnel; the sessions become
/// due jobs. Doing it again does nothing. Blocks; brings its own runtime.
///
/// # Errors
/// [`platform::PlatformError::TunnelRunning`] if the tunnel runs; or this host does not let us.
pub fn cleanup(config: &ClientConfig, who: Cleaning) -> Result<CleanupReport, ClientError> {
    block_on(async {
        // Holds the tunnel's name and slot until the end.
        let host = match Host::open(config, watch::Sender::default()).await {
            Err(error) if who == Cleaning::Unlock && is_running(&error) => return unlock_running(config, &error).await,
            opened => opened?,
        };
        match clean(config, &host, who).await {
            Err(error) if who == Cleaning::Unlock && is_running(&error) => unlock_running(config, &error).await,
            cleaned => cleaned,
        }
    })
}

fn is_running(error: &ClientError) -> bool {
    matches!(error, ClientError::Platform(PlatformError::TunnelRunning { .. }))
}

/// Whoever is locked out is let out, whatever the tunnel does.
async fn unlock_running(config: &ClientConfig, error: &ClientError) -> Result<CleanupReport, ClientError> {
    let lifted = gate::unlock(&config.tunnel.name).await;
    Ok(CleanupReport {
        removed: lifted.removed().to_vec(),
        residue: lifted.residue().to_vec(),
        kept: vec![format!(
            "{error}: it stays as it is, and puts its lockdown back at its next connection if its configuration says so"
        )],
        ..CleanupReport::default()
    })
}

/// Runs something on a runtime of its own.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ClientError::Local(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// # Errors
/// The tunnel runs, in another network perhaps: neither host nor ledger are touched.
async fn clean(config: &ClientConfig, host: &Host, who: Cleaning) -> Result<CleanupReport, ClientError> {
    let mut report = CleanupReport::default();
    let tunnel = &config.tunnel;
    let ledger = open_ledger(&tunnel.state_dir.join(&tunnel.name), limits(&config.housekeeping));
    let kept = ledger.and_then(|ledger| Ok((lock_keeper(ledger.disk())?, ledger)));
    let (_keeper, ledger) = match kept {
        Ok((keeper, ledger)) => (Some(keeper), Some(ledger)),
        Err(Trouble::Kept { pid }) => return Err(running(&tunnel.name, pid)),
        Err(trouble) => {
            report.problems.push(trouble.to_string());
            (None, None)
        }
    };
    let records = match ledger.as_ref().map(Ledger::opens) {
        Some(Ok((records, damaged))) => {
            let words = damaged.into_iter().map(|file| format!("{}: {}", file.name, file.why));
            report.problems.extend(words);
            records
        }
        Some(Err(error)) => {
            report.problems.push(error.to_string());
            Vec::new()
        }
        None => Vec::new(),
    };
    let undo: Vec<_> = records.iter().filter_map(|record| record.undo.clone()).collect();
    let mut cleared = host.clear(&undo).await;
    let (lifted, kept) = host.gate().clear(config, who).await;
    cleared.push(lifted);
    report.kept = kept;
    let words = |pick: fn(&Restored) -> &[String]| cleared.iter().flat_map(pick).cloned().collect();
    report.removed = words(Restored::removed);
    report.residue = words(Restored::residue);
    let Some(ledger) = ledger else { return Ok(report) };
    remove_socket(&ApiSocket::path(config), &mut report);
    for mut record in records {
        if is_bare(&record) {
            if let Err(error) = ledger.withdraw(record.id) {
                report.problems.push(error.to_string());
            }
            continue;
        }
        record.undo = None;
        match ledger.close(record, End::new(clock::stamp(clock::now()), "crash")) {
            Ok(receipt) => report.jobs.push(receipt.job()),
            Err(error) => report.problems.push(error.to_string()),
        }
    }
    Ok(report)
}

/// Removes the socket of a process that is gone. The tunnel is ours, so nobody answers there.
fn remove_socket(path: &Path, report: &mut CleanupReport) {
    let is_socket = path.symlink_metadata().is_ok_and(|file| file.file_type().is_socket());
    let is_dead = || matches!(UnixStream::connect(path), Err(error) if error.kind() == ErrorKind::ConnectionRefused);
    if !is_socket || !is_dead() {
        return;
    }
    match fs::remove_file(path) {
        Ok(()) => report.removed.push(format!("socket {}", path.display())),
        Err(error) => report.residue.push(format!("socket {}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Account;
    use crate::testing::{Pki, client_config};

    #[tokio::test]
    async fn sessions_that_nobody_ended_become_jobs_once() {
        let pki = Pki::new("vpn.test");
        let config = client_config(&pki, "");
        let account = Account::begin(&config, lifecycle::Generation::FIRST, clock::now());
        let root = config.tunnel.state_dir.join("marmot");
        let ledger = open_ledger(&root, limits(&config.housekeeping)).expect("a ledger");
        ledger.open(&account.record).expect("written");

        let report = clean(&config, &Host::Memory(None), Cleaning::Asked)
            .await
            .expect("nobody's");
        assert_eq!(report.jobs, [account.record.id]);
        assert!(report.is_clean());
        let again = clean(&config, &Host::Memory(None), Cleaning::Asked)
            .await
            .expect("nobody's");
        assert_eq!(again, CleanupReport::default());
        assert_eq!(ledger.summary().expect("readable").due, 1);
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_process_is_removed_and_nothing_else_of_that_name() {
        let pki = Pki::new("vpn.test");
        let config = client_config(&pki, "");
        let path = ApiSocket::path(&config);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let report = clean(&config, &Host::Memory(None), Cleaning::Asked)
            .await
            .expect("nobody's");
        assert_eq!(report.removed, [format!("socket {}", path.display())]);
        assert!(!path.exists());
        fs::write(&path, "precious").expect("written");
        let report = clean(&config, &Host::Memory(None), Cleaning::Asked)
            .await
            .expect("nobody's");
        assert_eq!(report, CleanupReport::default());
        assert!(path.exists());
    }

    #[tokio::test]
    async fn what_another_process_keeps_is_left_alone() {
        let pki = Pki::new("vpn.test");
        let config = client_config(&pki, "");
        let account = Account::begin(&config, lifecycle::Generation::FIRST, clock::now());
        let root = config.tunnel.state_dir.join("marmot");
        let ledger = open_ledger(&root, limits(&config.housekeeping)).expect("a ledger");
        ledger.open(&account.record).expect("written");
        let keeper = lock_keeper(ledger.disk()).expect("free");

        let error = clean(&config, &Host::Memory(None), Cleaning::Asked)
            .await
            .expect_err("kept")
            .to_string();
        let own = std::process::id();
        assert_eq!(error, format!("tunnel `marmot` is already run by process {own}"));
        assert_eq!(ledger.opens().expect("listed").0.len(), 1);
        drop(keeper);
        let report = clean(&config, &Host::Memory(None), Cleaning::Asked)
            .await
            .expect("nobody's");
        assert_eq!(report.jobs.len(), 1);
    }

    #[tokio::test]
    async fn a_ledger_that_cannot_be_used_is_named_and_the_host_is_cleaned_all_the_same() {
        let pki = Pki::new("vpn.test");
        pki.write("state", "in the way", 0o600);
        let report = clean(&client_config(&pki, ""), &Host::Memory(None), Cleaning::Asked)
            .await
            .expect("nobody's");
        assert_eq!(report.problems.len(), 1);
        assert!(!report.is_clean());
    }
}
