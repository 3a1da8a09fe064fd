//! The demo without namespaces: the real client and gateway over loopback, with packet devices in memory and a host on an IP
//! stack of our own (smoltcp) behind each.
//!
//! ```text
//!   storyteller --commands--> [ host: pings, downloads ]                    [ LAN host: answers pings, serves HTTP ]
//!               <--answers---        | packets in memory                              | packets in memory
//!                             marmot client  ====== TLS over loopback TCP ======  marmot gateway
//!                             one process, which can be frozen                 another process
//! ```

pub(crate) mod client;
mod errand;
pub(crate) mod gateway;
mod host;
mod lan;

use std::future::{Future, pending};
use std::io::BufRead;
use std::thread;

use anyhow::{Context, Result, anyhow};
use platform::signals::{Signal, Signals};
use serde_json::Value;
use tokio::sync::mpsc::{Receiver, channel};

use crate::exit::Failure;

/// Packets that each end of a device may be ahead of the other.
const QUEUE: usize = 1024;

/// Commands that may wait. The storyteller waits for each answer.
const COMMANDS: usize = 8;

/// Runs one of the two processes.
fn play_on_runtime(play: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(play);
    runtime.shutdown_background();
    outcome
}

/// Waits for a signal that ends a process; for ever where there are no signals, and the end of standard input has to do.
async fn told_to_stop() {
    let Ok(mut signals) = Signals::new() else {
        return pending().await;
    };
    loop {
        match signals.next().await {
            Signal::Terminate | Signal::Interrupt | Signal::Quit => return,
            Signal::TunnelDown | Signal::TunnelUp | Signal::Reload => {}
        }
    }
}

/// Reads commands on a thread of its own: standard input cannot be waited for otherwise on every system.
fn listen() -> Result<Receiver<Value>> {
    let (sender, commands) = channel(COMMANDS);
    let read = move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let Ok(command) = serde_json::from_str(&line) else {
                continue;
            };
            if sender.blocking_send(command).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("commands".into())
        .spawn(read)
        .context("cannot start a thread for commands")?;
    Ok(commands)
}

/// A failure of the command line as an error.
fn told(failure: Failure) -> anyhow::Error {
    anyhow!("{failure}")
}
