//! A worker in a process of its own: for `marmot housekeep`, and the unit that calls it.

use std::future::pending;
use std::io;
use std::sync::Arc;

use platform::signals::{Signal, Signals};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::bench::FolderLedger;
use crate::{Ended, Office, Outcome, Worker};

/// Has `worker` do all work that is due. Blocks; brings its own runtime. SIGTERM, SIGINT and SIGQUIT stop it: the job it has
/// is put back. If another worker is at it already, `wait` says whether to wait for that one and look after what it left.
///
/// # Errors
/// The runtime or the signals cannot be set up. That jobs fail is no error.
pub fn work_off_alone<O: Office>(worker: &Worker<O>, wait: bool) -> io::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let signals = Signals::new()?;
        let (stopper, stop) = watch::channel(false);
        let told = async {
            until_told_to_stop(signals).await;
            stopper.send_replace(true);
            pending().await
        };
        tokio::select! {
            outcome = work_off(worker, &stop, wait) => Ok(outcome),
            () = told => unreachable!("it waits for ever"),
        }
    });
    // What hangs on a dead disk must not hold the process.
    runtime.shutdown_background();
    outcome
}

async fn work_off<O: Office>(worker: &Worker<O>, stop: &watch::Receiver<bool>, wait: bool) -> Outcome {
    loop {
        let outcome = worker.work_off(stop.clone()).await;
        if outcome.ended != Ended::Busy || !wait {
            return outcome;
        }
        tokio::select! {
            free = other_is_done(Arc::clone(worker.ledger())) => if !free {
                return outcome;
            },
            () = crate::worker::stopped(stop.clone()) => return Outcome::new(Ended::Stopped),
        }
    }
}

/// Waits for the worker that has the lock.
async fn other_is_done(ledger: Arc<FolderLedger>) -> bool {
    let free = spawn_blocking(move || ledger.disk().lock_worker_waiting().map(drop));
    match free.await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            warn!(%error, "cannot wait for the other worker");
            false
        }
        Err(_) => false,
    }
}

async fn until_told_to_stop(mut signals: Signals) {
    loop {
        match signals.next().await {
            Signal::Terminate | Signal::Interrupt | Signal::Quit => return,
            Signal::Reload | Signal::TunnelDown | Signal::TunnelUp => {}
        }
    }
}
