//! The three clocks. Never run on this system yet.

use now::{Awake, Boot, Now, Wall};

use crate::unix::clock::read;

pub(crate) use crate::coarse::Ticker;

/// Reads the three clocks. `CLOCK_UPTIME_RAW` is `mach_absolute_time` and stands still while the host sleeps;
/// `CLOCK_MONOTONIC_RAW` is `mach_continuous_time`: the same counter, running through sleep (clock_gettime(3) of macOS).
/// `CLOCK_MONOTONIC` runs through sleep too, but counts whole microseconds, and so could be behind `CLOCK_UPTIME_RAW`.
pub fn now() -> Now {
    Now {
        awake: Awake::from_origin(read(libc::CLOCK_UPTIME_RAW)),
        boot: Boot::from_origin(read(libc::CLOCK_MONOTONIC_RAW)),
        wall: Wall::from_origin(read(libc::CLOCK_REALTIME)),
    }
}

/// Not known on this system: empty.
pub fn boot_id() -> String {
    String::new()
}
