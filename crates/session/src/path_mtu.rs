//! The largest inner packet that a datagram channel carries, found by probes that the peer echoes: RFC 8899, reduced.
//!
//! ```text
//!                 suspected, unconfirmed, refused, 600 s below the ceiling
//!              +----------------------------------------------------------+
//!              v                                                          |
//!   new --> Probing: a ladder of sizes at once, finer, finer ... --> Settled (confirmed size)
//!
//!   current()  the size before the search  ->  what is confirmed, once the size before lost three tries
//! ```
//! ICMP is not needed: a router that drops without a word is found like any other. Sizes are those of inner packets; a probe
//! is a dead-peer detection request of the same length ([`probe_payload`]). The echo is as long as the probe, so an answer
//! vouches for both directions. A stock `openconnect` answers without the payload and cannot be probed; `ocserv` can.
//!
//! The budget: a search sends at most [`PathMtu::PROBES_MAX`] probes, 64 x 1434 bytes = 92 kB under a ceiling for Ethernet
//! (at most 48 on a path without loss), and begins at least [`PathMtu::SEARCH_GAP`] after the one before. A search that
//! merely confirms sends one probe.
//!
//! Time is the awake clock; after every call the owner asks [`PathMtu::poll`] until there is no more to send.

mod ladder;
mod probe;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use now::{Awake, Deadline};

use ladder::Ladder;
pub use probe::{parse_probe, probe_payload};

/// A try is lost after three round trips, within these bounds: a loaded peer may take 100 ms, and longer than 3 s no useful
/// path takes.
const TIMEOUT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// The same before a round trip was measured: that of a path of 100 ms.
const TIMEOUT_UNMEASURED: Duration = Duration::from_millis(300);

/// An answer later than that is none: the path may have changed since.
const LATE_MAX: Duration = Duration::from_secs(10);

/// A probe to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Length of the payload, in bytes: of the inner packet whose place it takes.
    pub size: u16,
    /// Names this try. A counter, see [`probe_payload`].
    pub id: u32,
}

/// Is the search under way?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Probes are on their way.
    Probing,
    /// The size is confirmed, or is the floor.
    Settled,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    probe: Probe,
    at: Awake,
}

/// Why a search is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    Raise,
    Confirm,
}

/// The search for the path MTU of one channel. A channel over another path gets a new one.
#[derive(Clone, Debug)]
pub struct PathMtu {
    ladder: Ladder,
    search: Search,
    /// What [`PathMtu::current`] was when the search began.
    assumed: u16,
    /// What [`PathMtu::changed`] said last.
    reported: u16,
    /// Probes without an answer, the oldest first; at most [`PathMtu::PROBES_MAX`].
    sent: VecDeque<Sent>,
    next_id: u32,
    /// Probes of this search.
    spent: u16,
    /// Smoothed.
    round_trip: Option<Duration>,
    began: Awake,
    confirmed: Awake,
    raise: Option<Awake>,
    traffic: Option<Awake>,
}

impl PathMtu {
    /// Most probes of one search. An undisturbed one between 576 and 9000 bytes needs 48; the rest is for loss.
    pub const PROBES_MAX: u16 = 64;

    /// From the beginning of one search to that of the next, so that suspicion cannot flood a path in trouble.
    pub const SEARCH_GAP: Duration = Duration::from_secs(3);

    /// A confirmed size below the ceiling is tried to be raised this long after (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER).
    pub const RAISE_AFTER: Duration = Duration::from_secs(600);

    /// A confirmed size that is in use is confirmed again this long after. RFC 8899 section 5.1.1 wants CONFIRMATION_TIMER to
    /// be well below PMTU_RAISE_TIMER and leaves the number open.
    pub const CONFIRM_AFTER: Duration = Duration::from_secs(60);

    /// A search in which not even the floor was answered is repeated this long after: the path was down, not narrow.
    pub const SILENCE_AFTER: Duration = Duration::from_secs(30);

    /// Begins to search. `ceiling` is the inner MTU that the tunnel was granted, and is assumed until it is refuted;
    /// `floor` the one that passes every path, for example 1280 less the overhead.
    pub fn new(floor: u16, ceiling: u16, now: Awake) -> Self {
        let mut ladder = Ladder::new(floor, ceiling);
        ladder.climb();
        Self {
            ladder,
            search: Search::Probing,
            assumed: ceiling,
            reported: ceiling,
            sent: VecDeque::new(),
            next_id: 1,
            spent: 0,
            round_trip: None,
            began: now,
            confirmed: now,
            raise: None,
            traffic: None,
        }
    }

