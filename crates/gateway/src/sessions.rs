//! The one owner of the session table, and of what belongs to a session beside it: its connection and its counters.
//!
//! ```text
//!   connection --login()--> cookie          timer --expire()--+
//!   connection --connect()--> Seat          reload -----------+--> over(): orders to the connection, session.end
//!   tunnel --left(how)----------------------------------------+
//! ```
//! Everything here is done between two awaits of one thread; nothing is borrowed across one. Cookies exist here only until
//! they are handed out: the table knows their SHA-256.

mod parking;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use now::{Deadline, Now};
use session::gateway::{
    ConnectRefused, Connected, CookieHash, Ended, Lease, Limits, LoginRefused, Reservation, SessionId, Sessions,
    TokenHash, WrongToken,
};
use session::{EndReason, Traffic};
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{debug, info, warn};
use wire::Secret;
use wire::offer::Logout;
use wire::text::escape;

use crate::accounts::{Account, Accounts};
use crate::admission::SESSION_QUEUE;
use crate::datagrams::Inheritance;
use crate::switch::Switch;

/// Random bytes of a cookie: it is all a client shows at CONNECT, and nobody may guess it.
const COOKIE_BYTES: usize = 32;

/// Why sessions end with the gateway.
pub(crate) const STOPPING: &str = "the gateway stops";

/// What a connected session's tunnel is told from outside. At most one is ever sent: each ends it.
#[derive(Debug)]
pub(crate) enum Order {
    /// A newer connection of the same session took over: close without a word, the client is on the other one, and leave it
    /// the data channel.
    GiveWay(oneshot::Sender<Inheritance>),
    /// The session is over: tell the client, then close.
    End(EndReason),
}

/// How a tunnel ended, as it reports itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// The connection is gone; the session waits for its client.
    Detached(String),
    /// The session is over by the client's or the tunnel's own decision.
    Ended(EndReason),
    /// As ordered.
    Ordered,
}

/// A connected session's place: what its tunnel works with.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) connected: Connected,
    /// Packets for the client.
    pub(crate) packets: mpsc::Receiver<Bytes>,
    /// What happens to the session from outside.
    pub(crate) orders: oneshot::Receiver<Order>,
    /// The data channel of the connection before, if there was one.
    pub(crate) estate: Option<oneshot::Receiver<Inheritance>>,
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
    /// Its tunnel, until it was told to end.
    tunnel: Option<oneshot::Sender<Order>>,
    /// The session is over; its tunnel has yet to report its counters.
    ending: Option<Ended>,
}

/// See the module.
pub(crate) struct SessionRoom {
    table: RefCell<Sessions>,
    records: RefCell<HashMap<SessionId, Record>>,
    switch: Rc<Switch>,
    accounts: Accounts,
    random: SystemRandom,
    /// The table's deadline may have changed.
    pub(crate) changed: Notify,
}

impl SessionRoom {
    pub(crate) fn new(table: Sessions, switch: Rc<Switch>, accounts: Accounts) -> Self {
        Self {
            table: RefCell::new(table),
            records: RefCell::default(),
            switch,
            accounts,
            random: SystemRandom::new(),
            changed: Notify::new(),
        }
    }

    /// Opens a session and returns its cookie.
    pub(crate) fn login(
        &self,
        user: &str,
        group: Option<&str>,
        reserved: Reservation,
        now: Now,
    ) -> Result<Secret, LoginRefused> {
        let cookie = Secret::new(URL_SAFE_NO_PAD.encode(self.random_bytes::<COOKIE_BYTES>()));
        let id = SessionId(self.random_bytes());
        let outcome = self
            .table
            .borrow_mut()
            .login(user, group, reserved, id, hash(&cookie), now);
        // The new session has a deadline, and a refusal may leave something to report.
        self.changed.notify_one();
        let gave_way = outcome?;
        debug!(session = %id, user = escape(user).as_str(), "logged in");
        self.all_over(gave_way, now);
        Ok(cookie)
    }

