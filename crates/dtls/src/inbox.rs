//! Messages of the peer, put together from fragments and given out in order.
//!
//! ```text
//!            next                        next + MAX_AHEAD
//!    ----------|----|----|----|----|---------------------
//!     repeated | fragments of these  | too far ahead
//! ```

use std::collections::VecDeque;

use crate::Discard;
use crate::message::{Fragment, Kind, Message};

/// Longest message that is put together, in bytes. The longest known is a ClientHello with a post-quantum key share, which
/// DTLS 1.2 does not carry; ours are below 300.
pub const MAX_MESSAGE: usize = 4096;

/// Messages that are collected at the same time: that which is due and three behind it, which is the longest flight.
pub const MAX_AHEAD: u16 = 4;

/// What became of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Taken.
    Stored,
    /// Of a message that was given out before: the peer repeats itself.
    Repeated,
    /// Not used.
    Discarded(Discard),
}

/// Collects messages from `next` on.
#[derive(Debug)]
pub(crate) struct Inbox {
    next: u16,
    /// Message `next` and those behind it.
    slots: VecDeque<Option<Partial>>,
}

/// A message in the making.
#[derive(Debug)]
struct Partial {
    kind: Kind,
    body: Vec<u8>,
    /// For each byte, whether it came.
    present: Vec<bool>,
    missing: usize,
}

impl Inbox {
    pub(crate) fn starting_at(next: u16) -> Self {
        Self {
            next,
            slots: VecDeque::new(),
        }
    }

    /// The sequence of the message that is due.
    pub(crate) fn due(&self) -> u16 {
        self.next
    }

    pub(crate) fn insert(&mut self, fragment: &Fragment<'_>) -> Fate {
        let Some(ahead) = fragment.sequence.checked_sub(self.next) else {
            return Fate::Repeated;
        };
        if ahead >= MAX_AHEAD || fragment.length > MAX_MESSAGE {
            return Fate::Discarded(Discard::OverLimit);
        }
        let at = usize::from(ahead);
        while self.slots.len() <= at {
            self.slots.push_back(None);
        }
        self.slots[at]
            .get_or_insert_with(|| Partial::new(fragment))
            .insert(fragment)
    }

    /// The message that is due, once it is whole. `None` also at the end of the sequences.
    pub(crate) fn take(&mut self) -> Option<Message> {
        let after = self.next.checked_add(1)?;
        let whole = self.slots.front()?.as_ref()?.missing == 0;
        let partial = whole.then(|| self.slots.pop_front())??;
        let sequence = std::mem::replace(&mut self.next, after);
        partial.map(|partial| Message {
            kind: partial.kind,
            sequence,
            body: partial.body,
        })
    }
}

impl Partial {
    fn new(fragment: &Fragment<'_>) -> Self {
        Self {
            kind: fragment.kind,
            body: vec![0; fragment.length],
            present: vec![false; fragment.length],
            missing: fragment.length,
        }
    }

    /// Takes the bytes that are still missing; what came first stays.
    fn insert(&mut self, fragment: &Fragment<'_>) -> Fate {
        if fragment.kind != self.kind || fragment.length != self.body.len() {
            return Fate::Discarded(Discard::Malformed);
        }
        let end = fragment.offset + fragment.bytes.len();
        let places = self.body[fragment.offset..end]
            .iter_mut()
            .zip(&mut self.present[fragment.offset..end]);
        for ((place, present), byte) in places.zip(fragment.bytes) {
            if !*present {
                *place = *byte;
                *present = true;
                self.missing -= 1;
            }
        }
        Fate::Stored
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fragment(sequence: u16, length: usize, offset: usize, bytes: &[u8]) -> Fragment<'_> {
        Fragment {
            kind: Kind::ServerHello,
            length,
            sequence,
            offset,
            bytes,
        }
    }

    #[test]
    fn messages_come_out_in_order_however_they_came_in() {
        let mut inbox = Inbox::starting_at(7);
        assert_eq!(inbox.insert(&fragment(8, 2, 0, b"cd")), Fate::Stored);
        assert_eq!(inbox.take(), None);
        assert_eq!(inbox.insert(&fragment(7, 2, 1, b"b")), Fate::Stored);
        assert_eq!(inbox.take(), None);
        assert_eq!(inbox.insert(&fragment(7, 2, 0, b"a")), Fate::Stored);
        assert_eq!(inbox.take().unwrap().body, b"ab");
        assert_eq!(inbox.take().unwrap().body, b"cd");
        assert_eq!(inbox.due(), 9);
        assert_eq!(inbox.insert(&fragment(8, 2, 0, b"cd")), Fate::Repeated);
    }

    #[test]
    fn an_empty_message_is_whole_at_once() {
        let mut inbox = Inbox::starting_at(0);
        inbox.insert(&fragment(0, 0, 0, b""));
        assert_eq!(inbox.take().unwrap().body, b"");
    }

    #[test]
    fn what_is_too_long_or_too_far_ahead_or_contradicts_itself_is_discarded() {
        let mut inbox = Inbox::starting_at(0);
        let over = Fate::Discarded(Discard::OverLimit);
        assert_eq!(inbox.insert(&fragment(MAX_AHEAD, 1, 0, b"a")), over);
        assert_eq!(inbox.insert(&fragment(0, MAX_MESSAGE + 1, 0, b"a")), over);
        assert_eq!(inbox.insert(&fragment(0, 3, 0, b"a")), Fate::Stored);
        assert_eq!(
            inbox.insert(&fragment(0, 4, 1, b"b")),
            Fate::Discarded(Discard::Malformed)
        );
    }

    #[test]
    fn the_last_sequence_is_no_overflow() {
        let mut inbox = Inbox::starting_at(u16::MAX);
        assert_eq!(inbox.insert(&fragment(u16::MAX, 1, 0, b"a")), Fate::Stored);
        assert_eq!(inbox.take(), None);
    }

    proptest! {
        #[test]
        fn any_covering_of_overlapping_fragments_gives_the_message(
            cuts in prop::collection::vec((0usize..300, 1usize..80), 0..40),
            length in 1usize..300,
        ) {
            let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let mut inbox = Inbox::starting_at(3);
            let covering = (0..length).step_by(50).map(|at| (at, 50));
            for (offset, size) in cuts.into_iter().chain(covering) {
                let offset = offset.min(length);
                let end = (offset + size).min(length);
                inbox.insert(&fragment(3, length, offset, &body[offset..end]));
            }
            prop_assert_eq!(inbox.take().unwrap().body, body);
        }
    }
}
