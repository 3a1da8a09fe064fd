//! What both roles share: datagrams to records, records to the state that is due, repetition and the end.
//!
//! ```text
//!   Plain (states of the role) --> Change --> Finished --> Ready --> Taken
//!        |                           |           |
//!        +---------------------------+-----------+--> Over (error)
//! ```

use std::time::Duration;

use now::{Awake, Deadline};

use crate::codec::Reader;
use crate::finish::{AwaitChange, AwaitFinished, Ending, Proven, Step};
use crate::flight::{Flight, Sender};
use crate::held::{Held, MAX_EARLY_BYTES, MAX_EARLY_RECORDS};
use crate::inbox::{Fate, Inbox};
use crate::message::{Fragment, Message};
use crate::open::{Alert, Content, OpenHalf};
use crate::protection::EPOCH;
use crate::record::{ContentType, Header};
use crate::{ConnectionId, Counters, Discard, Error, SealHalf, Suite, Tail};

/// A handshake that takes longer, in waking time, is given up.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

/// A connection: both halves, which may go to different threads, and what is left of the handshake.
#[derive(Debug)]
pub struct Established {
    /// Seals what we send.
    pub seal: SealHalf,
    /// Opens what we receive.
    pub open: OpenHalf,
    /// Answers a peer that missed the end of the handshake.
    pub tail: Tail,
    /// What was agreed on.
    pub facts: Facts,
}

/// What a handshake agreed on.
#[derive(Clone, PartialEq, Eq)]
pub struct Facts {
    /// The suite.
    pub suite: Suite,
    /// Whether the keys are bound to all messages of the handshake (RFC 7627).
    pub extended_master_secret: bool,
    /// The connection id that our records carry.
    pub peer_connection_id: Option<ConnectionId>,
    /// The connection id that records to us carry.
    pub own_connection_id: Option<ConnectionId>,
    /// Application data that came before the handshake was complete, opened; at most [`MAX_EARLY_RECORDS`].
    pub early: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Facts {
    /// Without what the peer sent.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Facts")
            .field("suite", &self.suite)
            .field("extended_master_secret", &self.extended_master_secret)
            .field("peer_connection_id", &self.peer_connection_id)
            .field("own_connection_id", &self.own_connection_id)
            .field("early", &self.early.len())
            .finish()
    }
}

/// The states of a role in which messages are in plaintext.
pub(crate) trait Plain: Sized {
    fn inbox(&mut self) -> &mut Inbox;

    /// What is repeated until an answer comes.
    fn flight(&self) -> &[Message];

    /// Length of the connection id in records to us.
    fn id_length(&self) -> usize;

    /// Whether the peer may have sent sealed records, which the network brought early.
    fn is_last(&self) -> bool;

    /// Takes the message that is due.
    fn message(self, message: Message, sender: &mut Sender, now: Awake) -> Result<Next<Self>, Error>;
}

/// Where a message led.
pub(crate) enum Next<P> {
    Plain(P),
    Change(Box<AwaitChange>),
}

enum Stage<P> {
    Plain(P),
    Change(Box<AwaitChange>),
    Finished(Box<AwaitFinished>),
    Ready(Box<Established>),
    /// The connection was handed over.
    Taken,
    Over(Error),
}

/// A handshake of either role.
pub(crate) struct Handshake<P> {
    stage: Stage<P>,
    sender: Sender,
    held: Held,
    give_up: Awake,
    discarded: Counters,
    unproven_alert: Option<u8>,
}

impl<P: Plain> Handshake<P> {
    /// Begins with the first flight of `plain`.
    pub(crate) fn new(plain: P, mut sender: Sender, now: Awake) -> Self {
        sender.begin(Flight::Plain(plain.flight()), now);
        Self::at(Stage::Plain(plain), sender, now)
    }

    /// Begins at the end.
    pub(crate) fn over(error: Error, sender: Sender, now: Awake) -> Self {
        Self::at(Stage::Over(error), sender, now)
    }

    fn at(stage: Stage<P>, sender: Sender, now: Awake) -> Self {
        Self {
            stage,
            sender,
            held: Held::default(),
            give_up: now.plus(HANDSHAKE_LIMIT),
            discarded: Counters::default(),
            unproven_alert: None,
        }
    }

    pub(crate) fn received(&mut self, datagram: &mut [u8], now: Awake) -> Result<(), Error> {
        self.result()?;
        let mut rest = datagram;
        while !rest.is_empty() {
            let Some(header) = Header::parse(rest, self.id_length()) else {
                self.discarded.add(Discard::Malformed);
                break;
            };
            let (record, behind) = rest.split_at_mut(header.body.end);
            self.record(&header, record, now);
            rest = behind;
        }
        self.result()
    }

