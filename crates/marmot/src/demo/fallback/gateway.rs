//! The gateway of the fallback: the real one, with a LAN in memory behind it.

use std::path::Path;

use ::gateway::{Device, Gateway, MemoryDevice};
use anyhow::Result;

use super::{QUEUE, lan, listen, play_on_runtime, told, told_to_stop};
use crate::{load, logging};

/// Runs it until SIGTERM or the end of standard input.
pub(crate) fn play(config: &Path) -> Result<()> {
    let config = load::gateway(config).map_err(told)?;
    logging::start(config.log).map_err(told)?;
    play_on_runtime(async {
        let mut commands = listen()?;
        let stop = async {
            tokio::select! {
                () = told_to_stop() => {}
                // There are no commands for the gateway, only their end.
                () = async { while commands.recv().await.is_some() {} } => {}
            }
        };
        let (near, far) = MemoryDevice::pair(QUEUE);
        let gateway = Gateway::open(config, None, Device::Memory(near))?;
        tokio::select! {
            served = gateway.serve(stop) => Ok(served?),
            lan = lan::serve(far.into_parts()) => lan.map(|never| match never {}),
        }
    })
}
