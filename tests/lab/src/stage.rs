//! What a program starts with that measures and is no test: the same namespaces, without a harness.

use anyhow::{Result, anyhow};

use crate::{Lab, harness};

/// Leaves the host and hands over a lab whose client and gateway are joined by a cable. To be called first thing in `main`, and once.
///
/// # Errors
/// If a program of `needs` or something of the kernel is missing, or what `show` says.
pub fn stage<T>(name: &str, needs: &[&str], show: impl FnOnce(&Lab) -> Result<T>) -> Result<T> {
    if let Some(obstacle) = harness::obstacle(needs) {
        return Err(anyhow!(obstacle));
    }
    show(&Lab::direct(name)?)
}
