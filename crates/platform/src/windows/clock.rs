//! The clocks of the standard library. Never run on this system yet.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use now::{Awake, Boot, Now, Wall};

pub(crate) use crate::coarse::Ticker;

/// Reads the clocks. Windows counts sleep in the one clock that the standard library offers, so `awake` runs through sleep
/// here, and a sleep looks like a freeze.
pub fn now() -> Now {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    Now {
        awake: Awake::from_origin(elapsed),
        boot: Boot::from_origin(elapsed),
        wall: Wall::from_origin(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
    }
}

/// Not known on this system: empty.
pub fn boot_id() -> String {
    String::new()
}
