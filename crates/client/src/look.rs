//! What the ledger of a tunnel holds, read without its daemon: for `marmot history` and `marmot housekeep --list`.

use config::client::ClientConfig;

use crate::ClientError;
use crate::books::{FolderLedger, limits, open_ledger};
use crate::daemon;

/// What is owed; as the daemon would answer.
///
/// # Errors
/// The ledger cannot be read; only its owner and root can.
pub fn owed(config: &ClientConfig) -> Result<api::Housekeeping, ClientError> {
    let Some(ledger) = ledger(config)? else {
        return Ok(api::Housekeeping::default());
    };
    let summary = ledger.summary();
    Ok(daemon::housekeeping(&summary.map_err(unreadable)?))
}

/// The last sessions that are over, at most `last`, the oldest first; as the daemon would answer.
///
/// # Errors
/// As for [`owed`].
pub fn history(config: &ClientConfig, last: usize) -> Result<api::History, ClientError> {
    let Some(ledger) = ledger(config)? else {
        return Ok(api::History::default());
    };
    let history = ledger.history(last).map_err(unreadable)?;
    Ok(api::History {
        sessions: history.entries.iter().rev().map(daemon::session).collect(),
    })
}

/// The ledger, if there ever was one: to look at it makes none.
fn ledger(config: &ClientConfig) -> Result<Option<FolderLedger>, ClientError> {
    let root = config.tunnel.state_dir.join(&config.tunnel.name);
    match root.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Ok(_) | Err(_) => open_ledger(&root, limits(&config.housekeeping))
            .map(Some)
            .map_err(unreadable),
    }
}

fn unreadable(error: impl std::fmt::Display) -> ClientError {
    ClientError::Local(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Account;
    use crate::clock;
    use crate::testing::{Pki, client_config};
    use ledger::{End, HistoryEntry};

    #[test]
    fn what_was_written_can_be_read_without_a_daemon_and_looking_makes_nothing() {
        let pki = Pki::new("vpn.test");
        let config = client_config(&pki, "");
        assert_eq!(owed(&config).expect("nothing"), api::Housekeeping::default());
        assert!(history(&config, 10).expect("nothing").sessions.is_empty());
        let root = config.tunnel.state_dir.join(&config.tunnel.name);
        assert!(!root.exists());

        let record = Account::begin(&config, lifecycle::Generation::FIRST, clock::now()).record;
        let books = open_ledger(&root, limits(&config.housekeeping)).expect("a ledger");
        let mut entry = HistoryEntry::from(&record);
        entry.facts.end = Some(End::new(clock::stamp(clock::now()), "user_stop"));
        books.history_write(&entry).expect("written");
        books
            .close(record, End::new(clock::stamp(clock::now()), "user_stop"))
            .expect("written");
        assert_eq!(owed(&config).expect("readable").counts.due, 1);
        let sessions = history(&config, 10).expect("readable").sessions;
        assert_eq!(sessions[0].end_reason.as_deref(), Some("user_stop"));
    }
}
