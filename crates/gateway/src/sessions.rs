//! The one owner of the session table, and of what belongs to a session beside it: its connection and its counters.
//!
//! ```text
//!   connection --login()--> cookie          timer --expire()--+
//!   connection --connect()--> Booking       reload -----------+--> over(): orders to the tunnel, session.end
//!   tunnel --Notice--> heard() --left(how)--------------------+
//! ```
//! A session whose tunnel lives stays with its worker: what the tunnel before leaves to the next one never changes its thread.
//!
//! Everything here is done between two awaits of one thread; nothing is borrowed across one. Cookies exist here only until
//! they are handed out: the table knows their SHA-256.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use now::{Deadline, Now};
use session::gateway::{
    Claim, ConnectRefused, Connected, CookieHash, Ended, Entrance, Lease, Limits, Login, LoginRefused, Proof,
    Reservation, SessionId, Sessions, Shown, Standing, TokenHash, WrongToken,
};
use session::park::Via;
use session::resume::BINDING_BYTES;
use session::ticket::TicketKeys;
use session::{EndReason, Traffic};
use tokio::sync::Notify;
use tracing::{debug, info, warn};
use wire::Secret;
use wire::offer::{Logout, Offer};
use wire::text::escape;

use crate::accounts::{Account, Accounts};
use crate::crew::Crew;
use crate::desk::{News, Notice};
use crate::flows::Flows;
use crate::losses::Losses;
use crate::state::Store;

mod keep;
mod parking;
mod status;

pub(crate) use parking::{Counters, Report};

/// Random bytes of a cookie: it is all a client shows at CONNECT, and nobody may guess it.
const COOKIE_BYTES: usize = 32;

/// Why sessions end with the gateway.
pub(crate) const STOPPING: &str = "the gateway stops";

/// How a tunnel ended, as it reports itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// The connection is gone; the session waits for its client.
    Detached(String),
    /// The session is over by the client's or the tunnel's own decision.
    Ended(EndReason),
    /// As ordered.
    Ordered,
    /// The gateway stops.
    Stopping,
}

/// Who asks for a tunnel.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) offer: &'a Offer,
    pub(crate) peer: SocketAddr,
    /// What its connection exported.
    pub(crate) binding: Option<[u8; BINDING_BYTES]>,
    /// The user that its client certificate names.
    pub(crate) certificate_user: Option<&'a str>,
}

/// A connected session's place: a seat at a worker.
#[derive(Debug)]
pub(crate) struct Booking {
    pub(crate) connected: Connected,
    /// What the client is to show next time, if it can park.
    pub(crate) ticket: Option<Secret>,
    /// Where its tunnel will be.
    pub(crate) worker: usize,
}

/// What is kept of a session beside its entry in the table, from its first connection on.
struct Record {
    /// As logs have it.
    user: String,
    account: Account,
    lease: Lease,
    traffic: Traffic,
    /// The newest connection.
    epoch: u64,
    /// By what that got it; not known of one from before a restart.
    entrance: Option<Entrance>,
    /// How many it has had.
    connections: u64,
    /// What its tunnel reported last; counted in `traffic` when it ends.
    report: Report,
    /// The worker of its tunnel, until that has left or was told to end.
    tunnel: Option<usize>,
    /// Packets that did not get to the tunnel, or that came while there was none.
    losses: Arc<Losses>,
    /// The session is over; its tunnel has yet to report its counters.
    ending: Option<Ended>,
}

impl Record {
    /// Of a session that has yet to have a connection here.
    fn new(user: String, account: Account, lease: Lease) -> Self {
        Self {
            user,
            account,
            lease,
            traffic: Traffic::default(),
            epoch: 0,
            entrance: None,
            connections: 0,
            report: Report::default(),
            tunnel: None,
            losses: Arc::default(),
            ending: None,
        }
    }
}

/// See the module.
pub(crate) struct SessionRoom {
    table: RefCell<Sessions>,
    records: RefCell<HashMap<SessionId, Record>>,
    crew: Rc<Crew>,
    accounts: Accounts,
    counters: RefCell<Counters>,
    tickets: RefCell<TicketKeys>,
    store: Store,
    /// What the host's connection tracking knows of addresses that are given back.
    flows: Flows,
    random: SystemRandom,
    /// The table's deadline may have changed.
    pub(crate) changed: Notify,
}

impl SessionRoom {
    pub(crate) fn new(
        table: Sessions,
        crew: Rc<Crew>,
        accounts: Accounts,
        (tickets, store): (TicketKeys, Store),
    ) -> Self {
        Self {
            table: RefCell::new(table),
            records: RefCell::default(),
            crew,
            accounts,
            counters: RefCell::default(),
            tickets: RefCell::new(tickets),
            store,
            flows: Flows::nowhere(),
            random: SystemRandom::new(),
            changed: Notify::new(),
        }
    }

