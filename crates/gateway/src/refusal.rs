//! Telling a client that its packet is not allowed, so that its programs do not wait for an answer: at most once for what is taken together, and as
//! often as ICMP errors may come.

use now::Now;
use packet::{IpPacket, TooBigLimit, prohibited};

/// See the module. Its buffer is reused.
#[derive(Debug, Default)]
pub(crate) struct Refusal {
    limit: TooBigLimit,
    answer: Vec<u8>,
}

impl Refusal {
    /// A packet of the client is not allowed.
    pub(crate) fn of(&mut self, packet: &[u8], now: Now) {
        if self.answer.is_empty()
            && let Ok(packet) = IpPacket::parse(packet)
            && self.limit.allow(now.awake.since_origin())
        {
            prohibited(&packet, &mut self.answer);
        }
    }

    /// What the client is to be told, once. To be given back by [`Refusal::told`].
    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        (!self.answer.is_empty()).then(|| std::mem::take(&mut self.answer))
    }

    /// The buffer, for the next one.
    pub(crate) fn told(&mut self, mut answer: Vec<u8>) {
        answer.clear();
        self.answer = answer;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_is_given_for_what_came_together_and_not_for_ever() {
        let mut udp = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 78, 0, 2, 10, 77, 0, 1];
        udp.extend([0; 8]);
        let mut refusal = Refusal::default();
        let mut answers = 0;
        for _ in 0..1000 {
            refusal.of(&udp, Now::default());
            refusal.of(&udp, Now::default());
            if let Some(answer) = refusal.take() {
                assert_eq!((answer[20], answer[21]), (3, 13));
                answers += 1;
                refusal.told(answer);
            }
        }
        assert_eq!(answers, TooBigLimit::BURST);
        assert_eq!(refusal.take(), None);
    }
}