    /// Connects the session of a cookie; a connection it still has must give way.
    pub(crate) fn connect(
        &self,
        cookie: &Secret,
        (v4, v6): (bool, bool),
        peer: SocketAddr,
        now: Now,
    ) -> Result<Seat, ConnectRefused> {
        let outcome = self.table.borrow_mut().connect(&hash(cookie), v4, v6, now);
        // Also after a refusal: it may leave something to report.
        self.changed.notify_one();
        let connected = outcome?;
        self.all_over(connected.ended.clone(), now);
        let (queue, packets) = mpsc::channel(SESSION_QUEUE);
        let (tunnel, orders) = oneshot::channel();
        self.switch.plug(connected.id, &connected.lease, queue);

        let mut records = self.records.borrow_mut();
        let record = records.entry(connected.id).or_insert_with(|| {
            let user = escape(&connected.user);
            let v4 = connected.lease.v4.map(tracing::field::display);
            let v6 = connected.lease.v6.map(tracing::field::display);
            info!(session = %connected.id, from = %peer, v4, v6, user = user.as_str(), "session.start");
            let account = self.accounts.begin(connected.id, &connected.user, peer.ip(), now);
            self.accounts.opened(&account, &connected.lease, now);
            Record {
                user,
                account,
                lease: connected.lease,
                traffic: Traffic::default(),
                epoch: 0,
                tunnel: None,
                ending: None,
            }
        });
        if record.epoch > 0 {
            debug!(session = %connected.id, epoch = connected.epoch, from = %peer, "session attached again");
        }
        record.lease = connected.lease;
        record.account.peer = peer.ip().to_canonical();
        record.epoch = connected.epoch;
        let estate = record.tunnel.replace(tunnel).map(|old| {
            let (heir, estate) = oneshot::channel();
            // Whoever is gone already needs no order.
            let _ = old.send(Order::GiveWay(heir));
            estate
        });
        warn_of_missed(&connected);
        Ok(Seat {
            connected,
            packets,
            orders,
            estate,
        })
    }

