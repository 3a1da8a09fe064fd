//! The table of sessions: who is logged in, who is connected, who holds which address.
//!
//! ```text
//!   login ---> waiting (no lease yet) --connect--> connected, epoch 1 --detach--> waiting
//!                                                       ^----------- connect, epoch + 1 ---'
//!   waiting for longer than the cookie's lifetime, older than the session timeout, logout, removal: ended
//! ```
//! A connect with a cookie whose session is connected already is a take-over: the new connection wins, and what the old
//! one still says carries an old epoch and is ignored. Times here count on the boot clock, through sleep.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use now::{Boot, Deadline, Now};
use thiserror::Error;

use super::{Lease, Leases, Reservation};
use crate::EndReason;

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
    /// How long a session without a connection waits for its client.
    pub cookie_lifetime: Duration,
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

/// Why a cookie got no tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConnectRefused {
    /// No session has this cookie.
    #[error("unknown cookie")]
    UnknownCookie,
    /// No address is free.
    #[error("address pool exhausted")]
    PoolExhausted,
}

/// A session that got its tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Which session.
    pub id: SessionId,
    /// One more than at the connection before; 1 at the first.
    pub epoch: u64,
    /// Whose.
    pub user: String,
    /// Logged in to which group.
    pub group: Option<String>,
    /// Its addresses, the same at every connection of the session.
    pub lease: Lease,
    /// Addresses reserved for the user that it should have got now, but another session holds.
    pub missed: Reservation,
    /// The connection that is taken over and must be closed, if one lives.
    pub replaced: Option<u64>,
    /// How long the session may still live.
    pub remaining: Option<Duration>,
    /// Sessions that gave way.
    pub ended: Vec<Ended>,
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
}

/// One session as status shows it.
#[derive(Clone, Debug)]
pub struct Entry {
    user: String,
    group: Option<String>,
    cookie: CookieHash,
    reserved: Reservation,
    lease: Lease,
    epoch: u64,
    /// Ends this epoch; goes with it.
    token: Option<TokenHash>,
    began: Boot,
    /// `None` while connected.
    waiting_since: Option<Boot>,
}

impl Entry {
    /// Whose session it is.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Logged in to which group.
    pub fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// Its addresses.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Connections it has had.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether a connection lives.
    pub fn is_connected(&self) -> bool {
        self.waiting_since.is_none()
    }
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

    /// Opens a session for a user who has been authenticated. `id` and the cookie are fresh random values of the caller's.
    /// Where a limit is reached, sessions whose time is over go first; then the user's own session that has waited longest
    /// gives way, one that never had a connection before any other. Sessions of others never do.
    ///
    /// # Errors
    /// See [`LoginRefused`].
    pub fn login(
        &mut self,
        user: &str,
        group: Option<&str>,
        reserved: Reservation,
        id: SessionId,
        cookie: CookieHash,
        now: Now,
    ) -> Result<Vec<Ended>, LoginRefused> {
        let mut ended = Vec::new();
        if self.no_room_for(user).is_some() {
            ended = self.expire(now);
        }
        if let Some(refused) = self.no_room_for(user) {
            let Some(oldest) = self.longest_waiting(user) else {
                self.unreported.extend(ended);
                return Err(refused);
            };
            ended.extend(self.end(oldest, None, EndReason::Replaced, now));
        }
        let entry = Entry {
            user: user.to_owned(),
            group: group.map(str::to_owned),
            cookie,
            reserved,
            lease: Lease::default(),
            epoch: 0,
            token: None,
            began: now.boot,
            waiting_since: Some(now.boot),
        };
        self.by_cookie.insert(cookie, id);
        self.entries.insert(id, entry);
        Ok(ended)
    }