    /// Assumes that the path carries what one to the same peer did, instead of the ceiling, until the search knows better.
    #[must_use]
    pub fn assuming(mut self, size: u16) -> Self {
        self.assumed = size.clamp(self.ladder.floor, self.ladder.ceiling);
        self.reported = self.assumed;
        self
    }

    /// The largest inner packet to be sent now.
    pub fn current(&self) -> u16 {
        let confirmed = self.ladder.confirmed().unwrap_or(self.ladder.floor);
        match self.search {
            Search::Probing if !self.ladder.excludes(self.assumed) => confirmed.max(self.assumed),
            Search::Probing | Search::Settled => confirmed,
        }
    }

    /// [`PathMtu::current`], if it is not what this said last. It starts as what is assumed: the ceiling, or
    /// [`PathMtu::assuming`].
    pub fn changed(&mut self) -> Option<u16> {
        let current = self.current();
        let is_new = current != self.reported;
        self.reported = current;
        is_new.then_some(current)
    }

    /// Is the search under way?
    pub fn search(&self) -> Search {
        self.search
    }

    /// The next probe to be sent now. It counts as sent; one that the host would not take is told to
    /// [`PathMtu::refused`] if its size was the reason, and is lost otherwise.
    pub fn poll(&mut self, now: Awake) -> Option<Probe> {
        self.advance(now);
        if self.spent >= Self::PROBES_MAX {
            return None;
        }
        let probe = Probe {
            size: self.ladder.take(now, self.timeout())?,
            id: self.next_id,
        };
        self.next_id = self.next_id.wrapping_add(1);
        self.spent += 1;
        if self.sent.len() >= usize::from(Self::PROBES_MAX) {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { probe, at: now });
        Some(probe)
    }

    /// A probe came back: its id and the length of the payload. What was not asked, or not so, is ignored.
    pub fn answered(&mut self, id: u32, size: u16, now: Awake) {
        let Some(sent) = self.take_sent(Probe { size, id }) else {
            return;
        };
        let took = now.since(sent.at);
        if took > LATE_MAX {
            return;
        }
        // The smoothing of RFC 6298 section 2; each try has an id of its own, so no sample is ambiguous.
        self.round_trip = Some(self.round_trip.map_or(took, |before| (before * 7 + took) / 8));
        let is_more = Some(size) > self.ladder.confirmed();
        self.ladder.answered(size);
        if self.ladder.confirmed() == Some(size) {
            self.confirmed = now;
        }
        match self.search {
            Search::Probing => self.advance(now),
            // Later than the verdict, which it proves wrong.
            Search::Settled if is_more => self.raise = (size < self.ladder.ceiling).then_some(now),
            Search::Settled => {}
        }
    }

    /// The host refused to send a datagram with an inner packet of `size` bytes (`EMSGSIZE`): it knows that the path does
    /// not carry it. If that was confirmed or assumed, [`PathMtu::current`] falls at once. The floor is beyond doubt here;
    /// a path that does not carry it is left to dead-peer detection.
    pub fn refused(&mut self, size: u16) {
        let size = size.max(self.ladder.floor.saturating_add(1));
        if size > self.ladder.ceiling {
            return;
        }
        let is_less = Some(size) <= self.ladder.confirmed();
        self.ladder.refused(size);
        self.sent.retain(|sent| sent.probe.size < size);
        if is_less && self.search == Search::Settled {
            self.raise = Some(self.began);
        }
    }

    /// Large packets seem to vanish. Ignored during a search and until [`PathMtu::SEARCH_GAP`] after the beginning of the
    /// last one.
    pub fn suspect(&mut self, now: Awake) {
        if self.search == Search::Settled && now >= self.allowed() && self.current() > self.ladder.floor {
            self.begin(now);
            self.sent.clear();
            self.ladder.descend();
        }
    }

    /// What was sent brought nothing back, a small probe did. One probe of the size in use tells whether that was the reason.
    /// Ignored as [`PathMtu::suspect`] is, and while nothing is sent.
    pub fn doubt(&mut self, now: Awake) {
        if self.search == Search::Settled && now >= self.allowed() && self.is_in_use() {
            self.confirm(now);
        }
    }

