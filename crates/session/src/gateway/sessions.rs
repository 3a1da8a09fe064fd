//! The table of sessions: who is logged in, who is connected, who holds which address.
//!
//! ```text
//!   login ---> waiting (no lease yet) --connect--> connected, epoch 1 --detach--> waiting
//!                                                       ^----------- connect, epoch + 1 ---'
//!   silent for longer than it may be, older than the session timeout, logout, removal: ended
//! ```
//! A connect with a cookie whose session is connected already is a take-over: the new connection wins, and what the old
//! one still says carries an old epoch and is ignored. Times here count on the boot clock, through sleep. How long a client
//! may be silent, and what is said of it meanwhile, is in [`parking`].

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use now::{Boot, Deadline, Now};
use thiserror::Error;

use super::{Lease, Leases, Reservation};
use crate::EndReason;

mod connect;
mod entry;
mod keep;
mod parking;
mod revoked;

use revoked::Revoked;

pub use connect::{Claim, ConnectRefused, Connected, Entrance, Proof, Shown, Standing};
pub use entry::{Entry, Parked, Presence, Since};
pub use keep::Kept;
pub use revoked::{FORGOTTEN_AT_ONCE, MAX_REVOKED};

/// Names a session in logs and between our own ends. Random, and no secret: it opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl SessionId {
    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let mut id = [0; 16];
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return None;
        };
        if pairs.len() != id.len() {
            return None;
        }
        for (byte, [high, low]) in id.iter_mut().zip(pairs) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
        }
        Some(Self(id))
    }
}

/// SHA-256 of a cookie. The table never sees the cookie itself, so a dump of it opens no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CookieHash(pub [u8; 32]);

/// SHA-256 of a token that can end one epoch of a session and do nothing else.
#[derive(Clone, Copy, Debug)]
pub struct TokenHash(pub [u8; 32]);

impl PartialEq for TokenHash {
    /// Takes the same time whatever differs, as far as the compiler leaves it so.
    fn eq(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(other.0).fold(0, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

impl Eq for TokenHash {}

/// The token of a logout is not the one of that session and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("wrong logout token")]
pub struct WrongToken;

/// How many and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions altogether.
    pub sessions: usize,
    /// Sessions of one user.
    pub per_user: usize,
    /// How long a session without a connection waits for a client that cannot park.
    pub cookie_lifetime: Duration,
    /// How long a session is kept for the silence of a client that can park, if any is.
    pub park_ttl: Option<Duration>,
    /// How long a session waits before it counts as parked.
    pub quiet: Duration,
    /// Parked sessions of one user.
    pub parked_per_user: usize,
    /// How long a session lives after its login, if there is a limit.
    pub session_timeout: Option<Duration>,
}

/// Why a login got no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LoginRefused {
    /// The table is full.
    #[error("the gateway has no room for another session")]
    Full,
    /// The user has as many connected sessions as allowed.
    #[error("too many sessions of this user")]
    TooManyOfUser,
}

/// A session that is over. Its addresses have been given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which session.
    pub id: SessionId,
    /// Whose.
    pub user: String,
    /// Why.
    pub reason: EndReason,
    /// What it held.
    pub lease: Lease,
    /// The epoch of its connection, which must be closed, if one lives.
    pub connected: Option<u64>,
    /// How long it lived, on the boot clock.
    pub age: Duration,
    /// How it was parked, if it was.
    pub parked: Option<Parked>,
    /// Until when its tickets are refused, if there may be any.
    pub revoked_until: Option<Boot>,
}

/// A user who has been authenticated, and what its session is to be.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// Who.
    pub user: &'a str,
    /// The chosen group.
    pub group: Option<&'a str>,
    /// By the user's client certificate, alone or with a password: only with it the session is connected.
    pub certified: bool,
    /// Addresses set aside for the user.
    pub reserved: Reservation,
    /// A fresh random value.
    pub id: SessionId,
    /// Of a fresh random value.
    pub cookie: CookieHash,
}

