//! Sessions that have ended, for as long as there may be tickets of them.
//!
//! Kept twice: by name, to refuse a ticket, and by time, to forget those that are over without looking at the others.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use now::Boot;

use super::SessionId;

/// Sessions whose tickets are refused although they are authentic. One takes 100 bytes; more than this within the life of a
/// ticket is ten times the sessions of a large gateway. Beyond it those are forgotten whose tickets are over first.
pub const MAX_REVOKED: usize = 65_536;

/// Revocations that are forgotten in one turn: each is a row that a file has to lose, and packets wait meanwhile.
pub const FORGOTTEN_AT_ONCE: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    until: BTreeMap<SessionId, Boot>,
    by_time: BTreeSet<(Boot, SessionId)>,
    /// Pushed out by others; whoever keeps a file has yet to hear of it. One each insertion, and taken at the next turn.
    pushed_out: Vec<SessionId>,
}

impl Revoked {
    /// Refuses the tickets of a session until then.
    pub(super) fn insert(&mut self, id: SessionId, until: Boot) {
        self.remove(id);
        if self.until.len() >= MAX_REVOKED
            && let Some((_, first)) = self.by_time.pop_first()
        {
            self.until.remove(&first);
            self.pushed_out.push(first);
        }
        self.until.insert(id, until);
        self.by_time.insert((until, id));
    }

    /// Whether its tickets are refused.
    pub(super) fn contains(&self, id: SessionId) -> bool {
        self.until.contains_key(&id)
    }

    /// Forgets those whose last ticket is over, [`FORGOTTEN_AT_ONCE`] at most, and says which, with those that were pushed out.
    pub(super) fn forget(&mut self, now: Boot) -> Vec<SessionId> {
        let mut gone = mem::take(&mut self.pushed_out);
        for _ in 0..FORGOTTEN_AT_ONCE {
            let Some((_, id)) = self.by_time.first().copied().filter(|(until, _)| *until <= now) else {
                break;
            };
            self.remove(id);
            gone.push(id);
        }
        gone
    }

    /// When there is something to forget.
    pub(super) fn next(&self, now: Boot) -> Option<Boot> {
        match self.pushed_out.is_empty() {
            true => self.by_time.first().map(|(until, _)| *until),
            false => Some(now),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, Boot)> {
        self.until.iter().map(|(id, until)| (*id, *until))
    }

    fn remove(&mut self, id: SessionId) {
        if let Some(until) = self.until.remove(&id) {
            self.by_time.remove(&(until, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn at(seconds: u64) -> Boot {
        Boot::from_origin(Duration::from_secs(seconds))
    }

    fn id(n: usize) -> SessionId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        SessionId(id)
    }

    #[test]
    fn many_that_are_over_are_forgotten_in_turns() {
        let mut revoked = Revoked::default();
        let many = FORGOTTEN_AT_ONCE * 2 + 10;
        for n in 0..many {
            revoked.insert(id(n), at(100));
        }
        revoked.insert(id(many), at(200));
        assert!(revoked.forget(at(99)).is_empty());
        let turns: Vec<_> = (0..4).map(|_| revoked.forget(at(100)).len()).collect();
        assert_eq!(turns, [FORGOTTEN_AT_ONCE, FORGOTTEN_AT_ONCE, 10, 0]);
        assert_eq!(
            (revoked.next(at(100)), revoked.contains(id(many))),
            (Some(at(200)), true)
        );
    }

    #[test]
    fn what_is_pushed_out_is_told_at_once() {
        let mut revoked = Revoked::default();
        for n in 0..=MAX_REVOKED {
            revoked.insert(id(n), at(1000 + n as u64));
        }
        assert_eq!(revoked.next(at(1)), Some(at(1)));
        assert_eq!(revoked.forget(at(1)), [id(0)]);
        assert_eq!(revoked.next(at(1)), Some(at(1001)));
        assert_eq!(revoked.iter().count(), MAX_REVOKED);
    }

    proptest! {
        /// Both views say the same, whatever is revoked, again or for another time.
        #[test]
        fn both_views_agree(steps in prop::collection::vec((0..20_usize, 0..50_u64, any::<bool>()), 0..100)) {
            let mut revoked = Revoked::default();
            let mut model = BTreeMap::new();
            for (n, second, forgets) in steps {
                if forgets {
                    let mut gone = revoked.forget(at(second));
                    gone.sort_unstable();
                    let over: Vec<_> = model.iter().filter(|(_, until)| **until <= at(second)).map(|(id, _)| *id).collect();
                    prop_assert_eq!(gone, over);
                    model.retain(|_, until| *until > at(second));
                } else {
                    revoked.insert(id(n), at(second));
                    model.insert(id(n), at(second));
                }
                prop_assert!(revoked.iter().eq(model.iter().map(|(id, until)| (*id, *until))));
                prop_assert_eq!(revoked.next(at(0)), model.values().min().copied());
                prop_assert_eq!(revoked.by_time.len(), model.len());
            }
        }
    }
}