    /// A new token that ends this connection's epoch of a session later, without a tunnel.
    pub(crate) fn logout_token(&self, id: SessionId, epoch: u64) -> Secret {
        // Written as an id is: 16 random bytes, 32 digits.
        let token = Secret::new(SessionId(self.random_bytes()).to_string());
        let hash = TokenHash(sha256(&token));
        self.table.borrow_mut().allow_logout(id, epoch, hash);
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
        }
        self.changed.notify_one();
    }

    /// Ends the sessions whose time is over.
    pub(crate) fn expire(&self, now: Now) {
        let ended = self.table.borrow_mut().expire(now);
        self.all_over(ended, now);
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
        may_stay: impl Fn(&str) -> bool,
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

    /// Ends every session, because the gateway does and keeps no state.
    pub(crate) fn end_all(&self, now: Now) {
        let ended: Vec<_> = {
            let mut table = self.table.borrow_mut();
            let all: Vec<_> = table.iter().map(|(id, _)| id).collect();
            let reason = || EndReason::Admin(STOPPING.to_owned());
            all.into_iter()
                .filter_map(|id| table.end(id, None, reason(), now))
                .collect()
        };
        self.all_over(ended, now);
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

    fn detach(&self, id: SessionId, epoch: u64, why: &str, now: Now) {
        if !self.table.borrow_mut().detach(id, epoch, now) {
            return;
        }
        if let Some(record) = self.records.borrow().get(&id) {
            self.switch.unplug(id, &record.lease);
        }
        debug!(session = %id, epoch, why, "session detached");
    }

    fn all_over(&self, ended: impl IntoIterator<Item = Ended>, now: Now) {
        for ended in ended {
            self.over(ended, now);
        }
    }

    /// A session left the table. Its tunnel, if it has one, gets its order and reports before the last line is written.
    fn over(&self, ended: Ended, now: Now) {
        let mut records = self.records.borrow_mut();
        let Some(record) = records.get_mut(&ended.id) else {
            let user = escape(&ended.user);
            debug!(session = %ended.id, reason = %ended.reason, user = user.as_str(), "a login was never used");
            return;
        };
        record.traffic.drops.add(&self.switch.remove(ended.id, &ended.lease));
        let order = Order::End(ended.reason.clone());
        let obeyed = record.tunnel.take().is_some_and(|tunnel| tunnel.send(order).is_ok());
        if obeyed && ended.connected.is_some() {
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
            traffic,
            epoch,
            ..
        }) = self.records.borrow_mut().remove(&ended.id)
        else {
            return;
        };
        self.accounts.closed(&account, ended, epoch, &traffic, now);
        info!(
            session = %ended.id,
            user = user.as_str(),
            reason = %ended.reason.word(),
            age_s = ended.age.as_secs(),
            connections = epoch,
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
mod tests {
    use super::*;
    use crate::device::{MemoryDevice, of_memory};
    use session::gateway::Leases;
    use std::task::{Context, Waker};
    use std::time::Duration;

    fn room() -> SessionRoom {
        let (near, _far) = MemoryDevice::pair(8);
        let (_, writer) = of_memory(near);
        let pool = "10.78.0.0/29".parse().ok();
        let leases = Leases::new(pool, None, Duration::from_secs(600));
        let switch = Switch::new(writer, leases.gateway_addresses().collect(), false);
        let limits = Limits {
            sessions: 10,
            per_user: 2,
            cookie_lifetime: Duration::from_secs(900),
            session_timeout: Some(Duration::from_secs(3600)),
        };
        SessionRoom::new(Sessions::new(limits, leases), Rc::new(switch), Accounts::nowhere())
    }

    fn at(seconds: u64) -> Now {
        Now::default().plus(Duration::from_secs(seconds))
    }

    fn login(room: &SessionRoom) -> Secret {
        room.login("alice", None, Reservation::default(), at(0))
            .expect("session")
    }

    fn connect(room: &SessionRoom, cookie: &Secret, seconds: u64) -> Seat {
        let peer = SocketAddr::from(([192, 0, 2, 1], 40_000));
        room.connect(cookie, (true, true), peer, at(seconds)).expect("tunnel")
    }

    fn records(room: &SessionRoom) -> usize {
        room.records.borrow().len()
    }

    #[test]
    fn cookies_differ_and_are_long() {
        let room = room();
        let (one, other) = (login(&room), login(&room));
        assert_ne!(one, other);
        assert_eq!(one.expose().len(), 43);
    }

    #[test]
    fn the_timer_hears_of_every_login_and_connect() {
        let room = room();
        let woken = || {
            let notified = std::pin::pin!(room.changed.notified());
            notified.poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        assert!(!woken());
        let cookie = login(&room);
        assert!(woken() && !woken());
        connect(&room, &cookie, 1);
        assert!(woken() && !woken());
        let peer = SocketAddr::from(([192, 0, 2, 1], 40_000));
        room.connect(&Secret::from("unknown"), (true, true), peer, at(2))
            .expect_err("refused");
        assert!(woken());
    }

    #[test]
    fn a_second_connection_makes_the_first_give_way_and_keeps_the_lease() {
        let room = room();
        let cookie = login(&room);
        let mut first = connect(&room, &cookie, 1);
        let second = connect(&room, &cookie, 2);
        assert!(matches!(first.orders.try_recv(), Ok(Order::GiveWay(_))));
        assert_eq!(first.connected.lease, second.connected.lease);

        let id = first.connected.id;
        room.left(id, 1, &Traffic::default(), Left::Ordered, at(3));
        room.left(id, 1, &Traffic::default(), Left::Detached("late".to_owned()), at(3));
        assert!(room.table.borrow().iter().all(|(_, entry)| entry.is_connected()));
    }

    #[test]
    fn a_session_that_ends_from_outside_waits_for_the_counters_of_its_tunnel() {
        let room = room();
        let mut seat = connect(&room, &login(&room), 1);
        room.expire(at(3600));
        assert!(matches!(seat.orders.try_recv(), Ok(Order::End(EndReason::AuthExpired))));
        assert_eq!((room.len(), records(&room)), (0, 1));
        room.left(seat.connected.id, 1, &Traffic::default(), Left::Ordered, at(3601));
        assert_eq!(records(&room), 0);
    }

    #[test]
    fn a_detached_session_waits_and_then_ends() {
        let room = room();
        let cookie = login(&room);
        let seat = connect(&room, &cookie, 1);
        room.left(
            seat.connected.id,
            1,
            &Traffic::default(),
            Left::Detached("eof".to_owned()),
            at(10),
        );
        assert_eq!((room.len(), records(&room)), (1, 1));
        room.expire(at(909));
        assert_eq!(room.len(), 1);
        room.expire(at(910));
        assert_eq!((room.len(), records(&room)), (0, 0));
    }

    #[test]
    fn a_logout_destroys_the_cookie() {
        let room = room();
        let cookie = login(&room);
        let seat = connect(&room, &cookie, 1);
        room.left(
            seat.connected.id,
            1,
            &Traffic::default(),
            Left::Ended(EndReason::UserStop),
            at(2),
        );
        let peer = SocketAddr::from(([192, 0, 2, 1], 40_000));
        let refused = room.connect(&cookie, (true, true), peer, at(3)).expect_err("refused");
        assert_eq!(refused, ConnectRefused::UnknownCookie);
        assert_eq!(records(&room), 0);
    }

    #[test]
    fn a_reload_ends_the_sessions_of_users_who_are_gone() {
        let room = room();
        let cookie = login(&room);
        let mut seat = connect(&room, &cookie, 1);
        let limits = Limits {
            sessions: 10,
            per_user: 2,
            cookie_lifetime: Duration::from_secs(900),
            session_timeout: None,
        };
        room.reload(limits, Vec::new(), |user| user != "alice", at(2));
        assert!(matches!(seat.orders.try_recv(), Ok(Order::End(EndReason::Admin(_)))));
    }
}