    pub(crate) fn handle_timeout(&mut self, now: Awake) -> Result<(), Error> {
        if self.flight().is_some() && now >= self.give_up {
            self.stage = Stage::Over(Error::TimedOut);
        }
        if let (Some(flight), sender) = split(&mut self.stage, &mut self.sender) {
            sender.repeat_if_due(flight, now);
        }
        self.result()
    }

    pub(crate) fn deadline(&self) -> Option<Deadline> {
        let waiting = match &self.stage {
            Stage::Plain(_) | Stage::Change(_) | Stage::Finished(_) => true,
            Stage::Ready(_) | Stage::Taken | Stage::Over(_) => false,
        };
        let repeat = Deadline {
            at: self.sender.due(),
            reason: "dtls retransmission",
        };
        let limit = Deadline {
            at: self.give_up,
            reason: "dtls handshake limit",
        };
        waiting.then(|| Deadline::earliest(Some(limit), Some(repeat)))?
    }

    pub(crate) fn rebase(&mut self, by: Duration) {
        self.give_up = self.give_up.plus(by);
        self.sender.rebase(by);
    }

    pub(crate) fn poll(&mut self) -> Option<Vec<u8>> {
        self.sender.poll()
    }

    pub(crate) fn established(&mut self) -> Option<Established> {
        match std::mem::replace(&mut self.stage, Stage::Taken) {
            Stage::Ready(established) => Some(*established),
            other => {
                self.stage = other;
                None
            }
        }
    }

    pub(crate) fn discarded(&self) -> &Counters {
        &self.discarded
    }

    pub(crate) fn unproven_alert(&self) -> Option<u8> {
        self.unproven_alert
    }

    fn result(&self) -> Result<(), Error> {
        match &self.stage {
            Stage::Over(error) => Err(*error),
            Stage::Plain(_) | Stage::Change(_) | Stage::Finished(_) | Stage::Ready(_) | Stage::Taken => Ok(()),
        }
    }

