//! A CONNECT: who may go on with which session, and as which epoch.
//!
//! ```text
//!   cookie, or ticket of a session here --> certificate --> proof --> user and group --> epoch --> addresses
//!   neither, but a session's name ------> proof --> as above
//!   ticket of a session that is lost ----> not revoked, not expired, the same checks by the ticket --> a place --> as above
//! ```
//! While a session is in the table, the table decides; tickets are for the day it is lost. Who has no proof learns nothing: not
//! whether the user is still welcome, and not the epoch. A ticket that nobody can open any more is like an unknown cookie, and
//! the name in the proof is enough to find the session. Names are no secrets, so that one without a good proof is answered as
//! an unknown cookie is, after the same work, whether there is such a session or not.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use now::Now;
use thiserror::Error;
use wire::offer::{ParkKey, Resume};

use super::{CookieHash, Ended, Entry, LoginRefused, Parked, Presence, SessionId, Sessions, Since};
use crate::EndReason;
use crate::gateway::{Lease, Reservation};
use crate::resume::{self, BINDING_BYTES};
use crate::ticket::{BEYOND_PARK, Ticket};

/// What a client shows to get a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Which session it means.
    pub shown: Shown<'a>,
    /// Whether it wants an IPv4 and an IPv6 address.
    pub families: (bool, bool),
    /// It can park, and this is its key; kept with a session that has none yet.
    pub key: Option<ParkKey>,
    /// That it has the private half of the session's key.
    pub proof: Option<Proof<'a>>,
    /// The user that its client certificate names.
    pub certificate_user: Option<&'a str>,
}

/// What stands for a session.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'a> {
    /// The cookie of the login.
    Cookie(CookieHash),
    /// A ticket that has been opened.
    Ticket(&'a Ticket),
}

/// By what a connection got its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entrance {
    /// Its user has just logged in.
    Login,
    /// The cookie of a login that has had a connection before.
    Cookie,
    /// A ticket.
    Ticket,
    /// Its name and a proof alone: what the client showed beside it can be read by nobody any more.
    Proof,
    /// A ticket that told the gateway of a session it had lost.
    Rebuilt,
}

impl Entrance {
    /// The word used in logs and status.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Cookie => "cookie",
            Self::Ticket => "ticket",
            Self::Proof => "proof",
            Self::Rebuilt => "rebuilt",
        }
    }
}

impl fmt::Display for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Stands for the key of a session that is not there, so that an unknown name takes as long as a wrong proof: the base point
/// of the curve (RFC 8032, 5.1), which is a valid key. What it verifies is worth nothing.
const NOBODY: ParkKey = {
    let mut point = [0x66; 32];
    point[0] = 0x58;
    ParkKey(point)
};

/// A proof of possession, and the connection that it came over.
#[derive(Clone, Copy, Debug)]
pub struct Proof<'a> {
    /// As the client sent it.
    pub resume: &'a Resume,
    /// What that connection exported.
    pub binding: [u8; BINDING_BYTES],
}

/// What is known of a user now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may be here, in its group; these addresses are set aside for it.
    Good(Reservation),
    /// It may not.
    Bad,
    /// Nobody can say now.
    Unknown,
}

/// Why there is no tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConnectRefused {
    /// No session has this cookie.
    #[error("unknown cookie")]
    UnknownCookie,
    /// No session has this cookie, but the state of the run before is lost.
    #[error("unknown cookie; what was known before the last start is lost")]
    StateLost,
    /// The session has a key, and nobody has shown that it is theirs.
    #[error("the proof of possession is missing or wrong")]
    NoProof,
    /// The login was by a client certificate, and this connection has none of that user.
    #[error("the client certificate of the login is missing")]
    NoCertificate,
    /// The user, or its group, is not welcome any more.
    #[error("the user or its group is not admitted any more")]
    NotAdmitted,
    /// Whether the user is still welcome cannot be said now.
    #[error("the users cannot be looked up now")]
    Undecided,
    /// The ticket's session has ended.
    #[error("the session of the ticket has ended")]
    Revoked,
    /// The ticket is too old, or the login is.
    #[error("the ticket has expired")]
    Expired,
    /// The proof is good; its epoch is not higher than this one, the newest of this session.
    #[error("a newer connection of the session exists, of epoch {1}")]
    Stale(SessionId, u64),
    /// There is no place for a session that is rebuilt.
    #[error(transparent)]
    NoPlace(LoginRefused),
    /// No address is free.
    #[error("address pool exhausted")]
    PoolExhausted,
}

