//! Counters of dropped packets that several workers share. Nothing is counted on the way of a packet that arrives.

use std::sync::atomic::{AtomicU64, Ordering};

use packet::{DropCounters, DropReason};

/// One counter for each [`DropReason`].
#[derive(Debug)]
pub(crate) struct Losses([AtomicU64; DropReason::ALL.len()]);

impl Default for Losses {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Losses {
    /// Counts packets.
    pub(crate) fn count(&self, reason: DropReason, packets: u64) {
        self.0[reason as usize].fetch_add(packets, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub(crate) fn read(&self) -> DropCounters {
        let mut counters = DropCounters::default();
        for (reason, count) in DropReason::ALL.iter().zip(&self.0) {
            counters.count_many(*reason, count.load(Ordering::Relaxed));
        }
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn what_several_threads_count_adds_up() {
        let losses = Arc::new(Losses::default());
        let threads = (0..4).map(|_| {
            let losses = Arc::clone(&losses);
            std::thread::spawn(move || (0..100).for_each(|_| losses.count(DropReason::QueueFull, 2)))
        });
        for thread in threads.collect::<Vec<_>>() {
            thread.join().expect("counted");
        }
        losses.count(DropReason::NoRoute, 1);
        assert_eq!(losses.read().to_string(), "no_route=1 queue_full=800");
    }
}
