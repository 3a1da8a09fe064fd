//! What sessions leave, worked off: by the client in the background, or by `marmot housekeep` in a process of its own.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use config::client::ClientConfig;
use housekeeping::{Collector, Office, Outcome, UPLOAD_TIMEOUT, Worker, collector_tls, work_off_alone};
use ledger::{OpenRecord, Token};
use session::client::Identity;
use wire::Secret;
use wire::offer::{Logout, MarmotSession};

use crate::ClientError;
use crate::books::{FolderLedger, limits, open_ledger};
use crate::caller::Caller;
use crate::gate::Gate;
use crate::gateway_names;
use crate::setup::Setup;

/// When work is looked at again that another worker has in hand: a hook of a worker before may need as long to end.
pub(crate) const LOCKED: Duration = Duration::from_secs(3);

/// When work is looked at again that the disk did not let us do.
pub(crate) const AGAIN: Duration = Duration::from_secs(60);

/// The longest wait for a job's time: the wall clock that it is in may be set.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// What of housekeeping needs a way to the gateway.
pub(crate) struct ClientOffice {
    setup: Arc<Setup>,
    mark: Option<u32>,
    gate: Gate,
}

impl ClientOffice {
    /// For the gateway of `setup`. With a mark, past the tunnel, and through the gate of a lockdown.
    pub(crate) fn new(setup: Arc<Setup>, mark: Option<u32>, gate: Gate) -> Self {
        Self { setup, mark, gate }
    }
}

impl Office for ClientOffice {
    async fn logout(&self, record: &OpenRecord, token: &Token) -> Result<(), String> {
        let facts = &record.facts;
        let (Some(id), Some(epoch)) = (facts.session.clone(), facts.epoch) else {
            return Ok(());
        };
        let host = self.setup.config.gateway.url.authority();
        if facts.gateway != host {
            return Err(format!(
                "the session is one of {}, and the configuration names {host} now",
                facts.gateway
            ));
        }
        let logout = Logout {
            session: MarmotSession { id, epoch },
            token: Secret::from(token.reveal()),
        };
        let Identity { user_agent, .. } = &self.setup.identity;
        let known = if self.gate.is_closed() {
            gateway_names::remembered(&self.setup.config).await
        } else {
            Vec::new()
        };
        let dialled = Arc::new(AtomicU32::new(0));
        let mut caller = Caller::new(Arc::clone(&self.setup), self.mark, known, dialled).through(self.gate.clone());
        let response = caller.ask(&logout.encode(&host, user_agent)).await;
        judge(response.map_err(|error| error.to_string())?.head.status)
    }
}

/// What the gateway's answer to a logout means.
fn judge(status: u16) -> Result<(), String> {
    match status {
        200..=299 => Ok(()),
        // The token is no (more) that of this epoch: there is nothing left that is ours to end, and to try again would count
        // as a failed login of this address.
        403 => Ok(()),
        status => Err(format!("the gateway answered {status}")),
    }
}

/// A worker as the configuration has it, with no worker's lock taken yet.
///
/// # Errors
/// The collector's authorities cannot be used.
pub(crate) fn worker(
    setup: Arc<Setup>,
    (mark, gate): (Option<u32>, Gate),
    ledger: Arc<FolderLedger>,
) -> Result<Worker<ClientOffice>, ClientError> {
    let config = &setup.config.housekeeping;
    let settings = housekeeping::Settings {
        hooks_dir: config.hooks_dir.clone(),
        hook_timeout: config.hook_timeout,
        hook_output: config.hook_output_bytes,
        collector: collector(config)?,
    };
    Ok(Worker::new(ledger, settings, ClientOffice::new(setup, mark, gate)))
}

fn collector(config: &config::Housekeeping) -> Result<Option<Collector>, ClientError> {
    let Some(url) = &config.collector else { return Ok(None) };
    let tls = if url.tls {
        let authorities = match &config.collector_ca_file {
            None => None,
            Some(path) => Some(fs::read(path).map_err(|source| ClientError::Unreadable {
                what: "housekeeping.collector_ca_file",
                path: path.clone(),
                source,
            })?),
        };
        let tls = collector_tls(authorities.as_deref());
        Some(tls.map_err(|error| ClientError::Local(error.to_string()))?)
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

/// Works off what the sessions of a tunnel left, whether or not the tunnel runs, and returns what became of it; see
/// [`work_off_alone`]. Blocks.
///
/// # Errors
/// The ledger, the trust in the gateway or the collector's authorities cannot be used. That jobs fail is no error.
pub fn housekeep(config: &ClientConfig, wait: bool) -> Result<Outcome, ClientError> {
    let tunnel = &config.tunnel;
    let ledger = open_ledger(&tunnel.state_dir.join(&tunnel.name), limits(&config.housekeeping));
    let ledger = Arc::new(ledger.map_err(|trouble| ClientError::Local(trouble.to_string()))?);
    let setup = Arc::new(Setup::without_secrets(config.clone())?);
    let worker = worker(setup, (None, Gate::default()), ledger)?;
    work_off_alone(&worker, wait).map_err(|error| ClientError::Local(format!("cannot start to work: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logout_is_tried_again_only_if_there_may_be_a_session_of_ours_to_end() {
        assert_eq!(judge(204), Ok(()));
        assert_eq!(judge(403), Ok(()), "not our session any more");
        for status in [404, 429, 500, 503] {
            assert_eq!(judge(status), Err(format!("the gateway answered {status}")));
        }
    }
}
