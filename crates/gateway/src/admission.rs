//! Every limit on what a client can make the gateway keep or do, in one room.
//!
//! ```text
//!   accept --connect()--> TLS handshake --> HTTP --attempt()--> argon2 --> session --> frames
//!            connections   handshake        login   failed logins  one per      sessions,
//!            total, per    timeout          timeout, per address,  core, short  per user
//!            address                        requests per user      queue        (session::gateway)
//! ```
//! "Address" means one IPv4 address or one IPv6 /64, which is what one subscriber has. Pure: time comes as an argument.
//! The tables here cannot grow beyond the connections that are open and [`MAX_TRACKED`] failed logins.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::time::Duration;

use config::gateway::Limits;
use now::{Awake, Now};

/// Sources and users with failed logins that are remembered, each. Each costs about 50 bytes; more than this in one window
/// is an attack by so many addresses that forgetting the oldest makes no difference.
pub const MAX_TRACKED: usize = 16_384;

/// How much more often a user may fail than an address: a user's limit only has to stop guesses that come from many
/// addresses, and must not let one stranger lock the user out.
pub const USER_FACTOR: u32 = 10;

/// Logins that may wait for their turn at argon2. At about 50 ms each on two cores the last one waits two seconds.
pub const MAX_WAITING_LOGINS: usize = 64;

/// Reads of the device that may wait for one session: each one packet, or several of one flow.
pub const SESSION_QUEUE: usize = 256;

/// Bytes that they keep: about 30 ms at 100 Mbit/s.
pub const SESSION_QUEUE_BYTES: usize = 360 * 1024;

/// What a peer may still send after we have refused its message, in bytes and in time, before we close: closing at once
/// would reset the connection and take our answer with it (RFC 9112 section 9.6).
pub const LINGER: (usize, Duration) = (256 * 1024, Duration::from_secs(2));

/// Who connects, as limits count it: an IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(u64, bool);

impl Source {
    /// The source of an address. An IPv4 address inside of an IPv6 one counts as IPv4.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u64::from(address.to_bits()), false),
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64, true),
        }
    }
}

/// Why somebody is not let in now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The gateway has all the connections it may have.
    Connections,
    /// This source has all the connections it may have.
    ConnectionsOfSource,
    /// Too many failed logins from this source.
    AttemptsOfSource,
    /// Too many failed logins for this user.
    AttemptsOfUser,
}

impl Refused {
    /// The word for logs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsOfSource => "connections_per_address",
            Self::AttemptsOfSource => "login_attempts_per_address",
            Self::AttemptsOfUser => "login_attempts_per_user",
        }
    }
}

/// Counts connections and failed logins, and says no.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    open: u32,
    by_source: HashMap<Source, u32>,
    sources: Windows<Source>,
    users: Windows<u64>,
    hasher: RandomState,
}

