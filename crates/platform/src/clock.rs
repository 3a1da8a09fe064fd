//! The three clocks of the host in one reading.

pub use crate::os::clock::{boot_id, now};

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
}
