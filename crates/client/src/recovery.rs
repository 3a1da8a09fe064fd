//! The first thing a client does: it looks for what a process that ended without a stop left, restores the host, and makes
//! due jobs of the sessions. What the service manager kept goes on instead, untouched.

use std::time::Duration;

use config::client::ClientConfig;
use ledger::{End, OpenRecord};
use tokio::time::timeout;
use tracing::{error, warn};

use crate::ClientError;
use crate::account::is_bare;
use crate::books::{Books, Trouble, running};
use crate::clock;
use crate::host::{Host, report_cleared};
use crate::store::{RestartTicket, Taken};

/// A disk that has not answered by then is left behind: the daemon has to answer its administrator. A start is refused
/// until the disk can take its record.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// The word for sessions that nobody ended.
const CRASH: &str = "crash";

/// The records of sessions that nobody closed, as far as the disk says.
///
/// # Errors
/// Another process runs the tunnel, wherever it is.
pub(crate) async fn leftovers(books: &Books, tunnel: &str) -> Result<Vec<OpenRecord>, ClientError> {
    let records = match timeout(DISK_PATIENCE, books.ask(|ledger| ledger.opens())).await {
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
        Ok(Err(Trouble::Kept { pid })) => return Err(running(tunnel, pid)),
        Ok(Err(trouble)) => {
            error!("the ledger in {} cannot be used: {trouble}", books.root().display());
            Vec::new()
        }
        Err(_) => {
            error!("the disk with {} does not answer", books.root().display());
            Vec::new()
        }
    };
    Ok(records)
}

/// Whether the session that the process before left was closed all the same: that process died between the job and the
/// removal of the record. Such a session does not go on, for a worker would take its record for a copy and remove it.
pub(crate) async fn is_closed(books: &Books, taken: &Taken) -> bool {
    let Some(id) = taken.ticket.as_ref().map(|ticket| ticket.job) else {
        return false;
    };
    match timeout(DISK_PATIENCE, books.ask(move |ledger| ledger.is_closed(id))).await {
        Ok(Ok(closed)) => closed,
        Ok(Err(trouble)) => {
            warn!("nobody knows whether the session of the process before is over: {trouble}");
            true
        }
        Err(_) => true,
    }
}

/// What of the process before can go on: its record, if device, ticket and host are still what that says. It is taken out of
/// `records`.
pub(crate) fn resume(
    host: &mut Host,
    config: &ClientConfig,
    taken: &mut Taken,
    records: &mut Vec<OpenRecord>,
) -> Option<(OpenRecord, RestartTicket)> {
    let (tun, ticket) = (taken.tun.take()?, taken.ticket.take()?);
    if !ticket.is_for(config) {
        warn!("the session of the process before is one of another gateway or user");
        return None;
    }
    let at = records.iter().position(|record| record.id == ticket.job)?;
    let undo = records.get(at)?.undo.clone()?;
    match host.adopt(tun, &undo) {
        Ok(()) => Some((records.remove(at), ticket)),
        Err(error) => {
            warn!("the tunnel of the process before cannot go on: {error}");
            None
        }
    }
}

/// Restores the host after what `records` say.
pub(crate) async fn restore(host: &Host, records: &[OpenRecord]) {
    let undo: Vec<_> = records.iter().filter_map(|record| record.undo.clone()).collect();
    report_cleared(&host.clear(&undo).await);
}

/// Closes the `records` of sessions that nobody ended. The host is clean.
pub(crate) async fn close(books: &Books, records: Vec<OpenRecord>) {
    let now = clock::now();
    // An armed tunnel has no session, and owes nothing.
    let (bare, records): (Vec<_>, Vec<_>) = records.into_iter().partition(is_bare);
    for record in bare {
        warn!(job = %record.id, "an earlier run ended without a stop while it waited for traffic");
        let _ = timeout(DISK_PATIENCE, books.withdraw(record.id)).await;
    }
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