impl Admission {
    /// Nobody is there yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            open: 0,
            by_source: HashMap::new(),
            sources: Windows::default(),
            users: Windows::default(),
            hasher: RandomState::new(),
        }
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Changes the limits. Who is in stays in.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Connections that are open.
    pub fn open(&self) -> u32 {
        self.open
    }

    /// Lets a connection in, to be followed by one [`Admission::disconnected`].
    ///
    /// # Errors
    /// [`Refused::Connections`], [`Refused::ConnectionsOfSource`].
    pub fn connected(&mut self, source: Source) -> Result<(), Refused> {
        if self.open >= self.limits.connections {
            return Err(Refused::Connections);
        }
        let count = self.by_source.entry(source).or_insert(0);
        if *count >= self.limits.connections_per_address {
            return Err(Refused::ConnectionsOfSource);
        }
        *count += 1;
        self.open += 1;
        Ok(())
    }

    /// A connection that was let in is over.
    pub fn disconnected(&mut self, source: Source) {
        self.open = self.open.saturating_sub(1);
        if let Some(count) = self.by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
    }

    /// A login is about to be tried. It counts as failed at once, so that many at the same time do not get past the limit;
    /// [`Admission::succeeded`] takes it back.
    ///
    /// # Errors
    /// [`Refused::AttemptsOfSource`], [`Refused::AttemptsOfUser`]; the attempt is then not counted.
    pub fn attempt(&mut self, source: Source, user: &str, now: Now) -> Result<(), Refused> {
        let (limit, window) = (self.limits.login_attempts_per_address, self.limits.login_window);
        let user = self.hasher.hash_one(user);
        if self.sources.count(&source, window, now.awake) >= limit {
            return Err(Refused::AttemptsOfSource);
        }
        if self.users.count(&user, window, now.awake) >= limit.saturating_mul(USER_FACTOR) {
            return Err(Refused::AttemptsOfUser);
        }
        self.sources.add(source, window, now.awake);
        self.users.add(user, window, now.awake);
        Ok(())
    }

    /// A logout token is about to be looked at. It counts as a failed login of its source, until
    /// [`Admission::token_was_right`] takes it back.
    ///
    /// # Errors
    /// [`Refused::AttemptsOfSource`]; the attempt is then not counted.
    pub fn try_token(&mut self, source: Source, now: Now) -> Result<(), Refused> {
        let (limit, window) = (self.limits.login_attempts_per_address, self.limits.login_window);
        if self.sources.count(&source, window, now.awake) >= limit {
            return Err(Refused::AttemptsOfSource);
        }
        self.sources.add(source, window, now.awake);
        Ok(())
    }

    /// The token was right, or there was nothing to end with it.
    pub fn token_was_right(&mut self, source: Source) {
        self.sources.take_back(&source);
    }

    /// The login succeeded, or was not decided: the attempt does not count.
    pub fn succeeded(&mut self, source: Source, user: &str) {
        self.sources.take_back(&source);
        self.users.take_back(&self.hasher.hash_one(user));
    }
}

/// Counts per key, each in a window that starts with its first count. At most [`MAX_TRACKED`] keys.
#[derive(Debug)]
struct Windows<K>(HashMap<K, (Awake, u32)>);

impl<K> Default for Windows<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq + Copy> Windows<K> {
    fn count(&self, key: &K, window: Duration, now: Awake) -> u32 {
        match self.0.get(key) {
            Some((started, count)) if now.since(*started) < window => *count,
            _ => 0,
        }
    }

    fn add(&mut self, key: K, window: Duration, now: Awake) {
        if self.0.len() >= MAX_TRACKED && !self.0.contains_key(&key) {
            self.make_room(window, now);
        }
        let entry = self.0.entry(key).or_insert((now, 0));
        if now.since(entry.0) >= window {
            *entry = (now, 0);
        }
        entry.1 = entry.1.saturating_add(1);
    }