    /// A packet went out. A size that is in use is confirmed again and again; an idle channel stays silent.
    pub fn traffic(&mut self, now: Awake) {
        self.traffic = Some(now);
    }

    /// When to call [`PathMtu::handle_timeout`].
    pub fn deadline(&self) -> Option<Deadline> {
        match self.search {
            Search::Probing => Some(Deadline {
                at: self.ladder.due().unwrap_or(self.began),
                reason: "path mtu probe",
            }),
            Search::Settled => self.errand().map(|(at, errand)| Deadline {
                at,
                reason: errand.reason(),
            }),
        }
    }

    /// Looks at the clock.
    pub fn handle_timeout(&mut self, now: Awake) {
        match self.search {
            Search::Probing => {
                self.ladder.time_out(now);
                self.advance(now);
            }
            Search::Settled => match self.errand().filter(|(at, _)| *at <= now) {
                Some((_, Errand::Raise)) => {
                    self.begin(now);
                    self.raise = None;
                    self.ladder.climb();
                }
                Some((_, Errand::Confirm)) => self.confirm(now),
                None => {}
            },
        }
    }

    /// Time in which this process did not run does not count.
    pub fn rebase(&mut self, by: Duration) {
        self.ladder.rebase(by);
        let stamps = [&mut self.began, &mut self.confirmed];
        let options = self.raise.iter_mut().chain(&mut self.traffic);
        let sent = self.sent.iter_mut().map(|sent| &mut sent.at);
        for at in stamps.into_iter().chain(options).chain(sent) {
            *at = at.plus(by);
        }
    }

    fn begin(&mut self, now: Awake) {
        self.assumed = self.current();
        self.search = Search::Probing;
        self.began = now;
        self.spent = 0;
    }

    fn confirm(&mut self, now: Awake) {
        self.begin(now);
        self.sent.clear();
        self.ladder.verify();
    }

    /// Has something been sent since a size above the floor was confirmed?
    fn is_in_use(&self) -> bool {
        let is_used = self.traffic.is_some_and(|traffic| traffic > self.confirmed);
        is_used && self.ladder.confirmed() > Some(self.ladder.floor)
    }

    fn advance(&mut self, now: Awake) {
        if self.search == Search::Settled {
            return;
        }
        self.ladder.fill();
        let is_spent = self.spent >= Self::PROBES_MAX && self.ladder.due().is_none();
        if is_spent || self.ladder.is_done() {
            self.settle(now);
        }
    }

    fn settle(&mut self, now: Awake) {
        self.search = Search::Settled;
        self.ladder.clear();
        self.raise = match self.ladder.confirmed() {
            None => {
                self.ladder.absolve();
                Some(now.plus(Self::SILENCE_AFTER))
            }
            Some(size) if size >= self.ladder.ceiling => None,
            // Confirming what was known does not put off the raise.
            Some(size) if size == self.assumed => self.raise.or(Some(now.plus(Self::RAISE_AFTER))),
            Some(_) => Some(now.plus(Self::RAISE_AFTER)),
        };
    }

    /// What is to be done next, and when.
    fn errand(&self) -> Option<(Awake, Errand)> {
        let confirm = self
            .is_in_use()
            .then(|| (self.confirmed.plus(Self::CONFIRM_AFTER), Errand::Confirm));
        let raise = self.raise.map(|at| (at, Errand::Raise));
        let (at, errand) = raise.into_iter().chain(confirm).min_by_key(|(at, _)| *at)?;
        Some((at.max(self.allowed()), errand))
    }

    fn allowed(&self) -> Awake {
        self.began.plus(Self::SEARCH_GAP)
    }

    fn timeout(&self) -> Duration {
        let (least, most) = TIMEOUT;
        self.round_trip
            .map_or(TIMEOUT_UNMEASURED, |round_trip| (round_trip * 3).clamp(least, most))
    }

    fn take_sent(&mut self, probe: Probe) -> Option<Sent> {
        let at = self.sent.iter().position(|sent| sent.probe == probe)?;
        self.sent.remove(at)
    }
}

impl Errand {
    const fn reason(self) -> &'static str {
        match self {
            Self::Raise => "path mtu raise",
            Self::Confirm => "path mtu confirmation",
        }
    }
}
