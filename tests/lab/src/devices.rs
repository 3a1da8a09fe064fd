//! Which network devices a host has, looked at from inside and often enough to time when one goes.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use platform::netns::Namespace;

/// Between two looks while a device goes. The kernel takes some 20 ms to remove one; this is fine enough to time it.
const LOOK: Duration = Duration::from_micros(200);

/// Whether a host has a device of this name.
///
/// # Errors
/// If its devices cannot be listed.
pub fn has_device(host: &Namespace, name: &str) -> Result<bool> {
    host.run(|| is_here(name))?
}

/// Waits until a name is free, and says when that was seen. To be called from a thread beside the one that takes it away.
///
/// # Errors
/// If the deadline passes, or the devices cannot be listed.
pub fn name_free(host: &Namespace, name: &str, within: Duration) -> Result<Instant> {
    let began = Instant::now();
    host.run(|| {
        while is_here(name)? {
            if began.elapsed() > within {
                bail!("{name} is still there after {within:?}");
            }
            thread::park_timeout(LOOK);
        }
        Ok(Instant::now())
    })?
}

/// The list of this thread's network, which /sys does not show without a mount of its own.
fn is_here(name: &str) -> Result<bool> {
    let list = fs::read_to_string("/proc/thread-self/net/dev").context("cannot list devices")?;
    Ok(list.lines().any(|line| {
        line.trim_start()
            .split_once(':')
            .is_some_and(|(device, _)| device == name)
    }))
}