    /// With a host that tracks connections.
    #[must_use]
    pub(crate) fn with_flows(mut self, flows: Flows) -> Self {
        self.flows = flows;
        self
    }

    /// What the host's connection tracking knows of addresses that are given back.
    pub(crate) fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Opens a session and returns its cookie. `certified` if the user's certificate was needed for it.
    pub(crate) fn login(
        &self,
        user: &str,
        group: Option<&str>,
        (reserved, certified): (Reservation, bool),
        now: Now,
    ) -> Result<Secret, LoginRefused> {
        let cookie = Secret::new(URL_SAFE_NO_PAD.encode(self.random_bytes::<COOKIE_BYTES>()));
        let id = SessionId(self.random_bytes());
        let login = Login {
            user,
            group,
            certified,
            reserved,
            id,
            cookie: hash(&cookie),
        };
        let outcome = self.table.borrow_mut().login(&login, now);
        // The new session has a deadline, and a refusal may leave something to report.
        self.changed.notify_one();
        let gave_way = outcome?;
        debug!(session = %id, user = escape(user).as_str(), "logged in");
        self.gave_way(gave_way, now);
        Ok(cookie)
    }

    /// Connects the session of a cookie or ticket; a connection it still has must give way.
    pub(crate) fn connect(
        &self,
        caller: &Caller<'_>,
        standing: impl Fn(&str, Option<&str>) -> Standing,
        now: Now,
    ) -> Result<Booking, ConnectRefused> {
        let Caller { offer, peer, .. } = caller;
        let ticket = self.tickets.borrow().open(offer.cookie.expose()).ok();
        let proof = offer.resume.as_ref().zip(caller.binding);
        let claim = Claim {
            shown: match &ticket {
                Some(ticket) => Shown::Ticket(ticket),
                None => Shown::Cookie(hash(&offer.cookie)),
            },
            families: (offer.want_v4, offer.want_v6),
            // Whoever does not hear of its session could never name it.
            key: offer.park.filter(|_| offer.session),
            proof: proof.map(|(resume, binding)| Proof { resume, binding }),
            certificate_user: caller.certificate_user,
        };
        let outcome = self.table.borrow_mut().connect(&claim, standing, now);
        // Also after a refusal: it may leave something to report.
        self.changed.notify_one();
        let connected = outcome?;
        let entrance = connected.entrance;
        match entrance {
            Entrance::Login => self.gave_way(connected.ended.clone(), now),
            Entrance::Cookie | Entrance::Ticket | Entrance::Proof | Entrance::Rebuilt => {
                self.all_over(connected.ended.clone(), now);
            }
        }
        // It was over, and is rebuilt before its last tunnel has said so: what that says is of the session before.
        let over = |record: &mut Record| record.ending.take();
        let over = self.records.borrow_mut().get_mut(&connected.id).and_then(over);
        if let Some(ended) = over {
            self.close_record(&ended, now);
        }
        let mut records = self.records.borrow_mut();
        let record = records.entry(connected.id).or_insert_with(|| {
            let user = escape(&connected.user);
            let v4 = connected.lease.v4.map(tracing::field::display);
            let v6 = connected.lease.v6.map(tracing::field::display);
            info!(session = %connected.id, from = %peer, by = %entrance, v4, v6, user = user.as_str(), "session.start");
            let account = self.accounts.begin(connected.id, &connected.user, peer.ip(), now);
            self.accounts.opened(&account, &connected.lease, now);
            Record::new(user, account, connected.lease)
        });
        record.connections += 1;
        record.entrance = Some(entrance);
        if record.connections > 1 {
            debug!(
                session = %connected.id,
                epoch = connected.epoch,
                from = %peer,
                by = %entrance,
                takes_over = connected.replaced.is_some(),
                "session attached again"
            );
        }
        record.lease = connected.lease;
        record.account.peer = peer.ip().to_canonical();
        record.epoch = connected.epoch;
        record.report = Report::default();
        let worker = record.tunnel.unwrap_or_else(|| self.crew.idlest());
        record.tunnel = Some(worker);
        let connection = (connected.id, connected.epoch);
        self.crew.seat(worker, connection, &connected.lease, &record.losses);
        drop(records);
        self.keep(connected.id, now);
        if let Some(parked) = connected.parked {
            self.back(connected.id, parked, (Via::Resume, Some(entrance)), now);
        }
        warn_of_missed(&connected);
        Ok(Booking {
            ticket: self.ticket(&connected, now),
            connected,
            worker,
        })
    }

