//! The first thing a client does: it looks for what a process that ended without a stop left, restores the host, and makes
//! due jobs of the sessions.

use std::time::Duration;

use ledger::{End, OpenRecord};
use tokio::time::timeout;
use tracing::{error, warn};

use crate::books::Books;
use crate::clock;
use crate::host::{Host, report_cleared};

/// A disk that has not answered by then is left behind: the daemon has to answer its administrator. A start is refused
/// until the disk can take its record.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// The word for sessions that nobody ended.
const CRASH: &str = "crash";

/// The records of sessions that nobody closed, as far as the disk says.
pub(crate) async fn leftovers(books: &Books) -> Vec<OpenRecord> {
    match timeout(DISK_PATIENCE, books.ask(|ledger| ledger.opens())).await {
        Ok(Ok((records, damaged))) => {
            for file in damaged {
                error!(
                    file = %file.name,
                    kept_as = file.kept_as.as_ref().map(ToString::to_string),
                    "a record cannot be read: {}", file.why
                );
            }
            records
        }
        Ok(Err(trouble)) => {
            error!("the ledger in {} cannot be used: {trouble}", books.root().display());
            Vec::new()
        }
        Err(_) => {
            error!("the disk with {} does not answer", books.root().display());
            Vec::new()
        }
    }
}

/// Restores the host, and then closes `records`.
pub(crate) async fn recover(books: &Books, host: &Host, records: Vec<OpenRecord>) {
    let undo: Vec<_> = records.iter().filter_map(|record| record.undo.clone()).collect();
    report_cleared(&host.clear(&undo).await);
    let now = clock::now();
    let closing: Vec<_> = records
        .into_iter()
        .map(|mut record| {
            warn!(job = %record.id, "the session of an earlier run ended without a stop");
            record.undo = None;
            books.close(record, End::new(clock::stamp(now), CRASH))
        })
        .collect();
    for closed in closing {
        // One that the disk does not take is found again by the next start.
        let _ = timeout(DISK_PATIENCE, closed).await;
    }
}

/// What the user wanted last, as far as the disk says.
pub(crate) async fn wanted(books: &Books) -> Option<bool> {
    match timeout(DISK_PATIENCE, books.desired()).await {
        Ok(Ok(wanted)) => wanted,
        Ok(Err(trouble)) => {
            error!("nobody knows whether the tunnel is wanted: {trouble}");
            None
        }
        Err(_) => None,
    }
}
