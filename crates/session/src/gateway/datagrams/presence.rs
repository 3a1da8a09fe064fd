//! What the client says of itself over the data channel: that it sleeps, that it is awake, and that it is there at all.
//!
//! Of these words only the newest record of a link counts, so that one withheld or repeated can neither put a client to sleep
//! nor wake it; and an answer goes to an address that is proven to be the client's, and nowhere else.

use now::{Awake, Now};
use wire::cstp::Kind;

use super::{Datagrams, GatewayData, MAX_OUTPUTS};
use crate::datagrams::sealed;
use crate::park::Via;

/// A word of the client that is to be answered with the same eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owed {
    Park([u8; 8]),
    Awake([u8; 8]),
}

impl<E: Copy + Eq> Datagrams<E> {
    /// Whether anything authentic arrived since the last time this was asked, other than the words that have outputs of their
    /// own, and whether from where the client was.
    pub fn take_word(&mut self) -> Option<Via> {
        self.word.take()
    }

    /// The client is parked: nothing is sent to it that is not asked for, and the time does not count for its paths. Its keys
    /// stay.
    pub fn rest(&mut self, now: Now) {
        if self.resting.is_some() {
            return;
        }
        self.resting = Some(now.awake);
        if let Some(link) = self.links.first_mut() {
            // What it was asked before it slept is no reason to doubt its path afterwards.
            link.watch.heard(now.awake);
        }
    }

    /// The client is back.
    pub fn wake(&mut self, now: Now) {
        self.catch_up(now.awake);
        if self.resting.take().is_some() {
            self.look_at_mtu(now.awake);
        }
    }

    /// Asks the client for a word, if packets to it take this channel. `false`: it is to be asked over the other.
    pub fn ask(&mut self, now: Now) -> bool {
        if !self.is_up() {
            return false;
        }
        let Some(link) = self.links.first_mut() else {
            return false;
        };
        let Some(record) = sealed(&mut link.seal, Kind::DpdRequest, &[]) else {
            return false;
        };
        link.watch.sent(now.awake);
        self.outputs.push_back(GatewayData::Send(link.endpoint, record));
        true
    }

    /// The links have rested until now.
    pub(super) fn catch_up(&mut self, now: Awake) {
        let Some(since) = &mut self.resting else { return };
        let by = now.since(std::mem::replace(since, now));
        for link in &mut self.links {
            link.watch.rebase(by);
            if let Some(mtu) = &mut link.mtu {
                mtu.rebase(by);
            }
        }
    }

    /// Something authentic came over a link. From elsewhere it is nobody's word before the address has echoed its challenge: who
    /// has kept a record back could send it from anywhere.
    pub(super) fn word_from(&mut self, index: usize, endpoint: E) {
        let elsewhere = self.links.get(index).is_some_and(|link| link.endpoint != endpoint);
        if !elsewhere && self.word.is_none() {
            self.word = Some(Via::SamePath);
        }
    }

    /// The client says that it sleeps, or that it is awake.
    pub(super) fn presence(&mut self, (index, newest): (usize, bool), endpoint: E, kind: Kind, payload: &[u8]) {
        let Some(owed) = Owed::parse(kind, payload).filter(|_| self.terms.parks && newest) else {
            return self.word_from(index, endpoint);
        };
        let Some(link) = self.links.get_mut(index) else { return };
        if link.endpoint == endpoint {
            return self.settle(index, owed, Via::SamePath);
        }
        if let Some(candidate) = &mut link.candidate
            && candidate.endpoint == endpoint
        {
            candidate.owed = Some(owed);
        }
        self.word_from(index, endpoint);
    }

    /// Answers to where the client is now, and says what it said.
    pub(super) fn settle(&mut self, index: usize, owed: Owed, via: Via) {
        let (kind, payload, said) = match owed {
            Owed::Park(payload) => (Kind::ParkAnswer, payload, GatewayData::Park),
            Owed::Awake(payload) => (Kind::AwakeAnswer, payload, GatewayData::Awake(via)),
        };
        let Some(link) = self.links.get_mut(index) else { return };
        if self.outputs.len() < MAX_OUTPUTS
            && let Some(record) = sealed(&mut link.seal, kind, &payload)
        {
            self.outputs.push_back(GatewayData::Send(link.endpoint, record));
        }
        self.outputs.push_back(said);
    }
}

impl Owed {
    fn parse(kind: Kind, payload: &[u8]) -> Option<Self> {
        let payload = payload.try_into().ok()?;
        match kind {
            Kind::Park => Some(Self::Park(payload)),
            Kind::Awake => Some(Self::Awake(payload)),
            Kind::Data
            | Kind::DpdRequest
            | Kind::DpdResponse
            | Kind::Disconnect
            | Kind::Keepalive
            | Kind::Compressed
            | Kind::Terminate
            | Kind::ParkAnswer
            | Kind::AwakeAnswer
            | Kind::Bundle
            | Kind::Unknown(_) => None,
        }
    }
}
