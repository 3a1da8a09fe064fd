//! The clocks of the kernel, which counts the time of sleep apart from the rest. Never run on this system yet.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use now::{Awake, Boot, Now, Wall};
use windows_sys::Win32::System::WindowsProgramming::{QueryInterruptTimePrecise, QueryUnbiasedInterruptTimePrecise};

pub(crate) use crate::coarse::Ticker;

/// Reads the clocks: time since the start of the system without sleep, with it, and the wall's. The two of the kernel are one
/// counter (interrupt time, "unbiased" without sleep and hibernation), read in this order so that the boot clock is never
/// behind. Since Windows 10, as the standard library.
pub fn now() -> Now {
    let (mut awake, mut boot) = (0, 0);
    // SAFETY: both places are valid for writes during the calls.
    unsafe {
        QueryUnbiasedInterruptTimePrecise(&mut awake);
        QueryInterruptTimePrecise(&mut boot);
    }
    Now {
        awake: Awake::from_origin(of_ticks(awake)),
        boot: Boot::from_origin(of_ticks(boot)),
        wall: Wall::from_origin(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
    }
}

/// A time in units of 100 ns.
fn of_ticks(ticks: u64) -> Duration {
    let rest = u32::try_from(ticks % 10_000_000).unwrap_or_default();
    Duration::new(ticks / 10_000_000, rest * 100)
}

/// Not known on this system: empty.
pub fn boot_id() -> String {
    String::new()
}
