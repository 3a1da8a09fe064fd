//! The three clocks. Never run on this system yet.

use now::{Awake, Boot, Now, Wall};

use crate::unix::clock::read;

/// Reads the three clocks. `CLOCK_UPTIME_RAW` stands still while the host sleeps, `CLOCK_MONOTONIC` does not (clock_gettime(3)
/// of macOS).
pub fn now() -> Now {
    Now {
        awake: Awake::from_origin(read(libc::CLOCK_UPTIME_RAW)),
        boot: Boot::from_origin(read(libc::CLOCK_MONOTONIC)),
        wall: Wall::from_origin(read(libc::CLOCK_REALTIME)),
    }
}

/// Not known on this system: empty.
pub fn boot_id() -> String {
    String::new()
}
