//! Flights: what is sent together, cut into datagrams, and sent again until the other side answers.
//!
//! ```text
//!   sent, + 250 ms, + 500 ms, + 1 s, + 2 s, + 4 s, + 4 s, ...        a new flight starts over
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use now::Awake;

use crate::SealHalf;
use crate::message::{Kind, MESSAGE_HEADER, Message};
use crate::record::{ContentType, DTLS_1_0, DTLS_1_2, HEADER, MAX_PLAINTEXT, put_plain};
use crate::tail::RESEND_PAUSE;

/// First wait for an answer. RFC 6347 section 4.2.4.1 has 1 s for lack of better knowledge; here a control connection to the
/// same host stands, and what is sent too early costs one datagram.
pub const FIRST_RETRANSMISSION: Duration = Duration::from_millis(250);

/// Longest wait for an answer: with this one, a peer that comes back inside the 30 s of a handshake is found.
pub const LONGEST_RETRANSMISSION: Duration = Duration::from_secs(4);

/// Smallest size of a handshake datagram; a smaller configured one is taken as this. A sealed Finished needs 70 bytes and is
/// never cut. A hello of ours has 153 bytes at most; below that it is cut, and a listener that keeps no state takes none in
/// pieces.
pub const MIN_MTU: usize = 96;

/// Largest size: a datagram is at most one record of the longest length.
const MAX_MTU: usize = MAX_PLAINTEXT;

/// A flight that ends with ChangeCipherSpec and Finished, and the half that seals the latter.
pub(crate) struct FinalFlight {
    pub(crate) plain: Vec<Message>,
    pub(crate) finished: Message,
    pub(crate) seal: SealHalf,
}

