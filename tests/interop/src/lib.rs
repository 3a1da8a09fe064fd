//! Stories that several test programs tell: traffic through a tunnel, and what must hold around it.

use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Lab, PATIENCE, Ping, SitePlan, transfer};
use platform::netns::Namespace;

/// How much a bulk transfer moves each way.
pub const BULK: u64 = 100_000_000;

/// Pings the host in the LAN over IPv4 and IPv6.
///
/// # Errors
/// If one does not answer.
pub fn ping_both(client: &Namespace, plan: SitePlan) -> Result<()> {
    Ping::new(client, plan.host_v4())
        .answered(PATIENCE)
        .context("through the tunnel")?;
    Ping::new(client, plan.host_v6())
        .answered(PATIENCE)
        .context("through the tunnel")?;
    Ok(())
}

/// Moves [`BULK`] bytes each way over IPv4 and notes how fast.
///
/// # Errors
/// If it breaks or a hash differs.
pub fn bulk(lab: &Lab, client: &Namespace, plan: SitePlan) -> Result<()> {
    let rates = transfer(client, plan.host_v4(), BULK)?;
    lab.note(&format!("{} MB each way: {rates}", BULK / 1_000_000));
    Ok(())
}

/// Makes sure that the LAN is out of reach.
///
/// # Errors
/// If it answers.
pub fn no_way(client: &Namespace, plan: SitePlan) -> Result<()> {
    Ping::new(client, plan.host_v4()).unanswered(Duration::from_millis(50))
}