    /// Nobody came for a seat; the session waits.
    pub(crate) fn nobody_came(&self, booking: &Booking, why: &str, now: Now) {
        let (id, epoch) = (booking.connected.id, booking.connected.epoch);
        self.crew.vacate(booking.worker, (id, epoch));
        self.left(id, epoch, &Traffic::default(), Left::Detached(why.to_owned()), now);
    }

    /// What a tunnel says.
    pub(crate) fn heard(&self, notice: Notice, now: Now) {
        let Notice { session, epoch, news } = notice;
        match news {
            News::Report(report) => self.report(session, epoch, report),
            News::ControlLost(why) => self.control_lost(session, epoch, &why, now),
            News::Parked(kind) => self.parked(session, epoch, kind, now),
            News::Stirred { is_new } => self.stirred(session, epoch, is_new, now),
            News::Unparked(via) => self.unparked(session, epoch, via, now),
            News::Left(traffic, how) => self.left(session, epoch, &traffic, how, now),
        }
    }

    /// The workers.
    pub(crate) fn crew(&self) -> &Rc<Crew> {
        &self.crew
    }

    /// What the client of a connection is to show at the next.
    fn ticket(&self, connected: &Connected, now: Now) -> Option<Secret> {
        let ticket = connected.ticket.as_ref()?;
        let mut keys = self.tickets.borrow_mut();
        if keys.rotate(|| self.random_bytes(), now.wall) {
            self.store.keys(&keys);
        }
        keys.seal(ticket, self.random_bytes())
    }

    /// A new token that ends this connection's epoch of a session later, without a tunnel.
    pub(crate) fn logout_token(&self, id: SessionId, epoch: u64, now: Now) -> Secret {
        // Written as an id is: 16 random bytes, 32 digits.
        let token = Secret::new(SessionId(self.random_bytes()).to_string());
        let hash = TokenHash(sha256(&token));
        self.table.borrow_mut().allow_logout(id, epoch, hash);
        self.keep(id, now);
        token
    }

    /// Ends a session whose client could not say goodbye, if it is still there at the epoch that the client knows.
    pub(crate) fn logout(&self, logout: &Logout, now: Now) -> Result<(), WrongToken> {
        let Some(id) = SessionId::parse(&logout.session.id) else {
            return Ok(());
        };
        let token = TokenHash(sha256(&logout.token));
        let ended = self.table.borrow_mut().logout(id, logout.session.epoch, &token, now)?;
        self.all_over(ended, now);
        self.changed.notify_one();
        Ok(())
    }

    /// The tunnel of a connection is over; `traffic` is what it carried.
    pub(crate) fn left(&self, id: SessionId, epoch: u64, traffic: &Traffic, how: Left, now: Now) {
        let ending = {
            let mut records = self.records.borrow_mut();
            let Some(record) = records.get_mut(&id) else { return };
            record.traffic.add(traffic);
            if record.epoch == epoch {
                record.tunnel = None;
                record.report = Report::default();
            }
            record.ending.take_if(|ended| ended.connected == Some(epoch))
        };
        if let Some(ended) = ending {
            return self.close_record(&ended, now);
        }
        match how {
            Left::Ended(reason) => {
                let ended = self.table.borrow_mut().end(id, Some(epoch), reason, now);
                self.all_over(ended, now);
            }
            Left::Detached(why) => self.detach(id, epoch, &why, now),
            Left::Ordered => {}
            Left::Stopping if self.store.keeps() => self.detach(id, epoch, STOPPING, now),
            Left::Stopping => {
                let reason = EndReason::Admin(STOPPING.to_owned());
                let ended = self.table.borrow_mut().end(id, Some(epoch), reason, now);
                self.all_over(ended, now);
            }
        }
        self.changed.notify_one();
    }

    /// Ends the sessions whose time is over, and parks those that have waited for long.
    pub(crate) fn expire(&self, now: Now) {
        let ended = self.table.borrow_mut().expire(now);
        self.all_over(ended, now);
        self.forget_revoked(now);
        self.park_the_unreachable(now);
    }

    /// When to call [`SessionRoom::expire`].
    pub(crate) fn deadline(&self, now: Now) -> Option<Deadline> {
        self.table.borrow().deadline(now)
    }

    /// Applies a reloaded configuration: limits and reservations from now on, and the end of users who may not be here.
    pub(crate) fn reload(
        &self,
        limits: Limits,
        reservations: Vec<(String, Reservation)>,
        may_stay: impl Fn(&str, Option<&str>) -> bool,
        now: Now,
    ) {
        self.accounts.expect_sessions(limits.sessions);
        let ended = {
            let mut table = self.table.borrow_mut();
            table.set_limits(limits);
            table.set_reservations(reservations);
            table.retain_users(may_stay, now)
        };
        self.all_over(ended, now);
        self.changed.notify_one();
    }

