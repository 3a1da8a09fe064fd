//! Sleep and wake over the control channel: the word to the gateway where there is no data channel, and whether TCP has
//! outlived the sleep.
//!
//! Nothing is sent twice here: TCP repeats it. A question that nobody answers is a reason for another connection in the
//! background, and no reason to let go of this one.

use std::time::Duration;

use now::{Awake, Deadline, Now};
use wire::cstp::Kind;

use super::Established;
use crate::Output;
use crate::client::Token;
use crate::liveness::Liveness;
use crate::round_trip::{Pauses, RoundTrip};
use crate::timers::Timer;

/// An answer over TCP is not missed before this: a segment that is lost is repeated after 200 ms and a round trip, and a stock
/// gateway that is short of time answers late.
const LEAST_PATIENCE: Duration = Duration::from_secs(2);

/// With a gateway that keeps sessions the control channel is asked only while packets depend on it: this long after the first
/// that nothing answered.
const CARRIED_ASKS_AFTER: Duration = Duration::from_secs(4);

/// After a stretch in which this process stood still an idle channel is asked for its own sake, this long after it: whoever
/// speaks first makes the question needless.
const ASKS_AFTER_FREEZE: Duration = Duration::from_secs(2);

/// And is given up this long after it, so that a person hears of it within 10 s.
const CARRIED_DEAD_AFTER: Duration = Duration::from_secs(8);

/// What is to be known of the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The gateway knows that this host sleeps.
    Parked,
    /// The gateway knows that this host is awake again.
    Unparked,
    /// It was heard: the first time since a gap, or since it was silent.
    Alive,
    /// It was asked and did not answer in time; once until it is heard again.
    Silent,
    /// The session is to be connected anew, in the background.
    Renew(&'static str),
}

/// What is known of the other end, and what it was asked.
#[derive(Debug)]
pub(super) struct Watch {
    stance: Stance,
    life: Life,
    round_trip: RoundTrip,
    /// The first packet that took this channel since anything came, and whether it was asked for since.
    carried: Option<(Awake, bool)>,
    /// When an idle channel is asked for its own sake.
    asks_at: Option<Awake>,
    words: Vec<Word>,
}

#[derive(Clone, Copy, Debug)]
enum Stance {
    Active,
    Quiet(Option<Token>),
    Waking {
        /// That of an awake record; without one a probe was sent.
        token: Option<Token>,
        since: Awake,
        next: Option<Awake>,
        pauses: Pauses,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Proven,
    Unverified,
    Silent,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            stance: Stance::Active,
            life: Life::Proven,
            round_trip: RoundTrip::default(),
            carried: None,
            asks_at: None,
            words: Vec::new(),
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        matches!(self.stance, Stance::Quiet(_))
    }

    /// Something came that is no older than the last gap.
    pub(super) fn heard(&mut self, now: Awake) {
        self.carried = None;
        self.asks_at = None;
        if let Stance::Waking { token, since, next, .. } = &mut self.stance
            && next.take().is_some()
        {
            let took = now.since(*since);
            if token.is_none() {
                self.stance = Stance::Active;
            }
            self.round_trip.sample(took);
        }
        if std::mem::replace(&mut self.life, Life::Proven) != Life::Proven {
            self.words.push(Word::Alive);
        }
    }

    pub(super) fn silent(&mut self) {
        if std::mem::replace(&mut self.life, Life::Silent) != Life::Silent {
            self.words.push(Word::Silent);
        }
    }

    pub(super) fn park_answered(&mut self, payload: &[u8]) {
        if let Stance::Quiet(token) = &mut self.stance
            && token.is_some_and(|token| token == payload)
        {
            *token = None;
            self.words.push(Word::Parked);
        }
    }

    pub(super) fn awake_answered(&mut self, payload: &[u8]) {
        if let Stance::Waking { token: Some(token), .. } = self.stance
            && token == payload
        {
            self.stance = Stance::Active;
            self.words.push(Word::Unparked);
        }
    }

    pub(super) fn rebase(&mut self, by: Duration) {
        self.life = Life::Unverified;
        self.carried = None;
        self.asks_at = self.asks_at.map(|at| at.plus(by));
        if let Stance::Waking { since, next, .. } = &mut self.stance {
            *since = since.plus(by);
            *next = next.map(|next| next.plus(by));
        }
    }

    fn next(&self) -> Option<Awake> {
        match self.stance {
            Stance::Waking { next, .. } => next,
            Stance::Active | Stance::Quiet(_) => None,
        }
    }

    fn carried_due(&self) -> Option<Awake> {
        self.carried
            .map(|(since, asked)| since.plus(if asked { CARRIED_DEAD_AFTER } else { CARRIED_ASKS_AFTER }))
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        if self.is_quiet() {
            return None;
        }
        let at = |at: Option<Awake>, reason| at.map(|at| Deadline { at, reason });
        let asks = at(self.asks_at, "a question for its own sake");
        let carried = at(self.carried_due(), "an answer to packets on the control channel");
        Deadline::earliest(
            at(self.next(), "an answer after a sleep"),
            Deadline::earliest(asks, carried),
        )
    }
}

