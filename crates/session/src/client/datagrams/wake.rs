//! Parking, the quiet after it, and the way out of a sleep.
//!
//! ```text
//!   Active --park: Park--> Quiet --wake: Awake--> Waking --AwakeAnswer--> Active, unparked
//!     |   <--ParkAnswer--   ^                       |
//!     +------be_quiet-------+                       | no answer within 3 round trips: the same link from a fresh socket, Awake
//!                                                   | again, a CONNECT in the background; again after 0.25, 0.5, 1 ... 30 s
//! ```
//! In quiet nothing is said that was not asked for: no keepalive, probe, handshake or renewal, and nothing that happens is held
//! against the path. Packets go out on the keys that are there, and what arrives is opened.

use std::time::Duration;

use now::{Awake, Now};
use wire::cstp::Kind;

use super::{DataOutput, Datagrams, PathId};
use crate::datagrams::{PathWatch, sealed};
use crate::park::Via;
use crate::round_trip::Pauses;

/// Random bytes that only the answer repeats.
pub type Token = [u8; 8];

/// An answer at a wake is not taken for lost before this: a radio that wakes with its host takes 100 ms to 200 ms.
const LEAST_PATIENCE: Duration = Duration::from_millis(300);

/// When the gateway is asked for proof of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// At once: somebody is there after a sleep.
    AtOnce,
    /// When something is to be sent: the process stood still and the host did not, so that probably nothing has changed.
    WhenSending,
}

/// How much is done unasked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stance {
    /// Everything.
    Active,
    /// Nothing. The token is that of a park which is not answered yet.
    Quiet(Option<Token>),
    /// Everything, and the gateway is to say that it knows.
    Waking(Waking),
}

/// A wake whose proof is still to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waking {
    token: Token,
    asked: Option<Asked>,
    via: Via,
    /// Something else that is authentic has come.
    heard: bool,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    first: Awake,
    times: u32,
    next: Awake,
    pauses: Pauses,
}

/// Whether the gateway was heard since the last doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Proven,
    Unverified,
    Silent,
}

impl Datagrams {
    /// Tells the gateway that this host is about to sleep, and is quiet from then on. Its answer is [`DataOutput::Parked`].
    /// Returns whether it could be told over this channel.
    pub fn park(&mut self, token: Token, now: Now) -> bool {
        let said = self.terms.parks && self.path().is_some();
        if said {
            self.send_control(Kind::Park, &token, now.awake);
        }
        self.be_quiet();
        if said {
            self.stance = Stance::Quiet(Some(token));
        }
        said
    }

    /// Does nothing unasked until [`Datagrams::wake`].
    pub fn be_quiet(&mut self) {
        if !self.is_quiet() {
            self.stance = Stance::Quiet(None);
        }
        // Nobody would answer its timers.
        if self.attempt.take().is_some() {
            self.next_attempt = self.last_attempt;
        }
        self.round_trip.forget_question();
    }

    pub(super) fn is_quiet(&self) -> bool {
        matches!(self.stance, Stance::Quiet(_))
    }

    /// Somebody is there again: a gateway of ours is told so and asked for an answer, and what was put off is made up for. A
    /// stock gateway gets another handshake, from a fresh port. Returns whether the gateway is asked over this channel.
    pub fn wake(&mut self, token: Token, ask: Ask, now: Now) -> bool {
        let now = now.awake;
        self.stance = Stance::Active;
        self.life = Life::Unverified;
        if let Some(link) = &mut self.link {
            link.watch = PathWatch::new(self.terms.dpd, now);
        }
        self.renew_soon(now);
        if let Some(why) = self.owed.take() {
            self.ask_for_renewal(why, now);
        }
        let alive = self.path().is_some();
        if alive {
            self.stance = Stance::Waking(Waking {
                token,
                asked: None,
                via: self.moved.unwrap_or(Via::SamePath),
                heard: false,
            });
        } else {
            self.failures = 0;
            self.begin(now);
        }
        self.moved = None;
        match ask {
            Ask::AtOnce => self.ask(now),
            Ask::WhenSending => {}
        }
        alive && self.terms.parks
    }

    /// Asks for proof of life if that was put off.
    pub(super) fn ask(&mut self, now: Awake) {
        let Stance::Waking(waking) = &mut self.stance else {
            return;
        };
        if waking.asked.is_some() {
            return;
        }
        if !self.terms.parks {
            // What was under way is older than the gap, and so is its port.
            self.stance = Stance::Active;
            self.attempt = None;
            return self.begin(now);
        }
        waking.asked = Some(Asked {
            first: now,
            times: 0,
            next: now.plus(self.round_trip.patience(LEAST_PATIENCE)),
            pauses: Pauses::new(),
        });
        self.say_awake(now);
    }

    /// When the gateway is asked again.
    pub(super) fn asks_again_at(&self) -> Option<Awake> {
        match &self.stance {
            Stance::Waking(waking) => waking.asked.map(|asked| asked.next),
            Stance::Active | Stance::Quiet(_) => None,
        }
    }

