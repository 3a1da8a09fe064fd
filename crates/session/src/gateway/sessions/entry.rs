//! What the table keeps of one session.

use std::time::Duration;

use now::Boot;
use wire::offer::ParkKey;

use super::{CookieHash, TokenHash};
use crate::gateway::{Lease, Reservation};
use crate::park::ParkKind;

/// A moment on the boot clock that may lie before the host booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    at: Boot,
    /// How long ago it was at `at`.
    before: Duration,
}

impl Since {
    /// This moment.
    pub const fn now(now: Boot) -> Self {
        Self::ago(Duration::ZERO, now)
    }

    /// The moment that at `now` was `age` ago.
    pub const fn ago(age: Duration, now: Boot) -> Self {
        Self { at: now, before: age }
    }

    /// Since when it is known.
    pub(super) const fn known(self) -> Boot {
        self.at
    }

    /// How long ago it is at `now`.
    pub const fn age(self, now: Boot) -> Duration {
        now.since(self.at).saturating_add(self.before)
    }

    /// When it will be `time` ago; not before it became known.
    pub const fn plus(self, time: Duration) -> Boot {
        self.at.plus(time.saturating_sub(self.before))
    }
}

/// By what a session's client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// A control connection, perhaps with a data channel.
    Connected,
    /// The data channel alone: the control connection is lost.
    DataOnly,
    /// Nothing, since then.
    Waiting(Since),
}

/// How a session is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Why, as far as is known now.
    pub kind: ParkKind,
    /// Since when, whatever the kind was at first.
    pub since: Since,
    /// How often its client said something meanwhile.
    pub wakes: u32,
}

/// One session as status shows it.
#[derive(Clone, Debug)]
pub struct Entry {
    pub(super) user: String,
    pub(super) group: Option<String>,
    /// Whether the user's certificate was needed to log in, and is needed to connect.
    pub(super) certified: bool,
    pub(super) cookie: Option<CookieHash>,
    pub(super) reserved: Reservation,
    pub(super) lease: Lease,
    pub(super) epoch: u64,
    /// Ends this epoch; goes with it.
    pub(super) token: Option<TokenHash>,
    /// By which its client proves, at each connection after the first, that it is the one that logged in.
    pub(super) key: Option<ParkKey>,
    pub(super) began: Since,
    pub(super) presence: Presence,
    pub(super) parked: Option<Parked>,
    /// When the client was heard of last, as far as that matters: while it waits or is parked.
    pub(super) last_word: Since,
    /// Until when there may be tickets of it.
    pub(super) tickets_until: Option<Boot>,
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

    /// The number of its newest connection.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// By what its client is connected.
    pub fn presence(&self) -> Presence {
        self.presence
    }

    /// How it is parked, if it is.
    pub fn parked(&self) -> Option<Parked> {
        self.parked
    }

    /// When the user logged in.
    pub fn began(&self) -> Since {
        self.began
    }

    /// When the client was heard of last, if it waits or is parked.
    pub fn last_word(&self) -> Since {
        self.last_word
    }

    /// Whether anything of a connection lives: the control channel, or the data channel alone.
    pub fn has_tunnel(&self) -> bool {
        self.waiting_since().is_none()
    }

    /// Whether its client can park and prove that it is the one that did.
    pub fn can_park(&self) -> bool {
        self.key.is_some()
    }

    pub(super) fn waiting_since(&self) -> Option<Since> {
        match self.presence {
            Presence::Waiting(since) => Some(since),
            Presence::Connected | Presence::DataOnly => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_before_the_host_booted_is_as_far_away_as_any_other() {
        let s = Duration::from_secs;
        let boot = |seconds| Boot::from_origin(s(seconds));
        let before = Since::ago(s(100), boot(10));
        assert_eq!(before.age(boot(15)), s(105));
        assert_eq!(before.plus(s(160)), boot(70));
        assert_eq!(before.plus(s(50)), boot(10), "over at once");
        assert_eq!(Since::now(boot(10)).plus(s(5)), boot(15));
    }
}
