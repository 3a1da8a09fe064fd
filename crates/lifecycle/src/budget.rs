//! How many TCP connections may be made: stock gateways ban faster clients.

use std::time::Duration;

use now::Awake;

/// TCP connections that may be made at once.
///
/// A stock `ocserv` bans an address at 80 points in 1,200 s and takes one for a connection (measured): 8 at once and 3 a
/// minute stay below that for ever.
pub const DIALS: u32 = 8;

/// One more TCP connection is allowed after this much awake time.
pub const DIAL_INTERVAL: Duration = Duration::from_secs(20);

/// A bucket of [`DIALS`] connections that refills by one every [`DIAL_INTERVAL`] of awake time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DialBudget {
    /// When the bucket will be full again.
    full_at: Awake,
}

impl DialBudget {
    /// A full bucket.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one connection if there is one left.
    pub fn take(&mut self, now: Awake) -> bool {
        let allowed = self.next(now) <= now;
        if allowed {
            self.spend(1, now);
        }
        allowed
    }

    /// Gives back one that was taken and not made.
    pub fn give_back(&mut self) {
        self.full_at = Awake::from_origin(self.full_at.since_origin().saturating_sub(DIAL_INTERVAL));
    }

    /// Takes connections that were made already, down to an empty bucket.
    pub fn spend(&mut self, connections: u32, now: Awake) {
        let full_at = self.full_at.max(now).plus(DIAL_INTERVAL.saturating_mul(connections));
        self.full_at = full_at.min(now.plus(DIAL_INTERVAL * DIALS));
    }

    /// When the next connection may be made; not later than `now` if one may be made at once.
    pub fn next(&self, now: Awake) -> Awake {
        let missing = self.full_at.since(now);
        now.plus(missing.saturating_sub(DIAL_INTERVAL * (DIALS - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Awake {
        Awake::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn eight_at_once_and_then_one_every_twenty_seconds() {
        let mut budget = DialBudget::new();
        assert_eq!((0..20).filter(|_| budget.take(at(1000))).count(), 8);
        assert_eq!(budget.next(at(1000)), at(1020));
        assert!(!budget.take(at(1019)));
        assert!(budget.take(at(1020)));
        assert!(!budget.take(at(1020)));
        assert!(budget.take(at(1040)));
    }

    #[test]
    fn a_rested_budget_is_full_again_and_not_more() {
        let mut budget = DialBudget::new();
        (0..8).for_each(|_| assert!(budget.take(at(0))));
        assert_eq!((0..20).filter(|_| budget.take(at(10_000))).count(), 8);
    }

    #[test]
    fn spending_more_than_there_is_empties_the_bucket_and_no_more() {
        let mut budget = DialBudget::new();
        budget.spend(1_000_000, at(0));
        assert_eq!(budget.next(at(0)), at(20));
    }

    #[test]
    fn what_was_taken_and_not_made_is_given_back() {
        let mut budget = DialBudget::new();
        (0..7).for_each(|_| assert!(budget.take(at(1000))));
        for second in 1000..1100 {
            let before = budget;
            assert!(budget.take(at(second)));
            budget.give_back();
            assert!(budget.next(at(second)) <= before.next(at(second)));
        }
        assert_eq!((0..20).filter(|_| budget.take(at(1100))).count(), 6);
    }

    proptest! {
        #[test]
        fn no_hour_sees_more_than_the_bucket_and_its_refill(steps in proptest::collection::vec(0u64..40, 1..400)) {
            let (mut budget, mut now, mut taken) = (DialBudget::new(), 0u64, 0u64);
            for step in steps {
                now += step;
                taken += u64::from(budget.take(at(now)));
            }
            prop_assert!(taken <= 8 + now / 20);
        }
    }
}