/// Either kind of flight.
pub(crate) enum Flight<'a> {
    Plain(&'a [Message]),
    Final(&'a mut FinalFlight),
}

/// Puts flights into datagrams, counts records of epoch 0 and knows when to repeat.
pub(crate) struct Sender {
    mtu: usize,
    next_record: u64,
    queue: VecDeque<Vec<u8>>,
    due: Awake,
    wait: Duration,
    sent: Awake,
}

impl Sender {
    /// `next_record` is the sequence of the first record, at most half of what there is.
    pub(crate) fn new(mtu: usize, next_record: u64, now: Awake) -> Self {
        Self {
            mtu: mtu.clamp(MIN_MTU, MAX_MTU),
            next_record,
            queue: VecDeque::new(),
            due: now.plus(FIRST_RETRANSMISSION),
            wait: FIRST_RETRANSMISSION,
            sent: now,
        }
    }

    /// Sends a new flight. What was not fetched of the one before is out of date.
    pub(crate) fn begin(&mut self, flight: Flight<'_>, now: Awake) {
        self.wait = FIRST_RETRANSMISSION;
        self.due = now.plus(self.wait);
        self.send(flight, now);
    }

    /// Sends the flight again if its time has come.
    pub(crate) fn repeat_if_due(&mut self, flight: Flight<'_>, now: Awake) {
        if now < self.due {
            return;
        }
        self.wait = (self.wait * 2).min(LONGEST_RETRANSMISSION);
        self.due = now.plus(self.wait);
        self.send(flight, now);
    }

    /// Sends the flight again because the peer repeats itself, unless that was just done.
    pub(crate) fn repeat_on_request(&mut self, flight: Flight<'_>, now: Awake) {
        if now.since(self.sent) >= RESEND_PAUSE {
            self.send(flight, now);
        }
    }

    /// When the flight is to be sent again.
    pub(crate) fn due(&self) -> Awake {
        self.due
    }

    pub(crate) fn rebase(&mut self, by: Duration) {
        self.due = self.due.plus(by);
        self.sent = self.sent.plus(by);
    }

    pub(crate) fn poll(&mut self) -> Option<Vec<u8>> {
        self.queue.pop_front()
    }

    /// What waits to be fetched.
    pub(crate) fn queued(&self) -> Vec<Vec<u8>> {
        self.queue.iter().cloned().collect()
    }

    pub(crate) fn push(&mut self, datagram: Vec<u8>) {
        self.queue.push_back(datagram);
    }

    /// A fatal alert, sealed if we have a half that our peer opens. Nothing else matters then.
    pub(crate) fn alert(&mut self, description: u8, seal: Option<&mut SealHalf>) {
        let body = [2, description];
        self.queue.clear();
        match seal {
            Some(seal) => self.queue.extend(seal.sealed_record(ContentType::Alert, &body)),
            None => {
                let mut record = Vec::new();
                self.put(&mut record, ContentType::Alert, DTLS_1_2, &body);
                self.queue.push_back(record);
            }
        }
    }

    fn send(&mut self, flight: Flight<'_>, now: Awake) {
        self.sent = now;
        self.queue.clear();
        let mut datagram = Vec::new();
        match flight {
            Flight::Plain(messages) => messages.iter().for_each(|message| self.message(&mut datagram, message)),
            Flight::Final(last) => {
                last.plain
                    .iter()
                    .for_each(|message| self.message(&mut datagram, message));
                self.make_room(&mut datagram, HEADER + 1);
                self.put(&mut datagram, ContentType::ChangeCipherSpec, DTLS_1_2, &[1]);
                // A handshake ends long before its key does.
                if let Some(record) = last
                    .seal
                    .sealed_record(ContentType::Handshake, &last.finished.to_bytes())
                {
                    self.make_room(&mut datagram, record.len());
                    datagram.extend(record);
                }
            }
        }
        self.queue.push_back(datagram);
    }

    /// Appends a message, in as many fragments as it takes.
    fn message(&mut self, datagram: &mut Vec<u8>, message: &Message) {
        const HEADERS: usize = HEADER + MESSAGE_HEADER;
        let version = match message.kind {
            Kind::ClientHello => DTLS_1_0,
            Kind::ServerHello
            | Kind::HelloVerifyRequest
            | Kind::ServerKeyExchange
            | Kind::ServerHelloDone
            | Kind::ClientKeyExchange
            | Kind::Finished
            | Kind::Other(_) => DTLS_1_2,
        };
        let mut offset = 0;
        loop {
            let rest = message.body.len() - offset;
            self.make_room(datagram, HEADERS + rest);
            let length = rest.min(self.mtu - HEADERS);
            let mut fragment = message.fragment_header(offset, length).to_vec();
            fragment.extend(&message.body[offset..offset + length]);
            self.put(datagram, ContentType::Handshake, version, &fragment);
            offset += length;
            if offset == message.body.len() {
                return;
            }
        }
    }

    /// Begins a new datagram if so many bytes do not fit into this one.
    fn make_room(&mut self, datagram: &mut Vec<u8>, bytes: usize) {
        if !datagram.is_empty() && datagram.len() + bytes > self.mtu {
            self.queue.push_back(std::mem::take(datagram));
        }
    }

    fn put(&mut self, out: &mut Vec<u8>, content: ContentType, version: u16, body: &[u8]) {
        put_plain(out, content, version, self.next_record, body);
        self.next_record += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Header;

    fn at(ms: u64) -> Awake {
        Awake::from_origin(Duration::from_millis(ms))
    }

    fn message(length: usize) -> Message {
        Message {
            kind: Kind::ServerHello,
            sequence: 1,
            body: vec![7; length],
        }
    }

    fn drain(sender: &mut Sender) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| sender.poll()).collect()
    }

    #[test]
    fn messages_that_fit_share_a_datagram_and_long_ones_are_cut() {
        let mut sender = Sender::new(1200, 0, at(0));
        sender.begin(Flight::Plain(&[message(40), message(0)]), at(0));
        assert_eq!(drain(&mut sender).len(), 1);
        let mut sender = Sender::new(0, 0, at(0));
        sender.begin(Flight::Plain(&[message(200), message(0)]), at(0));
        let datagrams = drain(&mut sender);
        assert!(datagrams.iter().all(|datagram| datagram.len() <= MIN_MTU));
        assert_eq!(datagrams.len(), 4);
        let sequences: Vec<_> = datagrams
            .iter()
            .map(|datagram| Header::parse(datagram, 0).unwrap().sequence)
            .collect();
        assert_eq!(sequences, [0, 1, 2, 3]);
    }

    #[test]
    fn a_flight_is_repeated_after_250_ms_doubling_to_4_s() {
        let mut sender = Sender::new(1200, 0, at(0));
        let flight = [message(1)];
        sender.begin(Flight::Plain(&flight), at(0));
        let mut times = Vec::new();
        drain(&mut sender);
        for ms in (0..20_000).step_by(50) {
            sender.repeat_if_due(Flight::Plain(&flight), at(ms));
            if !drain(&mut sender).is_empty() {
                times.push(ms);
            }
        }
        assert_eq!(times, [250, 750, 1750, 3750, 7750, 11_750, 15_750, 19_750]);
    }

    #[test]
    fn a_repetition_on_request_has_a_pause() {
        let mut sender = Sender::new(1200, 0, at(0));
        let flight = [message(1)];
        sender.begin(Flight::Plain(&flight), at(0));
        drain(&mut sender);
        sender.repeat_on_request(Flight::Plain(&flight), at(99));
        assert!(drain(&mut sender).is_empty());
        sender.repeat_on_request(Flight::Plain(&flight), at(100));
        assert_eq!(drain(&mut sender).len(), 1);
    }

    #[test]
    fn a_new_flight_replaces_what_was_not_fetched() {
        let mut sender = Sender::new(1200, 0, at(0));
        sender.begin(Flight::Plain(&[message(1)]), at(0));
        sender.begin(Flight::Plain(&[message(2)]), at(0));
        assert_eq!(drain(&mut sender).len(), 1);
    }
}
