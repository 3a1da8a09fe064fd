//! The three clocks of the host in one reading.

use std::sync::OnceLock;
use std::time::Duration;

use ledger::Stamp;

pub use crate::os::clock::{boot_id, now};

/// This moment, as a ledger writes it down.
pub fn stamp() -> Stamp {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    let ms = |elapsed: Duration| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let now = now();
    Stamp {
        wall_ms: ms(now.wall.since_origin()),
        boot_ms: ms(now.boot.since_origin()),
        boot_id: BOOT_ID.get_or_init(boot_id).clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_do_not_run_backwards_and_boot_is_never_behind_awake() {
        let first = now();
        let second = now();
        assert!(second.awake >= first.awake);
        assert!(second.boot >= first.boot);
        assert!(second.boot.since_origin() >= first.awake.since_origin());
        assert!(second.wall.since_origin().as_secs() > 1_700_000_000);
    }
    #[test]
    fn a_stamp_tells_this_boot_and_this_moment() {
        let (before, stamp) = (now(), stamp());
        assert!(stamp.wall_ms >= 1_700_000_000_000);
        assert!(u128::from(stamp.boot_ms) >= before.boot.since_origin().as_millis());
        assert_eq!(stamp.boot_id, boot_id());
        if cfg!(target_os = "linux") {
            assert_eq!(stamp.boot_id.len(), 36, "{}", stamp.boot_id);
        }
    }
}