    /// Asks again if it is time. A gateway that was heard got the word or will get it; one that was not is looked for.
    pub(super) fn ask_again(&mut self, now: Awake) {
        let Stance::Waking(waking) = &mut self.stance else {
            return;
        };
        let Some(asked) = waking.asked.as_mut().filter(|asked| asked.next <= now) else {
            return;
        };
        asked.next = now.plus(asked.pauses.next());
        if !waking.heard {
            waking.via = Via::Rebind;
            self.silent();
            if let Some(path) = self.rebind(now) {
                self.outputs.push_back(DataOutput::Rebind(path));
            }
            self.ask_for_renewal("nothing answers after a sleep", now);
        }
        self.say_awake(now);
    }

    /// There is another path, or another link: what was tried before says nothing.
    pub(super) fn ask_from_here(&mut self, now: Awake) {
        let Stance::Waking(waking) = &mut self.stance else {
            if self.is_quiet() {
                self.moved = Some(Via::Rebind);
            }
            return;
        };
        waking.via = Via::Rebind;
        if let Some(asked) = &mut waking.asked {
            asked.pauses = Pauses::new();
            asked.next = now.plus(self.round_trip.patience(LEAST_PATIENCE));
            self.say_awake(now);
        }
    }

    /// This host has a way to the gateway again, from where it was: a question that waits for its pause is asked now.
    pub fn ask_anew(&mut self, now: Now) {
        if let Stance::Waking(waking) = &mut self.stance
            && let Some(asked) = &mut waking.asked
        {
            asked.pauses = Pauses::new();
            asked.next = now.awake.plus(self.round_trip.patience(LEAST_PATIENCE));
            self.say_awake(now.awake);
        }
    }

    fn say_awake(&mut self, now: Awake) {
        let (Stance::Waking(waking), Some(link)) = (&mut self.stance, &mut self.link) else {
            return;
        };
        if let Some(asked) = &mut waking.asked {
            asked.times += 1;
        }
        link.sent = now;
        link.watch.sent(now);
        // Also over a link that was given up: it may be good where the host is now.
        if let Some(record) = sealed(&mut link.keys.seal, Kind::Awake, &waking.token) {
            self.outputs.push_back(DataOutput::Send(link.path, record));
        }
    }

    /// The gateway has answered a park.
    pub(super) fn park_answered(&mut self, payload: &[u8]) {
        if let Stance::Quiet(token) = &mut self.stance
            && token.is_some_and(|token| token == payload)
        {
            *token = None;
            self.outputs.push_back(DataOutput::Parked);
        }
    }

    /// The gateway has answered that it knows.
    pub(super) fn awake_answered(&mut self, payload: &[u8], now: Awake) {
        let Stance::Waking(waking) = self.stance else { return };
        let Some(asked) = waking.asked.filter(|_| waking.token == payload) else {
            return;
        };
        if asked.times == 1 {
            self.round_trip.sample(now.since(asked.first));
        }
        self.stance = Stance::Active;
        self.outputs.push_back(DataOutput::Unparked(waking.via));
    }

    /// The control connection is gone: whether this channel is heard of is to be said anew.
    pub fn doubt(&mut self, now: Now) {
        self.life = Life::Unverified;
        if !self.is_quiet() {
            self.send_control(Kind::DpdRequest, &[], now.awake);
        }
    }

    /// An authentic record arrived that is no older than the last gap.
    pub(super) fn proven(&mut self) {
        if let Stance::Waking(waking) = &mut self.stance {
            waking.heard = true;
        }
        if std::mem::replace(&mut self.life, Life::Proven) != Life::Proven {
            self.outputs.push_back(DataOutput::Alive);
        }
    }

    /// What was asked was not answered in time.
    pub(super) fn silent(&mut self) {
        if std::mem::replace(&mut self.life, Life::Silent) != Life::Silent {
            self.outputs.push_back(DataOutput::Silent);
        }
    }

    /// This process did not run for a while.
    pub(super) fn rebase_wake(&mut self, by: Duration) {
        self.life = Life::Unverified;
        self.round_trip.forget_question();
        if let Stance::Waking(waking) = &mut self.stance {
            waking.heard = false;
            if let Some(asked) = &mut waking.asked {
                asked.next = asked.next.plus(by);
                // An answer that waited is no measure.
                asked.times = asked.times.max(2);
            }
        }
    }

    /// Whether nobody has answered the question of a wake yet.
    pub(super) fn is_in_doubt(&self) -> bool {
        match &self.stance {
            Stance::Waking(waking) => waking.asked.is_some() && !waking.heard,
            Stance::Active | Stance::Quiet(_) => false,
        }
    }

    /// The same link goes on over a new path, if its records have ids.
    pub(super) fn rebind(&mut self, now: Awake) -> Option<PathId> {
        self.link.as_ref().filter(|link| link.keys.roams)?;
        let path = self.new_path();
        if let Some(link) = &mut self.link {
            link.path = path;
            if let Some(mtu) = &mut link.mtu {
                mtu.suspect(now);
            }
        }
        self.close_surplus();
        Some(path)
    }
}
