//! How likely what goes wrong is, in one schedule and at one time of it.

use crate::chance::Chance;

/// Odds are "once in so many"; 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// A process or the host dies at a call of the disk.
    pub(crate) crashes: u64,
    /// A call of the disk fails.
    pub(crate) disk_errors: u64,
    /// Others run before a call of the disk.
    pub(crate) stalls: u64,
    /// No call of the disk returns.
    pub(crate) stuck: bool,
    /// The disk is full.
    pub(crate) full: bool,
    /// A step of restoring the host fails.
    pub(crate) host_errors: u64,
    /// Restoring the host takes long.
    pub(crate) slow_host: bool,
    /// An attempt to connect fails.
    pub(crate) gateway_errors: u64,
    /// A chore fails.
    pub(crate) chore_errors: u64,
}

impl Weather {
    /// The weather of a schedule.
    pub(crate) fn draw(chance: &Chance) -> Self {
        Self {
            crashes: chance.pick(&[0, 0, 150, 150, 40]),
            disk_errors: chance.pick(&[0, 0, 0, 60, 12]),
            stalls: chance.pick(&[0, 40, 12]),
            stuck: false,
            full: false,
            host_errors: chance.pick(&[0, 0, 8]),
            slow_host: chance.once_in(4),
            gateway_errors: chance.pick(&[0, 8, 3]),
            chore_errors: chance.pick(&[0, 6, 2]),
        }
    }
}
