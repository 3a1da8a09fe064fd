//! The three clocks. Linux has had all of them since 2.6.39.

use now::{Awake, Boot, Now, Wall};

use crate::unix::clock::read;

/// Reads the three clocks.
pub fn now() -> Now {
    Now {
        awake: Awake::from_origin(read(libc::CLOCK_MONOTONIC)),
        boot: Boot::from_origin(read(libc::CLOCK_BOOTTIME)),
        wall: Wall::from_origin(read(libc::CLOCK_REALTIME)),
    }
}
