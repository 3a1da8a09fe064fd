//! When the lockdown closes and opens: with the orders of this client, and by hand.

use std::sync::Arc;

use config::LockdownMode;
use config::client::{ClientConfig, Start};
use platform::PlatformError;

use tokio::sync::watch;

use crate::ClientError;
use crate::cleanup::block_on;
use crate::gate::{self, policy, report};
use crate::host::Host;
use crate::shell::{Done, Shell};

/// What became of the order to put a lockdown in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockdownReport {
    /// It is in place.
    On,
    /// The configuration wants none that lasts beyond the client.
    NotAlways,
    /// The client runs, and has it in its own hands.
    Running,
}

/// Whether the client will bring its tunnel up by itself: `left` by a process before, or as configured and wanted.
pub(crate) fn is_coming(config: &ClientConfig, wanted: Option<bool>, left: bool) -> bool {
    match config.tunnel.start {
        Start::Up => true,
        Start::Last => wanted.unwrap_or(true),
        Start::Down => left && wanted != Some(false),
    }
}

/// Puts the lockdown in place that lasts, without a client and before there is a network. Blocks; brings its own runtime.
///
/// # Errors
/// [`ClientError::Unprotected`]; or this host does not let us.
pub fn lock(config: &ClientConfig) -> Result<LockdownReport, ClientError> {
    if config.lockdown.mode != LockdownMode::Always {
        return Ok(LockdownReport::NotAlways);
    }
    block_on(async {
        let host = match Host::open(config, watch::Sender::default()).await {
            Err(ClientError::Platform(PlatformError::TunnelRunning { .. })) => return Ok(LockdownReport::Running),
            opened => opened?,
        };
        let rest = host.gate().take_over(config, (true, false)).await?;
        report(&rest);
        Ok(LockdownReport::On)
    })
}

/// Removes the lockdowns of a tunnel, whoever runs it, and says which. A client that runs puts its own back at its next connection, if
/// its configuration says so. Blocks; brings its own runtime.
///
/// # Errors
/// One cannot be removed.
pub fn unlock(config: &ClientConfig) -> Result<Vec<String>, ClientError> {
    block_on(async {
        let removed = gate::unlock(&config.tunnel.name).await;
        match removed.residue() {
            [] => Ok(removed.removed().to_vec()),
            residue => Err(ClientError::Local(format!(
                "cannot remove the lockdown: {}",
                residue.join("; ")
            ))),
        }
    })
}

impl Shell {
    /// The tunnel is wanted: from now on nothing leaves beside it. An attempt waits for that.
    pub(crate) fn lock(&mut self) {
        let gate = self.host.gate();
        gate.want(true);
        if policy(&self.setup.config).is_none() {
            return;
        }
        let setup = Arc::clone(&self.setup);
        self.background.spawn(async move {
            // The attempt that follows fails for the same reason, and says so.
            let _ = gate.close(&setup.config).await;
            Done::Noted
        });
    }

    /// Whether the release that begins now lifts the lockdown, as far as its policy allows: only if somebody asked for the stop.
    /// A tunnel that comes down by itself leaves it, for it may be what somebody wants who attacks it.
    pub(crate) fn lifts(&mut self) -> bool {
        let lifts = std::mem::take(&mut self.lift);
        if lifts {
            self.host.gate().want(false);
        }
        lifts
    }

    /// A stop that found no tunnel to release finds the lockdown of one that came down by itself.
    pub(crate) fn lift_what_is_left(&mut self) {
        if !self.lifts() {
            return;
        }
        let gate = self.host.gate();
        self.background.spawn(async move {
            if gate.ends_with_a_stop().await
                && let Some(lifted) = gate.lift().await
            {
                report(&lifted);
            }
            Done::Noted
        });
    }

    /// A configuration that was read again counts for the lockdown at once.
    pub(crate) fn lockdown_changed(&mut self) {
        let (gate, setup) = (self.host.gate(), Arc::clone(&self.setup));
        self.background.spawn(async move {
            // It has said so itself, and the status does.
            let _ = gate.close(&setup.config).await;
            Done::Noted
        });
    }
}