/// A session that got its tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Which session.
    pub id: SessionId,
    /// Higher than at the connection before; 1 at the first.
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
    /// How long it is kept for the client's silence, if the client can park.
    pub park: Option<Duration>,
    /// What the client is to show next time, sealed, if it can park.
    pub ticket: Option<Ticket>,
    /// How it was parked until now, if it was.
    pub parked: Option<Parked>,
    /// By what its client got it.
    pub entrance: Entrance,
    /// Sessions that gave way.
    pub ended: Vec<Ended>,
}

impl Sessions {
    /// Connects the session that a client shows it may go on with, and leases the wanted families it does not hold yet.
    /// `standing` says of a user and a group whether they are still welcome.
    ///
    /// # Errors
    /// See [`ConnectRefused`]; the session itself goes on.
    pub fn connect(
        &mut self,
        claim: &Claim<'_>,
        standing: impl Fn(&str, Option<&str>) -> Standing,
        now: Now,
    ) -> Result<Connected, ConnectRefused> {
        let mut ended = Vec::new();
        let (id, entrance) = match claim.shown {
            Shown::Cookie(cookie) => self.of_cookie(&cookie, claim, now)?,
            Shown::Ticket(ticket) if self.entries.contains_key(&ticket.session) => (ticket.session, Entrance::Ticket),
            Shown::Ticket(ticket) => {
                let entry = self.check_lost(ticket, claim, &standing, now)?;
                ended = self.make_room(&ticket.user, now).map_err(ConnectRefused::NoPlace)?;
                self.rebuild(ticket.session, entry, now);
                (ticket.session, Entrance::Rebuilt)
            }
        };
        let entry = self.entries.get(&id).expect("known, or just rebuilt");
        if self.is_over(entry, now.boot).is_some() {
            return Err(ConnectRefused::UnknownCookie);
        }
        let epoch = entry.admits(id, claim, &standing)?;
        match self.seat(id, epoch, claim, now) {
            Ok((mut connected, gave_way)) => {
                connected.entrance = entrance;
                connected.ended = ended;
                connected.ended.extend(gave_way);
                Ok(connected)
            }
            Err(refused) => {
                self.unreported.extend(ended);
                if entrance == Entrance::Rebuilt
                    && let Some(entry) = self.entries.remove(&id)
                {
                    self.leases.release(entry.lease, now.boot);
                }
                Err(refused)
            }
        }
    }

    /// The session of a cookie, or else the one that the client names and proves to be its own.
    fn of_cookie(
        &self,
        cookie: &CookieHash,
        claim: &Claim<'_>,
        now: Now,
    ) -> Result<(SessionId, Entrance), ConnectRefused> {
        if let Some(id) = self.by_cookie.get(cookie) {
            let is_first = self.entries.get(id).is_some_and(|entry| entry.epoch == 0);
            let entrance = if is_first { Entrance::Login } else { Entrance::Cookie };
            return Ok((*id, entrance));
        }
        let lost = self.lost_until.is_some_and(|until| now.boot < until);
        let named = claim.proof.and_then(|proof| self.named(proof));
        named.map(|id| (id, Entrance::Proof)).ok_or(match lost {
            true => ConnectRefused::StateLost,
            false => ConnectRefused::UnknownCookie,
        })
    }

    /// The session that a good proof names. One signature is verified whatever is wrong.
    fn named(&self, proof: Proof<'_>) -> Option<SessionId> {
        let id = SessionId::parse(&proof.resume.session.id);
        let key = id.and_then(|id| self.entries.get(&id)?.key);
        let verified = resume::verify(&key.unwrap_or(NOBODY), &proof.binding, proof.resume).is_ok();
        id.filter(|_| verified && key.is_some())
    }

    /// Everything that a session which is not in the table any more must show before it is again.
    fn check_lost(
        &self,
        ticket: &Ticket,
        claim: &Claim<'_>,
        standing: &impl Fn(&str, Option<&str>) -> Standing,
        now: Now,
    ) -> Result<Entry, ConnectRefused> {
        if self.revoked.contains(ticket.session) {
            return Err(ConnectRefused::Revoked);
        }
        if ticket.is_expired(now.wall) {
            return Err(ConnectRefused::Expired);
        }
        let mut entry = Entry {
            user: ticket.user.clone(),
            group: ticket.group.clone(),
            certified: ticket.certified,
            cookie: None,
            reserved: Reservation::default(),
            lease: ticket.lease,
            epoch: ticket.epoch,
            token: None,
            key: Some(ticket.key),
            began: Since::ago(now.wall.since(ticket.began), now.boot),
            presence: Presence::Waiting(Since::now(now.boot)),
            parked: None,
            last_word: Since::now(now.boot),
            tickets_until: None,
        };
        if self.is_over(&entry, now.boot).is_some() {
            return Err(ConnectRefused::Expired);
        }
        entry.admits(ticket.session, claim, standing)?;
        if let Standing::Good(reserved) = standing(&ticket.user, ticket.group.as_deref()) {
            entry.reserved = reserved;
        }
        Ok(entry)
    }

