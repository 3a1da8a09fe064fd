//! What outlives the gateway's process: sessions as a file has them, and those that must not come back.

use std::time::Duration;

use now::{Boot, Now};
use wire::offer::ParkKey;

use super::{CookieHash, Entry, Parked, Presence, SessionId, Sessions, Since, TokenHash};
use crate::gateway::{Lease, Reservation};
use crate::park::ParkKind;

/// How much longer than its tickets live a session is remembered: tickets end by the wall clock, which can be set back.
const BEYOND_TICKETS: Duration = Duration::from_secs(86_400);

/// A session as it is kept over a restart of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which session.
    pub id: SessionId,
    /// Whose.
    pub user: String,
    /// Logged in to which group.
    pub group: Option<String>,
    /// Whether the user's certificate was needed for that.
    pub certified: bool,
    /// Of its cookie, unless it was rebuilt from a ticket.
    pub cookie: Option<CookieHash>,
    /// Its client's key, if that can park.
    pub key: Option<ParkKey>,
    /// Of what ends its newest connection's epoch without a tunnel.
    pub token: Option<TokenHash>,
    /// Its newest connection.
    pub epoch: u64,
    /// Its addresses.
    pub lease: Lease,
    /// When the user logged in.
    pub began: Since,
    /// How it is parked, if it is.
    pub parked: Option<(ParkKind, Since)>,
    /// When its client was heard of last. Nothing while it is connected: then it is heard of all the time.
    pub last_word: Option<Since>,
    /// Until when there may be tickets of it.
    pub tickets_until: Option<Boot>,
}

impl Sessions {
    /// What is to be kept of a session. Nothing of a login that never had a connection.
    pub fn kept(&self, id: SessionId) -> Option<Kept> {
        let entry = self.entries.get(&id).filter(|entry| entry.epoch > 0)?;
        let silent = entry.parked.is_some() || !entry.has_tunnel();
        Some(Kept {
            id,
            user: entry.user.clone(),
            group: entry.group.clone(),
            certified: entry.certified,
            cookie: entry.cookie,
            key: entry.key,
            token: entry.token,
            epoch: entry.epoch,
            lease: entry.lease,
            began: entry.began,
            parked: entry.parked.map(|parked| (parked.kind, parked.since)),
            last_word: silent.then_some(entry.last_word),
            tickets_until: entry.tickets_until,
        })
    }

    /// Puts a session back after a restart. It waits for its client, parked if it was; [`Sessions::expire`] ends it if its time
    /// is over. Returns the addresses that it has now: those that it had, unless somebody else has them.
    pub fn restore(&mut self, kept: Kept, reserved: Reservation, now: Now) -> Lease {
        // Known from now on: it has as long as any other before it is said to be unreachable.
        let last_word = Since::ago(
            kept.last_word.map_or(Duration::ZERO, |word| word.age(now.boot)),
            now.boot,
        );
        let parked = kept.parked.map(|(_, since)| Parked {
            kind: ParkKind::Unreachable,
            since,
            wakes: 0,
        });
        let id = kept.id;
        let entry = Entry {
            user: kept.user,
            group: kept.group,
            certified: kept.certified,
            cookie: kept.cookie,
            reserved,
            lease: kept.lease,
            epoch: kept.epoch,
            token: kept.token,
            key: kept.key,
            began: kept.began,
            presence: Presence::Waiting(last_word),
            parked,
            last_word,
            tickets_until: kept.tickets_until,
        };
        self.rebuild(id, entry, now);
        self.entries.get(&id).map(|entry| entry.lease).unwrap_or_default()
    }

    /// What was kept over a restart is lost: for as long as a client may come back with its cookie, one that nobody knows may
    /// be of a session that was there.
    pub fn state_is_lost(&mut self, now: Now) {
        self.lost_until = Some(now.boot.plus(self.limits.cookie_lifetime));
    }

    /// Refuses the tickets of a session that has ended, until then.
    pub fn revoke(&mut self, id: SessionId, until: Boot) {
        self.revoked.insert(id, until);
    }

    /// Forgets sessions whose last ticket is over, a few at a time, and those for which there was no room. Whoever keeps them
    /// over a restart is to forget these, too.
    pub fn forget_revoked(&mut self, now: Now) -> Vec<SessionId> {
        self.revoked.forget(now.boot)
    }

    /// Sessions whose tickets are refused, until when.
    pub fn revoked(&self) -> impl Iterator<Item = (SessionId, Boot)> {
        self.revoked.iter()
    }

    /// Remembers a session that has just ended, if there may be tickets of it. Returns until when.
    pub(super) fn revoke_tickets(&mut self, id: SessionId, entry: &Entry) -> Option<Boot> {
        let until = entry.tickets_until?.plus(BEYOND_TICKETS);
        self.revoke(id, until);
        Some(until)
    }
}
