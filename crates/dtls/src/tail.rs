//! The last flight of a server, which the client may not have received: kept, and sent again when the client asks by
//! repeating its own.

use std::time::Duration;

use now::Awake;

/// Shortest time between two answers to repetitions: a client repeats itself after 250 ms at the earliest.
pub(crate) const RESEND_PAUSE: Duration = Duration::from_millis(100);

/// Answers in all. What makes us answer is not always authenticated, and a client gives up after about as many attempts.
const MAX_RESENDS: u8 = 16;

/// The last flight; nothing for a client, whose last flight was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// As they were sent: a record that did not arrive is in nobody's replay window.
    datagrams: Vec<Vec<u8>>,
    sent: Awake,
    resent: u8,
}

impl Tail {
    pub(crate) fn new(datagrams: Vec<Vec<u8>>, now: Awake) -> Self {
        Self {
            datagrams,
            sent: now,
            resent: 0,
        }
    }

    /// The datagrams to send on [`crate::Content::Retransmission`]: none more often than every 100 ms and 16 times in all.
    pub fn resend(&mut self, now: Awake) -> &[Vec<u8>] {
        if self.resent >= MAX_RESENDS || now.since(self.sent) < RESEND_PAUSE {
            return &[];
        }
        self.resent += 1;
        self.sent = now;
        &self.datagrams
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_flight_is_repeated_with_pauses_and_not_for_ever() {
        let at = |ms| Awake::from_origin(Duration::from_millis(ms));
        let mut tail = Tail::new(vec![vec![1]], at(0));
        assert!(tail.resend(at(99)).is_empty());
        assert_eq!(tail.resend(at(100)).len(), 1);
        assert!(tail.resend(at(150)).is_empty());
        let answered = (2..100).filter(|n| !tail.resend(at(n * 100)).is_empty()).count();
        assert_eq!(answered, usize::from(MAX_RESENDS) - 1);
    }
}
