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

/// The number of this run of the kernel: another one means that the host was started anew. Empty if it cannot be read.
pub fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}
