//! Silence: who is parked, for how long, and how many of a user.
//!
//! ```text
//!   connected --control_lost--> data channel alone --detach--> waiting --quiet--> waiting, parked{unreachable}
//!       '--------- park(kind) --------'---------> the same, parked{kind} --unpark, or a connect--> not parked
//! ```
//! Parked is beside presence: a client whose kernel still answers is parked with its connection. A parked session whose kind
//! changes is parked since it was first.

use std::cmp::Reverse;

use now::{Boot, Now};

use super::{Ended, Entry, Parked, Presence, SessionId, Sessions, Since};
use crate::EndReason;
use crate::park::ParkKind;

impl Sessions {
    /// The client of `epoch` is silent, for this reason. `Some` if its session is newly parked, with those of its user that
    /// gave way; `None` if it was parked already, and now is for this reason, or if that is not its newest connection.
    pub fn park(&mut self, id: SessionId, epoch: u64, kind: ParkKind, now: Now) -> Option<Vec<Ended>> {
        let entry = self.entries.get_mut(&id).filter(|entry| entry.epoch == epoch)?;
        if let Some(parked) = &mut entry.parked {
            parked.kind = kind;
            return None;
        }
        let since = entry.waiting_since().unwrap_or(Since::now(now.boot));
        entry.last_word = since;
        entry.parked = Some(Parked { kind, since, wakes: 0 });
        let user = entry.user.clone();
        Some(self.crowd(&user, now))
    }

    /// The client of `epoch` is back, without a new connection. `Some` if it was parked.
    pub fn unpark(&mut self, id: SessionId, epoch: u64, now: Now) -> Option<Parked> {
        let entry = self.entries.get_mut(&id).filter(|entry| entry.epoch == epoch)?;
        entry.last_word = Since::now(now.boot);
        entry.parked.take()
    }

    /// The client of `epoch` said something and is parked all the same: its time begins anew. `is_new` if it had been silent
    /// before, which makes it another wake. `true` if it is parked.
    pub fn stirred(&mut self, id: SessionId, epoch: u64, is_new: bool, now: Now) -> bool {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.epoch == epoch) else {
            return false;
        };
        entry.last_word = Since::now(now.boot);
        match &mut entry.parked {
            Some(parked) => {
                parked.wakes = parked.wakes.saturating_add(u32::from(is_new));
                true
            }
            None => false,
        }
    }

    /// The control connection of `epoch` is gone; the data channel goes on. `true` if that is its newest connection.
    pub fn control_lost(&mut self, id: SessionId, epoch: u64) -> bool {
        match self.entries.get_mut(&id) {
            Some(entry) if entry.epoch == epoch && entry.presence == Presence::Connected => {
                entry.presence = Presence::DataOnly;
                true
            }
            _ => false,
        }
    }

    /// Nothing of the connection of `epoch` is left. The session waits, unless a newer connection has taken over. `true` if
    /// it waits.
    pub fn detach(&mut self, id: SessionId, epoch: u64, now: Now) -> bool {
        match self.entries.get_mut(&id) {
            Some(entry) if entry.epoch == epoch && entry.has_tunnel() => {
                entry.presence = Presence::Waiting(Since::now(now.boot));
                match &mut entry.parked {
                    Some(parked) => parked.kind = ParkKind::Unreachable,
                    None => entry.last_word = Since::now(now.boot),
                }
                true
            }
            _ => false,
        }
    }

    /// Sessions that have waited so long that they are to be parked as unreachable, with their epoch.
    pub fn unreachable(&self, now: Now) -> Vec<(SessionId, u64)> {
        let due = |entry: &Entry| self.parks_at(entry).is_some_and(|at| at <= now.boot);
        self.iter()
            .filter(|(_, entry)| due(entry))
            .map(|(id, entry)| (id, entry.epoch))
            .collect()
    }

    /// When a session that waits is to be parked. A login that never had a connection is not; one from before a restart of the
    /// gateway has as much time from there.
    pub(super) fn parks_at(&self, entry: &Entry) -> Option<Boot> {
        let since = entry.waiting_since()?;
        (entry.parked.is_none() && entry.epoch > 0).then(|| since.known().plus(self.limits.quiet))
    }

    /// When the client has been silent for too long.
    pub(super) fn waits_until(&self, entry: &Entry) -> Option<Boot> {
        let waiting = entry.waiting_since();
        let silent = entry.can_park() && (waiting.is_some() || entry.parked.is_some());
        let lifetime = self.limits.cookie_lifetime;
        match (self.limits.park_ttl, waiting) {
            (Some(ttl), _) if entry.can_park() => silent.then(|| entry.last_word.plus(ttl)),
            (Some(_) | None, Some(since)) => Some(since.plus(lifetime)),
            // It was parked before a reload took that away, and nothing else would end it.
            (Some(_) | None, None) => silent.then(|| entry.last_word.plus(lifetime)),
        }
    }

    /// Ends the user's parked sessions beyond the limit, the oldest first.
    fn crowd(&mut self, user: &str, now: Now) -> Vec<Ended> {
        let of_user = self.iter().filter(|(_, entry)| entry.user == user);
        let mut parked: Vec<_> = of_user
            .filter_map(|(id, entry)| Some((Reverse(entry.parked?.since.age(now.boot)), id)))
            .collect();
        parked.sort_unstable();
        let surplus = parked.len().saturating_sub(self.limits.parked_per_user);
        parked
            .into_iter()
            .take(surplus)
            .filter_map(|(_, id)| self.end(id, None, EndReason::Replaced, now))
            .collect()
    }
}
