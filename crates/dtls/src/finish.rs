//! The last two states of either role: waiting for ChangeCipherSpec, then for Finished.
//!
//! ```text
//!   AwaitChange -- ChangeCipherSpec --> AwaitFinished -- sealed Finished that fits --> Proven
//! ```
//! Only [`AwaitFinished`] opens records, and only it reads Finished: one in plaintext, or before the keys changed, is no
//! message of any state.

use aws_lc_rs::constant_time;

use crate::codec::Reader;
use crate::flight::{FinalFlight, Flight};
use crate::handshake::Facts;
use crate::held::Held;
use crate::inbox::{Fate, Inbox};
use crate::message::{Fragment, Kind, Message};
use crate::open::{Alert, OpenHalf};
use crate::record::{ContentType, Header};
use crate::schedule::VERIFY_DATA;
use crate::{Discard, Error, Misbehaviour};

/// Our part of the end, which differs by role.
pub(crate) enum Ending {
    /// Our Finished is sent, and repeated until that of the server comes.
    Client(FinalFlight),
    /// What was sent is repeated until the Finished of the client comes, which `reply` answers.
    Server { sent: Vec<Message>, reply: FinalFlight },
}

impl Ending {
    pub(crate) fn flight(&mut self) -> Flight<'_> {
        match self {
            Self::Client(last) => Flight::Final(last),
            Self::Server { sent, .. } => Flight::Plain(sent),
        }
    }
}

/// The keys are known; the peer does not use them yet.
pub(crate) struct AwaitChange {
    /// Sequence of the Finished that is to come.
    pub(crate) due: u16,
    /// What it must say.
    pub(crate) expected: [u8; VERIFY_DATA],
    pub(crate) open: OpenHalf,
    pub(crate) facts: Facts,
    pub(crate) ending: Ending,
}

impl AwaitChange {
    pub(crate) fn change(self) -> AwaitFinished {
        AwaitFinished {
            inbox: Inbox::starting_at(self.due),
            early: Held::default(),
            expected: self.expected,
            open: self.open,
            facts: self.facts,
            ending: self.ending,
        }
    }
}

/// The peer uses its keys.
pub(crate) struct AwaitFinished {
    /// Messages of epoch 1 only.
    inbox: Inbox,
    /// Application data that came before Finished, opened.
    early: Held,
    expected: [u8; VERIFY_DATA],
    pub(crate) open: OpenHalf,
    facts: Facts,
    pub(crate) ending: Ending,
}

/// What a sealed record did.
pub(crate) enum Step {
    Wait(Box<AwaitFinished>, Option<Discard>),
    /// The peer repeats itself.
    Repeated(Box<AwaitFinished>),
    Done(Box<Proven>),
    Failed(Box<AwaitFinished>, Error),
}

/// The peer has the key, and saw the same messages as we.
pub(crate) struct Proven {
    pub(crate) open: OpenHalf,
    pub(crate) facts: Facts,
    pub(crate) ending: Ending,
}

impl AwaitFinished {
    pub(crate) fn due(&self) -> u16 {
        self.inbox.due()
    }

    /// Takes a record of epoch 1, which ends where its header says.
    pub(crate) fn sealed(mut self, header: &Header, record: &mut [u8]) -> Step {
        let opened = match self.open.unseal(header, record) {
            Ok(opened) => opened,
            Err(reason) => return self.wait(Some(reason)),
        };
        let text = &record[opened.range];
        match opened.content {
            ContentType::Handshake => self.fragments(text),
            ContentType::Data if self.early.keep(text) => self.wait(None),
            ContentType::Data => self.wait(Some(Discard::OverLimit)),
            ContentType::Alert => match Alert::parse(text) {
                Some(Alert::Close) => Step::Failed(Box::new(self), Error::Closed),
                Some(Alert::Fatal(description)) => Step::Failed(Box::new(self), Error::PeerGaveUp(description)),
                Some(Alert::Warning) => self.wait(Some(Discard::Alert)),
                None => self.wait(Some(Discard::Malformed)),
            },
            ContentType::ChangeCipherSpec | ContentType::Identified => self.wait(Some(Discard::Unexpected)),
        }
    }

    fn wait(self, reason: Option<Discard>) -> Step {
        Step::Wait(Box::new(self), reason)
    }

    fn fragments(mut self, text: &[u8]) -> Step {
        let mut reader = Reader::new(text);
        while !reader.is_empty() {
            let Some(fragment) = Fragment::read(&mut reader) else {
                return self.wait(Some(Discard::Malformed));
            };
            match self.inbox.insert(&fragment) {
                Fate::Stored => {}
                Fate::Repeated => return Step::Repeated(Box::new(self)),
                Fate::Discarded(reason) => return self.wait(Some(reason)),
            }
            if let Some(message) = self.inbox.take() {
                return self.finished(&message);
            }
        }
        self.wait(None)
    }

    fn finished(mut self, message: &Message) -> Step {
        if message.kind != Kind::Finished {
            return Step::Failed(Box::new(self), Misbehaviour::UnexpectedMessage.into());
        }
        if constant_time::verify_slices_are_equal(&message.body, &self.expected).is_err() {
            return Step::Failed(Box::new(self), Misbehaviour::FinishedMismatch.into());
        }
        self.facts.early = self.early.take();
        Step::Done(Box::new(Proven {
            open: self.open,
            facts: self.facts,
            ending: self.ending,
        }))
    }
}