    /// Connects the session of a cookie and leases the wanted families it does not hold yet.
    ///
    /// # Errors
    /// See [`ConnectRefused`]; the session itself goes on.
    pub fn connect(&mut self, cookie: &CookieHash, v4: bool, v6: bool, now: Now) -> Result<Connected, ConnectRefused> {
        let id = *self.by_cookie.get(cookie).ok_or(ConnectRefused::UnknownCookie)?;
        let entry = self.entries.get(&id).expect("every cookie belongs to a session");
        if self.is_over(entry, now.boot).is_some() {
            return Err(ConnectRefused::UnknownCookie);
        }
        // Only for what this session will lease now: what it holds already it keeps.
        let missing = Reservation {
            v4: entry.reserved.v4.filter(|_| v4 && entry.lease.v4.is_none()),
            v6: entry.reserved.v6.filter(|_| v6 && entry.lease.v6.is_none()),
        };
        let ended = self.make_way(id, missing, now);
        let entry = self.entries.get_mut(&id).expect("a session never gives way to itself");
        let Ok(lease) = self.leases.lease(entry.lease, (v4, v6), entry.reserved, now.boot) else {
            self.unreported.extend(ended);
            return Err(ConnectRefused::PoolExhausted);
        };
        entry.lease = lease;
        let missed = Reservation {
            v4: missing
                .v4
                .filter(|_| lease.v4.is_some_and(|own| missing.v4 != Some(own))),
            v6: missing
                .v6
                .filter(|_| lease.v6.is_some_and(|own| missing.v6 != Some(own))),
        };
        let replaced = entry.is_connected().then_some(entry.epoch);
        entry.epoch += 1;
        entry.token = None;
        entry.waiting_since = None;
        let lived = now.boot.since(entry.began);
        Ok(Connected {
            id,
            epoch: entry.epoch,
            user: entry.user.clone(),
            group: entry.group.clone(),
            lease: entry.lease,
            missed,
            replaced,
            remaining: self.limits.session_timeout.map(|limit| limit.saturating_sub(lived)),
            ended,
        })
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

    /// The connection of `epoch` is gone. The session waits, unless a newer connection has taken over. `true` if it waits.
    pub fn detach(&mut self, id: SessionId, epoch: u64, now: Now) -> bool {
        match self.entries.get_mut(&id) {
            Some(entry) if entry.epoch == epoch && entry.is_connected() => {
                entry.waiting_since = Some(now.boot);
                true
            }
            _ => false,
        }
    }

    /// Ends a session. With an `epoch`, only if that connection is still its newest.
    pub fn end(&mut self, id: SessionId, epoch: Option<u64>, reason: EndReason, now: Now) -> Option<Ended> {
        let entry = self.entries.get(&id)?;
        if epoch.is_some_and(|epoch| epoch != entry.epoch) {
            return None;
        }
        let entry = self.entries.remove(&id).expect("just seen");
        self.by_cookie.remove(&entry.cookie);
        self.leases.release(entry.lease, now.boot);
        Some(Ended {
            id,
            connected: entry.is_connected().then_some(entry.epoch),
            user: entry.user,
            reason,
            lease: entry.lease,
            age: now.boot.since(entry.began),
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

    /// Ends the sessions of users who may not have one any more.
    pub fn retain_users(&mut self, keep: impl Fn(&str) -> bool, now: Now) -> Vec<Ended> {
        let gone: Vec<_> = self
            .iter()
            .filter(|(_, entry)| !keep(&entry.user))
            .map(|(id, _)| id)
            .collect();
        let reason = || EndReason::Admin("the user was removed".to_owned());
        gone.into_iter()
            .filter_map(|id| self.end(id, None, reason(), now))
            .collect()
    }

    /// When to call [`Sessions::expire`].
    pub fn deadline(&self, now: Now) -> Option<Deadline> {
        let ends = self
            .entries
            .values()
            .flat_map(|entry| [self.waits_until(entry), self.lives_until(entry)]);
        let reports = (!self.unreported.is_empty()).then_some(now.boot);
        let next = ends.flatten().chain(reports).min()?;
        Some(Deadline {
            at: now.awake.plus(next.since(now.boot)),
            reason: "end of a session",
        })
    }

    fn waits_until(&self, entry: &Entry) -> Option<Boot> {
        entry.waiting_since.map(|since| since.plus(self.limits.cookie_lifetime))
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
    fn longest_waiting(&self, user: &str) -> Option<SessionId> {
        let waiting = self.iter().filter(|(_, entry)| entry.user == user);
        waiting
            .filter_map(|(id, entry)| entry.waiting_since.map(|since| (entry.epoch > 0, since, id)))
            .min()
            .map(|(_, _, id)| id)
    }

    /// A reserved address that `id` is about to lease comes free if the user's own waiting session holds it.
    fn make_way(&mut self, id: SessionId, missing: Reservation, now: Now) -> Vec<Ended> {
        let wanted = [missing.v4.map(IpAddr::V4), missing.v6.map(IpAddr::V6)];
        let wanted = wanted
            .into_iter()
            .flatten()
            .filter(|address| self.leases.is_held(*address));
        let holders: Vec<SessionId> = wanted.filter_map(|address| self.waiting_holder(id, address)).collect();
        holders
            .into_iter()
            .filter_map(|holder| self.end(holder, None, EndReason::Replaced, now))
            .collect()
    }

    /// Another session of the same user that holds `address` and has no connection.
    fn waiting_holder(&self, id: SessionId, address: IpAddr) -> Option<SessionId> {
        let user = &self.entries.get(&id)?.user;
        let holds = |entry: &Entry| entry.user == *user && !entry.is_connected() && entry.lease.permits(address);
        self.iter()
            .find(|(other, entry)| *other != id && holds(entry))
            .map(|(holder, _)| holder)
    }
}

#[cfg(test)]
mod tests;
