//! The clocks of this host; in tests they can be moved on, as if the process had been stopped.

use std::sync::OnceLock;
use std::time::Duration;

use ledger::Stamp;
use now::Now;

#[cfg(not(test))]
pub(crate) use platform::clock::now;

#[cfg(test)]
pub(crate) use skewed::{freeze, now, sleep};

/// A moment, as the ledger keeps it.
pub(crate) fn stamp(now: Now) -> Stamp {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    Stamp {
        wall_ms: millis(now.wall.since_origin()),
        boot_ms: millis(now.boot.since_origin()),
        boot_id: BOOT_ID.get_or_init(platform::clock::boot_id).clone(),
    }
}

/// Whole milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds with two decimals, as logs and answers show them.
pub(crate) fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}

#[cfg(test)]
mod skewed {
    use std::cell::Cell;
    use std::time::Duration;

    use now::Now;

    thread_local! {
        static FROZEN: Cell<Duration> = const { Cell::new(Duration::ZERO) };
        static ASLEEP: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    pub(crate) fn now() -> Now {
        platform::clock::now().plus(FROZEN.get()).plus_asleep(ASLEEP.get())
    }

    /// The host slept.
    pub(crate) fn sleep(time: Duration) {
        ASLEEP.set(ASLEEP.get() + time);
    }

    /// The clocks went on while nothing on this thread ran.
    pub(crate) fn freeze(time: Duration) {
        FROZEN.set(FROZEN.get() + time);
    }
}