/// All sessions of a gateway.
#[derive(Debug)]
pub struct Sessions {
    limits: Limits,
    leases: Leases,
    entries: BTreeMap<SessionId, Entry>,
    by_cookie: BTreeMap<CookieHash, SessionId>,
    /// Sessions that ended in a call that failed all the same; [`Sessions::expire`] reports them.
    unreported: Vec<Ended>,
    /// Sessions that have ended, until their last ticket has.
    revoked: Revoked,
    /// Until then a cookie that is not known may be one of a session that a damaged file has lost.
    lost_until: Option<Boot>,
}

impl Sessions {
    /// An empty table.
    pub fn new(limits: Limits, leases: Leases) -> Self {
        Self {
            limits,
            leases,
            entries: BTreeMap::new(),
            by_cookie: BTreeMap::new(),
            unreported: Vec::new(),
            revoked: Revoked::default(),
            lost_until: None,
        }
    }

    /// The address pools.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Replaces the limits; they hold for what happens from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Replaces the addresses that only their users get, by user. Leases that anybody holds stay until they end.
    pub fn set_reservations(&mut self, reservations: impl IntoIterator<Item = (String, Reservation)>) {
        let by_user: BTreeMap<_, _> = reservations.into_iter().collect();
        for entry in self.entries.values_mut() {
            entry.reserved = by_user.get(&entry.user).copied().unwrap_or_default();
        }
        self.leases.reserve(by_user.into_values());
    }

    /// Sessions with and without a connection.
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &Entry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    /// Opens a session for a user who has been authenticated.
    /// Where a limit is reached, sessions whose time is over go first; then the user's own session that has waited longest
    /// gives way, one that never had a connection before any other. Sessions of others never do.
    ///
    /// # Errors
    /// See [`LoginRefused`].
    pub fn login(&mut self, login: &Login<'_>, now: Now) -> Result<Vec<Ended>, LoginRefused> {
        let ended = self.make_room(login.user, now)?;
        let entry = Entry {
            user: login.user.to_owned(),
            group: login.group.map(str::to_owned),
            certified: login.certified,
            cookie: Some(login.cookie),
            reserved: login.reserved,
            lease: Lease::default(),
            epoch: 0,
            token: None,
            key: None,
            began: Since::now(now.boot),
            presence: Presence::Waiting(Since::now(now.boot)),
            parked: None,
            last_word: Since::now(now.boot),
            tickets_until: None,
        };
        self.by_cookie.insert(login.cookie, login.id);
        self.entries.insert(login.id, entry);
        Ok(ended)
    }

    /// Makes room for one more session of a user.
    fn make_room(&mut self, user: &str, now: Now) -> Result<Vec<Ended>, LoginRefused> {
        let mut ended = Vec::new();
        if self.no_room_for(user).is_some() {
            ended = self.expire(now);
        }
        if let Some(refused) = self.no_room_for(user) {
            let Some(oldest) = self.longest_waiting(user, now.boot) else {
                self.unreported.extend(ended);
                return Err(refused);
            };
            ended.extend(self.end(oldest, None, EndReason::Replaced, now));
        }
        Ok(ended)
    }

    /// Lets whoever has this token end `epoch` of a session later, by [`Sessions::logout`]. `false` if that is not its
    /// newest connection.
    pub fn allow_logout(&mut self, id: SessionId, epoch: u64, token: TokenHash) -> bool {
        match self.entries.get_mut(&id) {
            Some(entry) if entry.epoch == epoch => {
                entry.token = Some(token);
                true
            }
            _ => false,
        }
    }

    /// Ends a session whose client could not say goodbye. `None` if there is nothing to end: the session is over, or a
    /// later connection took it further than the client that asks knows.
    ///
    /// # Errors
    /// [`WrongToken`]; the session goes on.
    pub fn logout(
        &mut self,
        id: SessionId,
        epoch: u64,
        token: &TokenHash,
        now: Now,
    ) -> Result<Option<Ended>, WrongToken> {
        match self.entries.get(&id) {
            Some(entry) if entry.epoch == epoch => match &entry.token {
                Some(granted) if granted == token => Ok(self.end(id, Some(epoch), EndReason::UserStop, now)),
                Some(_) | None => Err(WrongToken),
            },
            Some(_) | None => Ok(None),
        }
    }

