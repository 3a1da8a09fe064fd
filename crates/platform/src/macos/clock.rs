//! The three clocks. Never run on this system yet.

use std::time::Duration;

use now::{Awake, Boot, Now, Wall};

/// Reads the three clocks. `CLOCK_UPTIME_RAW` stands still while the host sleeps, `CLOCK_MONOTONIC` does not (clock_gettime(3)
/// of macOS).
pub fn now() -> Now {
    Now {
        awake: Awake::from_origin(read(libc::CLOCK_UPTIME_RAW)),
        boot: Boot::from_origin(read(libc::CLOCK_MONOTONIC)),
        wall: Wall::from_origin(read(libc::CLOCK_REALTIME)),
    }
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the duration of the call.
    unsafe { libc::clock_gettime(clock, &mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0).min(999_999_999);
    Duration::new(seconds, nanoseconds)
}