    fn flight(&mut self) -> Option<Flight<'_>> {
        split(&mut self.stage, &mut self.sender).0
    }

    fn id_length(&self) -> usize {
        match &self.stage {
            Stage::Plain(plain) => plain.id_length(),
            Stage::Change(change) => change.open.id_length(),
            Stage::Finished(finished) => finished.open.id_length(),
            Stage::Ready(established) => established.open.id_length(),
            Stage::Taken | Stage::Over(_) => 0,
        }
    }

    /// Takes one record, which ends where its header says.
    fn record(&mut self, header: &Header, record: &mut [u8], now: Awake) {
        if let Stage::Ready(established) = &mut self.stage {
            if let Err(error) = early(established, record, &mut self.sender, now) {
                self.stage = Stage::Over(error);
            }
            return;
        }
        let body = header.body.clone();
        match (header.epoch, header.content) {
            (0, ContentType::Handshake) => self.fragments(&record[body], now),
            (0, ContentType::ChangeCipherSpec) if record[body.clone()] == [1] => self.change(record, now),
            (0, ContentType::ChangeCipherSpec) => self.discarded.add(Discard::Malformed),
            (0, ContentType::Alert) => self.unproven(&record[body]),
            (EPOCH, _) => self.sealed(header, record, now),
            (_, _) => self.discarded.add(Discard::WrongEpoch),
        }
    }

    /// Anybody can write an alert of epoch 0, so it decides nothing.
    fn unproven(&mut self, body: &[u8]) {
        self.discarded.add(Discard::Alert);
        if let Some(Alert::Fatal(description)) = Alert::parse(body) {
            self.unproven_alert = Some(description);
        }
    }

    fn fragments(&mut self, body: &[u8], now: Awake) {
        let mut reader = Reader::new(body);
        while !reader.is_empty() {
            let Some(fragment) = Fragment::read(&mut reader) else {
                self.discarded.add(Discard::Malformed);
                return;
            };
            let fate = match &mut self.stage {
                Stage::Plain(plain) => plain.inbox().insert(&fragment),
                Stage::Change(change) => behind(fragment.sequence, change.due),
                Stage::Finished(finished) => behind(fragment.sequence, finished.due()),
                Stage::Ready(_) | Stage::Taken | Stage::Over(_) => return,
            };
            match fate {
                Fate::Stored => self.messages(now),
                Fate::Repeated => self.repeat(now),
                Fate::Discarded(reason) => self.discarded.add(reason),
            }
        }
    }

    /// Gives messages that are whole to the state that is due.
    fn messages(&mut self, now: Awake) {
        while let Stage::Plain(plain) = &mut self.stage {
            let Some(message) = plain.inbox().take() else { return };
            let Stage::Plain(plain) = std::mem::replace(&mut self.stage, Stage::Taken) else {
                return;
            };
            match plain.message(message, &mut self.sender, now) {
                Ok(Next::Plain(plain)) => self.stage = Stage::Plain(plain),
                Ok(Next::Change(change)) => {
                    self.stage = Stage::Change(change);
                    self.replay(now);
                }
                Err(error) => self.fail(error, None),
            }
        }
    }

    fn change(&mut self, record: &[u8], now: Awake) {
        match std::mem::replace(&mut self.stage, Stage::Taken) {
            Stage::Change(change) => {
                self.stage = Stage::Finished(Box::new(change.change()));
                self.replay(now);
            }
            Stage::Plain(plain) => {
                let early = plain.is_last();
                self.stage = Stage::Plain(plain);
                self.hold(early, record);
            }
            other => {
                self.stage = other;
                self.discarded.add(Discard::Unexpected);
            }
        }
    }

    fn sealed(&mut self, header: &Header, record: &mut [u8], now: Awake) {
        match std::mem::replace(&mut self.stage, Stage::Taken) {
            Stage::Finished(finished) => match finished.sealed(header, record) {
                Step::Wait(finished, reason) => {
                    self.stage = Stage::Finished(finished);
                    reason.into_iter().for_each(|reason| self.discarded.add(reason));
                }
                Step::Repeated(finished) => {
                    self.stage = Stage::Finished(finished);
                    self.repeat(now);
                }
                Step::Done(proven) => self.complete(*proven, now),
                Step::Failed(finished, error) => self.fail(error, Some(finished.ending)),
            },
            Stage::Plain(plain) => {
                let early = plain.is_last();
                self.stage = Stage::Plain(plain);
                self.hold(early, record);
            }
            Stage::Change(change) => {
                self.stage = Stage::Change(change);
                self.hold(true, record);
            }
            other => {
                self.stage = other;
                self.discarded.add(Discard::WrongEpoch);
            }
        }
    }

    /// Keeps a record that is early, if it can be.
    fn hold(&mut self, early: bool, record: &[u8]) {
        if !early {
            self.discarded.add(Discard::WrongEpoch);
        } else if !self.held.keep(record) {
            self.discarded.add(Discard::OverLimit);
        }
    }

    /// Looks at early records again. What is early still is kept again.
    fn replay(&mut self, now: Awake) {
        for mut record in self.held.take() {
            if let Some(header) = Header::parse(&record, self.id_length()) {
                self.record(&header, &mut record, now);
            }
        }
    }

    fn repeat(&mut self, now: Awake) {
        if let (Some(flight), sender) = split(&mut self.stage, &mut self.sender) {
            sender.repeat_on_request(flight, now);
        }
    }

    fn complete(&mut self, proven: Proven, now: Awake) {
        let (seal, tail) = match proven.ending {
            Ending::Client(last) => (last.seal, Tail::default()),
            Ending::Server { mut reply, .. } => {
                self.sender.begin(Flight::Final(&mut reply), now);
                (reply.seal, Tail::new(self.sender.queued(), now))
            }
        };
        self.stage = Stage::Ready(Box::new(Established {
            seal,
            open: proven.open,
            tail,
            facts: proven.facts,
        }));
    }

    /// Ends the handshake. Only a client has sealed anything by then.
    fn fail(&mut self, error: Error, ending: Option<Ending>) {
        if let Some(description) = error.alert() {
            let mut seal = match ending {
                Some(Ending::Client(last)) => Some(last.seal),
                Some(Ending::Server { .. }) | None => None,
            };
            self.sender.alert(description, seal.as_mut());
        }
        self.stage = Stage::Over(error);
    }
}

/// The flight that is repeated in this stage, and who repeats it.
fn split<'a, P: Plain>(stage: &'a mut Stage<P>, sender: &'a mut Sender) -> (Option<Flight<'a>>, &'a mut Sender) {
    let flight = match stage {
        Stage::Plain(plain) => Some(Flight::Plain(plain.flight())),
        Stage::Change(change) => Some(change.ending.flight()),
        Stage::Finished(finished) => Some(finished.ending.flight()),
        Stage::Ready(_) | Stage::Taken | Stage::Over(_) => None,
    };
    (flight, sender)
}

/// The fate of a plaintext message where none is due any more.
fn behind(sequence: u16, due: u16) -> Fate {
    if sequence < due {
        Fate::Repeated
    } else {
        Fate::Discarded(Discard::Unexpected)
    }
}

/// A record between the end of the handshake and the moment the connection is handed over.
fn early(established: &mut Established, record: &mut [u8], sender: &mut Sender, now: Awake) -> Result<(), Error> {
    match established.open.open(record).content {
        Content::Data { range, .. } => {
            let kept = &mut established.facts.early;
            let bytes: usize = kept.iter().map(Vec::len).sum();
            if kept.len() < MAX_EARLY_RECORDS && bytes + range.len() <= MAX_EARLY_BYTES {
                kept.push(record[range].to_vec());
            }
            Ok(())
        }
        Content::Retransmission => {
            let again = established.tail.resend(now);
            again.iter().for_each(|datagram| sender.push(datagram.clone()));
            Ok(())
        }
        Content::Closed => Err(Error::Closed),
        Content::Discarded(_) => Ok(()),
    }
}