    fn take_back(&mut self, key: &K) {
        if let Some((_, count)) = self.0.get_mut(key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.0.remove(key);
            }
        }
    }

    /// Forgets windows that are over, or else the oldest eighth, so that making room is rare.
    fn make_room(&mut self, window: Duration, now: Awake) {
        self.0.retain(|_, (started, _)| now.since(*started) < window);
        if self.0.len() < MAX_TRACKED {
            return;
        }
        let mut keys: Vec<_> = self.0.iter().map(|(key, (started, _))| (*started, *key)).collect();
        let (oldest, _, _) = keys.select_nth_unstable_by_key(MAX_TRACKED / 8, |(started, _)| *started);
        for (_, key) in oldest {
            self.0.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn limits() -> Limits {
        Limits {
            sessions: 10,
            sessions_per_user: 2,
            connections: 3,
            connections_per_address: 2,
            handshake_timeout: Duration::from_secs(10),
            login_timeout: Duration::from_secs(120),
            head_bytes: 16_384,
            body_bytes: 65_536,
            requests_per_connection: 32,
            login_attempts_per_address: 3,
            login_window: Duration::from_secs(600),
        }
    }

    fn source(last: u8) -> Source {
        Source::of(IpAddr::from([192, 0, 2, last]))
    }

    fn at(seconds: u64) -> Now {
        Now::default().plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network_of_64_bits() {
        let v6 = |text: &str| Source::of(text.parse::<Ipv6Addr>().expect("address").into());
        assert_eq!(v6("2001:db8:0:1::1"), v6("2001:db8:0:1:ffff::9"));
        assert_ne!(v6("2001:db8:0:1::1"), v6("2001:db8:0:2::1"));
        assert_eq!(v6("::ffff:192.0.2.1"), source(1));
        assert_ne!(v6("::"), Source::of(Ipv4Addr::UNSPECIFIED.into()));
    }

    #[test]
    fn connections_are_limited_in_total_and_per_source() {
        let mut admission = Admission::new(limits());
        assert_eq!(admission.connected(source(1)), Ok(()));
        assert_eq!(admission.connected(source(1)), Ok(()));
        assert_eq!(admission.connected(source(1)), Err(Refused::ConnectionsOfSource));
        assert_eq!(admission.connected(source(2)), Ok(()));
        assert_eq!(admission.connected(source(3)), Err(Refused::Connections));
        admission.disconnected(source(1));
        assert_eq!(admission.connected(source(3)), Ok(()));
        assert_eq!(admission.open(), 3);
    }

    #[test]
    fn the_table_of_connections_holds_only_who_is_there() {
        let mut admission = Admission::new(limits());
        for last in 0..100 {
            admission.connected(source(last)).expect("room");
            admission.disconnected(source(last));
        }
        assert!(admission.by_source.is_empty());
        assert_eq!(admission.open(), 0);
    }

    #[test]
    fn failed_logins_of_a_source_are_limited_until_the_window_is_over() {
        let mut admission = Admission::new(limits());
        for second in 0..3 {
            assert_eq!(admission.attempt(source(1), "alice", at(second)), Ok(()));
        }
        assert_eq!(
            admission.attempt(source(1), "bob", at(10)),
            Err(Refused::AttemptsOfSource)
        );
        assert_eq!(admission.attempt(source(2), "alice", at(10)), Ok(()));
        assert_eq!(
            admission.attempt(source(1), "bob", at(599)),
            Err(Refused::AttemptsOfSource)
        );
        assert_eq!(admission.attempt(source(1), "bob", at(600)), Ok(()));
    }

    #[test]
    fn a_login_that_succeeds_does_not_count() {
        let mut admission = Admission::new(limits());
        for _ in 0..100 {
            assert_eq!(admission.attempt(source(1), "alice", at(0)), Ok(()));
            admission.succeeded(source(1), "alice");
        }
        assert!(admission.sources.0.is_empty() && admission.users.0.is_empty());
    }

    #[test]
    fn a_wrong_logout_token_counts_as_a_failed_login_of_its_source() {
        let mut admission = Admission::new(limits());
        for _ in 0..100 {
            assert_eq!(admission.try_token(source(1), at(0)), Ok(()));
            admission.token_was_right(source(1));
        }
        assert_eq!(admission.attempt(source(1), "alice", at(0)), Ok(()));
        assert_eq!(admission.try_token(source(1), at(0)), Ok(()));
        assert_eq!(admission.try_token(source(1), at(0)), Ok(()));
        assert_eq!(admission.try_token(source(1), at(0)), Err(Refused::AttemptsOfSource));
        assert_eq!(
            admission.attempt(source(1), "alice", at(0)),
            Err(Refused::AttemptsOfSource)
        );
        assert_eq!(admission.try_token(source(2), at(0)), Ok(()));
    }

    #[test]
    fn guesses_at_one_user_from_many_sources_are_limited_too() {
        let mut admission = Admission::new(limits());
        for last in 0..30 {
            assert_eq!(admission.attempt(source(last), "alice", at(0)), Ok(()));
        }
        assert_eq!(
            admission.attempt(source(99), "alice", at(1)),
            Err(Refused::AttemptsOfUser)
        );
        assert_eq!(admission.attempt(source(99), "bob", at(1)), Ok(()));
    }

    #[test]
    fn failed_logins_from_everywhere_do_not_fill_the_memory() {
        let mut admission = Admission::new(limits());
        for number in 0..2 * MAX_TRACKED as u32 {
            let source = Source::of(Ipv4Addr::from_bits(number).into());
            admission
                .attempt(source, &number.to_string(), at(0))
                .expect("first of its source");
        }
        for tracked in [admission.sources.0.len(), admission.users.0.len()] {
            assert!((MAX_TRACKED / 2..=MAX_TRACKED).contains(&tracked), "{tracked}");
        }
    }
}