    /// Ends a session. With an `epoch`, only if that connection is still its newest.
    pub fn end(&mut self, id: SessionId, epoch: Option<u64>, reason: EndReason, now: Now) -> Option<Ended> {
        let entry = self.entries.get(&id)?;
        if epoch.is_some_and(|epoch| epoch != entry.epoch) {
            return None;
        }
        let entry = self.entries.remove(&id).expect("just seen");
        if let Some(cookie) = &entry.cookie {
            self.by_cookie.remove(cookie);
        }
        let revoked_until = self.revoke_tickets(id, &entry);
        self.leases.release(entry.lease, now.boot);
        Some(Ended {
            id,
            connected: entry.has_tunnel().then_some(entry.epoch),
            user: entry.user,
            reason,
            lease: entry.lease,
            age: entry.began.age(now.boot),
            parked: entry.parked,
            revoked_until,
        })
    }

    /// Ends every session whose time is over.
    pub fn expire(&mut self, now: Now) -> Vec<Ended> {
        let over: Vec<_> = self
            .iter()
            .filter_map(|(id, entry)| self.is_over(entry, now.boot).map(|reason| (id, reason)))
            .collect();
        let mut ended = std::mem::take(&mut self.unreported);
        ended.extend(
            over.into_iter()
                .filter_map(|(id, reason)| self.end(id, None, reason, now)),
        );
        ended
    }

    /// Ends the sessions of users who may not have one any more, or not one of their group.
    pub fn retain_users(&mut self, keep: impl Fn(&str, Option<&str>) -> bool, now: Now) -> Vec<Ended> {
        let gone: Vec<_> = self
            .iter()
            .filter(|(_, entry)| !keep(&entry.user, entry.group()))
            .map(|(id, _)| id)
            .collect();
        let reason = || EndReason::Admin("the user was removed, or its group".to_owned());
        gone.into_iter()
            .filter_map(|id| self.end(id, None, reason(), now))
            .collect()
    }

    /// When to call [`Sessions::expire`] and [`Sessions::forget_revoked`].
    pub fn deadline(&self, now: Now) -> Option<Deadline> {
        let ends = self
            .entries
            .values()
            .flat_map(|entry| [self.waits_until(entry), self.lives_until(entry), self.parks_at(entry)]);
        let reports = (!self.unreported.is_empty()).then_some(now.boot);
        let next = ends.flatten().chain(reports).chain(self.revoked.next(now.boot)).min()?;
        Some(Deadline {
            at: now.awake.plus(next.since(now.boot)),
            reason: "end of a session",
        })
    }

    fn lives_until(&self, entry: &Entry) -> Option<Boot> {
        self.limits.session_timeout.map(|limit| entry.began.plus(limit))
    }

    fn is_over(&self, entry: &Entry, now: Boot) -> Option<EndReason> {
        if self.lives_until(entry).is_some_and(|until| until <= now) {
            return Some(EndReason::AuthExpired);
        }
        self.waits_until(entry)
            .is_some_and(|until| until <= now)
            .then_some(EndReason::ParkTtl)
    }

    fn no_room_for(&self, user: &str) -> Option<LoginRefused> {
        let of_user = self.entries.values().filter(|entry| entry.user == user).count();
        if of_user >= self.limits.per_user {
            return Some(LoginRefused::TooManyOfUser);
        }
        (self.entries.len() >= self.limits.sessions).then_some(LoginRefused::Full)
    }

    /// The user's session that is missed least: a login that was never used before a laptop that sleeps.
    fn longest_waiting(&self, user: &str, now: Boot) -> Option<SessionId> {
        let waiting = self.iter().filter(|(_, entry)| entry.user == user);
        waiting
            .filter_map(|(id, entry)| {
                entry
                    .waiting_since()
                    .map(|since| (entry.epoch > 0, Reverse(since.age(now)), id))
            })
            .min()
            .map(|(_, _, id)| id)
    }
}

#[cfg(test)]
mod tests;