    /// Puts a session back, with those of its addresses that are free.
    pub(super) fn rebuild(&mut self, id: SessionId, mut entry: Entry, now: Now) {
        entry.lease = self.leases.reclaim(entry.lease, entry.reserved, now.boot);
        if let Some(cookie) = entry.cookie {
            self.by_cookie.insert(cookie, id);
        }
        self.entries.insert(id, entry);
    }

    /// Gives a session its addresses and makes `epoch` its newest connection.
    fn seat(
        &mut self,
        id: SessionId,
        epoch: u64,
        claim: &Claim<'_>,
        now: Now,
    ) -> Result<(Connected, Vec<Ended>), ConnectRefused> {
        let (v4, v6) = claim.families;
        let entry = self.entries.get(&id).expect("just looked at");
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
        let replaced = entry.has_tunnel().then_some(entry.epoch);
        entry.epoch = epoch;
        entry.token = None;
        entry.presence = Presence::Connected;
        entry.last_word = Since::now(now.boot);
        let lived = entry.began.age(now.boot);
        let remaining = self.limits.session_timeout.map(|limit| limit.saturating_sub(lived));
        let within_login = |time: Duration| remaining.map_or(time, |remaining| remaining.min(time));
        let park = self.limits.park_ttl.filter(|_| claim.key.is_some());
        if park.is_some() && entry.key.is_none() {
            entry.key = claim.key;
        }
        let ticket = park.zip(entry.key).map(|(ttl, key)| {
            let life = within_login(ttl.saturating_add(BEYOND_PARK));
            let until = now.boot.plus(life);
            entry.tickets_until = entry.tickets_until.max(Some(until));
            Ticket {
                session: id,
                epoch,
                user: entry.user.clone(),
                group: entry.group.clone(),
                certified: entry.certified,
                lease,
                key,
                began: now::Wall::from_origin(now.wall.since_origin().saturating_sub(lived)),
                expires: now.wall.plus(life),
            }
        });
        let connected = Connected {
            id,
            epoch,
            user: entry.user.clone(),
            group: entry.group.clone(),
            lease,
            missed,
            replaced,
            remaining,
            park: park.map(within_login),
            ticket,
            parked: entry.parked.take(),
            entrance: Entrance::Cookie,
            ended: Vec::new(),
        };
        Ok((connected, ended))
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
        let holds = |entry: &Entry| entry.user == *user && !entry.has_tunnel() && entry.lease.permits(address);
        self.iter()
            .find(|(other, entry)| *other != id && holds(entry))
            .map(|(holder, _)| holder)
    }
}

impl Entry {
    /// Whether a client may go on with this session, and as which epoch.
    fn admits(
        &self,
        id: SessionId,
        claim: &Claim<'_>,
        standing: &impl Fn(&str, Option<&str>) -> Standing,
    ) -> Result<u64, ConnectRefused> {
        if self.certified && claim.certificate_user != Some(self.user.as_str()) {
            return Err(ConnectRefused::NoCertificate);
        }
        let proven = match &self.key {
            Some(key) => Some(proven_epoch(key, id, claim.proof)?),
            None => None,
        };
        match standing(&self.user, self.group.as_deref()) {
            Standing::Good(_) => {}
            Standing::Bad => return Err(ConnectRefused::NotAdmitted),
            Standing::Unknown => return Err(ConnectRefused::Undecided),
        }
        match proven {
            Some(epoch) if epoch > self.epoch => Ok(epoch),
            Some(_) => Err(ConnectRefused::Stale(id, self.epoch)),
            None => Ok(self.epoch.saturating_add(1)),
        }
    }
}

/// The epoch of a proof that is good for this session.
fn proven_epoch(key: &ParkKey, id: SessionId, proof: Option<Proof<'_>>) -> Result<u64, ConnectRefused> {
    let Proof { resume, binding } = proof.ok_or(ConnectRefused::NoProof)?;
    if resume.session.id != id.to_string() {
        return Err(ConnectRefused::NoProof);
    }
    resume::verify(key, &binding, resume).map_err(|_| ConnectRefused::NoProof)?;
    Ok(resume.session.epoch)
}