impl Established {
    /// The gateway is one of ours and keeps the session while this host sleeps.
    pub fn parks(&self) -> bool {
        self.grant.park.is_some()
    }

    /// Tells the gateway that this host is about to sleep, and is quiet from then on. Its answer is [`Word::Parked`].
    pub fn park(&mut self, token: Token) {
        if self.parks() {
            self.outputs.push_back(Output::Send(Kind::Park, token.to_vec()));
        }
        self.be_quiet();
        self.watch.stance = Stance::Quiet(Some(token));
    }

    /// Does nothing unasked until [`Established::wake`]. Bytes that nobody acknowledges would end the connection.
    pub fn be_quiet(&mut self) {
        if !self.watch.is_quiet() {
            self.watch.stance = Stance::Quiet(None);
        }
        self.watch.asks_at = None;
        self.timers.set(Timer::Keepalive, None);
        self.rearm();
    }

    /// Somebody is there again. With `awake` the gateway is told so over this channel, as there is no other; otherwise this
    /// channel is asked whether it has outlived the sleep.
    pub fn wake(&mut self, awake: Option<Token>, now: Now) {
        let now = now.awake;
        let token = awake.filter(|_| self.parks());
        self.watch.asks_at = None;
        self.watch.stance = Stance::Waking {
            token,
            since: now,
            next: Some(now.plus(self.watch.round_trip.patience(LEAST_PATIENCE))),
            pauses: Pauses::new(),
        };
        self.watch.life = Life::Unverified;
        self.outputs.push_back(match token {
            Some(token) => Output::Send(Kind::Awake, token.to_vec()),
            None => Output::Send(Kind::DpdRequest, Vec::new()),
        });
        self.restart(now);
    }

    /// As [`Established::wake`] after a stretch in which this process stood still and the host did not: nothing is asked.
    pub fn go_on(&mut self, now: Now) {
        self.watch.stance = Stance::Active;
        self.restart(now.awake);
    }

    /// Asks in a moment whether the gateway is there, unless it is heard before: there is no other channel that would ask.
    pub fn ask_soon(&mut self, now: Now) {
        if !self.over && !self.watch.is_quiet() && self.watch.life != Life::Proven {
            self.watch.asks_at.get_or_insert(now.awake.plus(ASKS_AFTER_FREEZE));
        }
    }

    /// Asks now whether the gateway is there, because this host has moved. Without an answer another connection is asked for.
    pub fn ask(&mut self, now: Now) {
        self.ask_at(now.awake);
    }

    fn ask_at(&mut self, now: Awake) {
        self.watch.asks_at = None;
        if self.over || self.watch.is_quiet() {
            return;
        }
        let token = match self.watch.stance {
            Stance::Waking { token, .. } => token,
            Stance::Active | Stance::Quiet(_) => None,
        };
        self.watch.stance = Stance::Waking {
            token,
            since: now,
            next: Some(now.plus(self.watch.round_trip.patience(LEAST_PATIENCE))),
            pauses: Pauses::new(),
        };
        self.outputs.push_back(Output::Send(Kind::DpdRequest, Vec::new()));
        self.sent(now);
    }

    /// The control channel is gone and the session goes on without: what would be sent over it is dropped, and nothing more is
    /// asked there.
    pub fn lost_control(&mut self) {
        self.over = true;
        self.outputs.clear();
        self.be_quiet();
    }

    /// A packet took this channel.
    pub fn carried(&mut self, now: Now) {
        if self.parks() && self.watch.carried.is_none() && !self.watch.is_quiet() {
            self.watch.carried = Some((now.awake, false));
        }
    }

    /// What is to be known, once.
    pub fn word(&mut self) -> Option<Word> {
        (!self.watch.words.is_empty()).then(|| self.watch.words.remove(0))
    }

    pub(super) fn handle_watch(&mut self, now: Awake) {
        if self.watch.asks_at.is_some_and(|at| at <= now) {
            self.ask_at(now);
        }
        if let Stance::Waking {
            next: next @ Some(_),
            pauses,
            ..
        } = &mut self.watch.stance
            && next.is_some_and(|at| at <= now)
        {
            *next = Some(now.plus(pauses.next()));
            self.watch.silent();
            self.watch
                .words
                .push(Word::Renew("the control channel does not answer"));
        }
        if self.watch.carried_due().is_some_and(|due| due <= now)
            && !self.watch.is_quiet()
            && let Some((since, asked)) = self.watch.carried
        {
            if asked {
                self.watch.carried = None;
                return self.over(Output::Dead("nothing comes back over the control channel"));
            }
            self.watch.carried = Some((since, true));
            self.watch.silent();
            self.outputs.push_back(Output::Send(Kind::DpdRequest, Vec::new()));
        }
    }

    fn restart(&mut self, now: Awake) {
        if let Some(liveness) = self.liveness {
            self.liveness = Some(Liveness::new(liveness.interval(), now));
        }
        self.sent(now);
        self.rearm();
    }
}