    /// Ends every session, because the gateway does and keeps no state; otherwise writes what has become of them all.
    pub(crate) fn end_all(&self, now: Now) {
        // Of tunnels that have not said in time what they carried: what they reported last.
        for record in self.records.borrow_mut().values_mut() {
            record.traffic.add(&std::mem::take(&mut record.report).traffic);
        }
        if self.store.keeps() {
            self.keep_all(now);
        } else {
            let ended: Vec<_> = {
                let mut table = self.table.borrow_mut();
                let all: Vec<_> = table.iter().map(|(id, _)| id).collect();
                let reason = || EndReason::Admin(STOPPING.to_owned());
                all.into_iter()
                    .filter_map(|id| table.end(id, None, reason(), now))
                    .collect()
            };
            self.all_over(ended, now);
        }
        // Of tunnels that did not report in time: what was counted before.
        let late = |record: &mut Record| record.ending.take();
        let late: Vec<_> = self.records.borrow_mut().values_mut().filter_map(late).collect();
        for ended in late {
            self.close_record(&ended, now);
        }
    }

    /// The records of sessions.
    pub(crate) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Sessions with and without a connection.
    pub(crate) fn len(&self) -> usize {
        self.table.borrow().iter().count()
    }

    fn all_over(&self, ended: impl IntoIterator<Item = Ended>, now: Now) {
        for ended in ended {
            self.over(ended, now);
        }
    }

    /// Sessions that a login pushed out. Where one was parked, its user has come back by that login.
    fn gave_way(&self, ended: Vec<Ended>, now: Now) {
        for ended in ended {
            if let (EndReason::Replaced, Some(parked)) = (&ended.reason, ended.parked) {
                self.back(ended.id, parked, (Via::Login, None), now);
            }
            self.over(ended, now);
        }
    }

    /// A session left the table. Its tunnel, if it has one, gets its order and reports before the last line is written.
    fn over(&self, ended: Ended, now: Now) {
        self.flows.forget(&ended.lease);
        let mut records = self.records.borrow_mut();
        let Some(record) = records.get_mut(&ended.id) else {
            let user = escape(&ended.user);
            debug!(session = %ended.id, reason = %ended.reason, user = user.as_str(), "a login was never used");
            return;
        };
        self.store.ended(ended.id, ended.revoked_until, now);
        self.crew.forget(ended.id, &ended.lease);
        let tunnel = record.tunnel.take();
        if let Some(worker) = tunnel {
            self.crew.end(worker, (ended.id, record.epoch), ended.reason.clone());
        }
        if tunnel.is_some() && ended.connected.is_some() {
            record.ending = Some(ended);
        } else {
            drop(records);
            self.close_record(&ended, now);
        }
    }

    fn close_record(&self, ended: &Ended, now: Now) {
        let Some(Record {
            user,
            account,
            mut traffic,
            losses,
            epoch,
            connections,
            ..
        }) = self.records.borrow_mut().remove(&ended.id)
        else {
            return;
        };
        traffic.drops.add(&losses.read());
        self.accounts
            .closed(&account, ended, (epoch, connections), &traffic, now);
        self.counters.borrow_mut().ended(&ended.reason, &traffic.drops);
        info!(
            session = %ended.id,
            user = user.as_str(),
            reason = %ended.reason.word(),
            age_s = ended.age.as_secs(),
            connections,
            packets_in = traffic.packets_in,
            bytes_in = traffic.bytes_in,
            packets_out = traffic.packets_out,
            bytes_out = traffic.bytes_out,
            drops = %traffic.drops,
            "session.end"
        );
    }

    fn random_bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.random
            .fill(&mut bytes)
            .expect("the system has randomness once it runs");
        bytes
    }
}

/// A reserved address that another session holds: what relies on it does not find this one.
fn warn_of_missed(connected: &Connected) {
    let missed = connected.missed;
    for address in [missed.v4.map(IpAddr::V4), missed.v6.map(IpAddr::V6)]
        .into_iter()
        .flatten()
    {
        let user = escape(&connected.user);
        warn!(
            session = %connected.id,
            reserved = %address,
            user = user.as_str(),
            "another session holds the address reserved for this user; this one got another"
        );
    }
}

fn hash(cookie: &Secret) -> CookieHash {
    CookieHash(sha256(cookie))
}

fn sha256(secret: &Secret) -> [u8; 32] {
    let digest = digest(&SHA256, secret.expose().as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests;
