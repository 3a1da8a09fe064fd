//! The gateway of the fallback: the real one, with a LAN in memory behind it.

use std::path::Path;

use ::gateway::{Device, Gateway, MemoryDevice};
use anyhow::{Context, Result};
use platform::signals::{Signal, Signals};

use super::lan;
use crate::exit::Failure;
use crate::{load, logging};

/// Packets that each end of the device may be ahead of the other.
pub(crate) const QUEUE: usize = 1024;

/// Runs it until SIGTERM.
pub(crate) fn play(config: &Path) -> Result<()> {
    let config = load::gateway(config).map_err(told)?;
    logging::start(config.log).map_err(told)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        let stop = until_stopped(Signals::new().context("cannot listen for signals")?);
        let (near, far) = MemoryDevice::pair(QUEUE);
        let gateway = Gateway::open(config, None, Device::Memory(near))?;
        tokio::select! {
            served = gateway.serve(stop) => Ok(served?),
            lan = lan::serve(far.into_parts()) => lan.map(|never| match never {}),
        }
    });
    runtime.shutdown_background();
    outcome
}

/// Waits for a signal that ends a process.
pub(crate) async fn until_stopped(mut signals: Signals) {
    loop {
        match signals.next().await {
            Signal::Terminate | Signal::Interrupt | Signal::Quit => return,
            Signal::TunnelDown | Signal::TunnelUp | Signal::Reload => {}
        }
    }
}

/// A failure of the command line as an error.
pub(crate) fn told(failure: Failure) -> anyhow::Error {
    anyhow::anyhow!("{failure}")
}
