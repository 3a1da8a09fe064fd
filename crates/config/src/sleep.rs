//! `[sleep]` of the client and `[park]` of the gateway: what a session does while its client does not run.

use std::time::Duration;

use crate::document::Document;

/// `[sleep]`: what the client does when its host sleeps and wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sleep {
    /// End the session before each sleep that the host announces, and make a new one at the next full wake.
    pub disconnect_on_sleep: bool,
    /// What becomes of packets that want into the tunnel during a maintenance wake.
    pub maintenance_traffic: MaintenanceTraffic,
    /// Where words of sleep come from.
    pub power_source: PowerSource,
    /// How long a wake that nobody explains must last until it counts as a full one. 1 s to 10 min; default 20 s.
    pub unknown_wake: Duration,
    /// How long a maintenance wake must last until it counts as a full one. 10 s to 1 h; default 2 min.
    pub maintenance_limit: Duration,
    /// Packets that waited longer than this while the client did not run are dropped. 0.5 s to 60 s; default 2 s.
    pub stale: Duration,
}

/// What becomes of packets that want into the tunnel during a maintenance wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaintenanceTraffic {
    /// They go out with the keys that are there. Nothing is connected for them.
    Pass,
    /// They wait in the device's queue, until the wake is a full one.
    Hold,
    /// They are dropped and counted.
    Drop,
}

/// Where words of sleep come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerSource {
    /// The operating system, where it has such words (logind on Linux). Missing is normal.
    Auto,
    /// Nobody: the clocks alone.
    Off,
}

/// `[park]`: what the gateway keeps for clients that sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Park {
    /// How long session, addresses and keys are kept for a client that is silent. 1 min to 30 d; default 8 h. `None` (0)
    /// grants no parking.
    pub ttl: Option<Duration>,
    /// Silence of a client's applications after which it is no longer counted as active. 5 s to 1 h; default 60 s.
    pub quiet: Duration,
    /// Parked sessions of one user; one more, and the user's oldest gives way. 1 to 65536; default 2.
    pub per_user: u32,
}

const DAY_S: f64 = 86_400.0;

/// Reads `[sleep]`.
pub(crate) fn sleep(document: &Document<'_>) -> Option<Sleep> {
    let section = document.section("sleep");
    let disconnect_on_sleep = section.boolean("disconnect_on_sleep", false);
    let traffic = [
        ("pass", MaintenanceTraffic::Pass),
        ("hold", MaintenanceTraffic::Hold),
        ("drop", MaintenanceTraffic::Drop),
    ];
    let maintenance_traffic = section.choice("maintenance_traffic", "pass", &traffic);
    let sources = [("auto", PowerSource::Auto), ("off", PowerSource::Off)];
    let power_source = section.choice("power_source", "auto", &sources);
    let unknown_wake = section.seconds("unknown_wake_s", 20.0, 1.0..=600.0);
    let maintenance_limit = section.seconds("maintenance_limit_s", 120.0, 10.0..=3600.0);
    let stale = section.seconds("stale_s", 2.0, 0.5..=60.0);
    Some(Sleep {
        disconnect_on_sleep,
        maintenance_traffic: maintenance_traffic?,
        power_source: power_source?,
        unknown_wake,
        maintenance_limit,
        stale,
    })
}

/// Reads `[park]`.
pub(crate) fn park(document: &Document<'_>) -> Park {
    let section = document.section("park");
    Park {
        ttl: section.default_seconds_or_zero("ttl_s", 28_800.0, 60.0..=30.0 * DAY_S),
        quiet: section.seconds("quiet_s", 60.0, 5.0..=3600.0),
        per_user: section.integer("per_user", 2, 1..=65_536),
    }
}
