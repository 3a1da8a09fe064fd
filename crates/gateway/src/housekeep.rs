//! Who works off what sessions leave: the gateway in the background, or `marmot housekeep` in a process of its own.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use config::gateway::GatewayConfig;
use housekeeping::{Collector, Ended, NoOffice, Outcome, UPLOAD_TIMEOUT, Worker, collector_tls, work_off_alone};
use tokio::sync::{Notify, watch};
use tracing::info;

use crate::GatewayError;
use crate::accounts::{self, FolderLedger};

/// When work is looked at again that another worker has in hand, or that the disk did not let us do.
const AGAIN: Duration = Duration::from_secs(60);

/// The longest wait for a job's time: the wall clock that it is in may be set.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Works off what the sessions of a gateway left, whether or not the gateway runs, and returns what became of it; see
/// [`work_off_alone`]. Blocks.
///
/// # Errors
/// The ledger or the collector's authorities cannot be used, or the runtime cannot be set up. That jobs fail is no error.
pub fn housekeep(config: &GatewayConfig, wait: bool) -> Result<Outcome, GatewayError> {
    let Some(ledger) = accounts::ledger(config)? else {
        info!("nothing is kept of sessions: `storage.state_dir` is empty");
        return Ok(Outcome::new(Ended::NothingDue));
    };
    let worker = worker(config, ledger)?;
    work_off_alone(&worker, wait).map_err(|source| GatewayError::Io {
        what: "start to work off what is owed",
        source,
    })
}

/// A worker as the configuration has it.
///
/// # Errors
/// The collector's authorities cannot be used.
pub(crate) fn worker(config: &GatewayConfig, ledger: Arc<FolderLedger>) -> Result<Worker<NoOffice>, GatewayError> {
    let settings = housekeeping::Settings {
        hooks_dir: config.housekeeping.hooks_dir.clone(),
        hook_timeout: config.housekeeping.hook_timeout,
        hook_output: config.housekeeping.hook_output_bytes,
        collector: collector(&config.housekeeping)?,
    };
    Ok(Worker::new(ledger, settings, NoOffice))
}

fn collector(config: &config::Housekeeping) -> Result<Option<Collector>, GatewayError> {
    let Some(url) = &config.collector else { return Ok(None) };
    let tls = if url.tls {
        let authorities = match &config.collector_ca_file {
            None => None,
            Some(path) => Some(fs::read(path).map_err(|source| GatewayError::Unreadable {
                what: "the collector's authorities",
                path: path.clone(),
                source,
            })?),
        };
        Some(collector_tls(authorities.as_deref())?)
    } else {
        None
    };
    Ok(Some(Collector {
        host: url.host.to_string(),
        port: url.port,
        authority: url.authority(),
        path: url.path.clone(),
        tls,
        timeout: UPLOAD_TIMEOUT,
    }))
}

/// Works in the background until `stop`: at once, at each new job, and when a waiting job's time comes.
pub(crate) async fn keep_house(worker: Worker<NoOffice>, due: Arc<Notify>, stop: watch::Receiver<bool>) {
    loop {
        let outcome = worker.work_off(stop.clone()).await;
        let wait = match outcome.ended {
            Ended::Stopped => return,
            Ended::Busy | Ended::Disk(_) => AGAIN,
            Ended::NothingDue => outcome.next.map_or(LONGEST_WAIT, |next| {
                next.since(platform::clock::now().wall).min(LONGEST_WAIT)
            }),
        };
        tokio::select! {
            () = due.notified() => {}
            () = tokio::time::sleep(wait) => {}
            () = stopped(&stop) => return,
        }
    }
}

async fn stopped(stop: &watch::Receiver<bool>) {
    // An error means that whoever could say stop is gone.
    let _ = stop.clone().wait_for(|stop| *stop).await;
}
