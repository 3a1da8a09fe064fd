//! Datagrams of equal length one behind the other, to be sent in one call.
//!
//! ```text
//!   | datagram | datagram | datagram | shorter |   closed: nothing comes behind a shorter one, or the 64th, or 65,507 bytes
//! ```
//! That is what the kernel cuts for us (`UDP_SEGMENT` in udp(7)), and what every other system takes as well, one at a time. What a call says of
//! the header of IP holds for all of its datagrams, so they all have the same mark.

use crate::Ecn;

/// Bytes that one call sends at most: an IPv4 packet without its header and that of UDP.
const BYTES_MAX: usize = 65_507;

/// Datagrams that one call sends at most: `UDP_MAX_SEGMENTS` of Linux before 6.9.
const DATAGRAMS_MAX: usize = 64;

/// See the module. Its buffer is used again and again.
#[derive(Debug)]
pub struct Batch {
    buffer: Box<[u8]>,
    length: usize,
    /// Bytes of each datagram but the last.
    each: usize,
    count: usize,
    ecn: Ecn,
    /// The last is shorter.
    closed: bool,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            buffer: vec![0; BYTES_MAX].into_boxed_slice(),
            length: 0,
            each: 0,
            count: 0,
            ecn: Ecn::NotEct,
            closed: false,
        }
    }
}

impl Batch {
    /// Whether a datagram of `length` bytes with this mark may stand behind those that are there.
    pub fn takes(&self, length: usize, ecn: Ecn) -> bool {
        let fits = self.length + length <= BYTES_MAX;
        let alike = !self.closed && length <= self.each && ecn == self.ecn;
        fits && (self.count == 0 || (alike && self.count < DATAGRAMS_MAX))
    }

    /// Adds a datagram that [`Batch::takes`], to be filled; what it holds before does not matter.
    ///
    /// # Panics
    /// It is not taken.
    pub fn add(&mut self, length: usize, ecn: Ecn) -> &mut [u8] {
        assert!(self.takes(length, ecn), "the caller has asked");
        if self.count == 0 {
            (self.each, self.ecn) = (length, ecn);
        }
        self.closed = length < self.each;
        self.count += 1;
        let start = self.length;
        self.length += length;
        &mut self.buffer[start..self.length]
    }

    /// Takes the datagram back that was added last, with this length.
    pub fn take_back(&mut self, length: usize) {
        debug_assert!(self.count > 0 && length <= self.length, "it was added before");
        self.length -= length;
        self.count -= 1;
        self.closed = false;
    }

    /// All datagrams.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// Bytes of each but the last.
    pub fn each(&self) -> usize {
        self.each
    }

    /// The mark of all.
    pub fn ecn(&self) -> Ecn {
        self.ecn
    }

    /// Datagrams.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        (self.length, self.count, self.closed) = (0, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ecn::{Ce, Ect0, NotEct};

    #[test]
    fn equal_lengths_and_a_shorter_end_are_one_batch() {
        let mut batch = Batch::default();
        for byte in 1..=3 {
            assert!(batch.takes(100, NotEct));
            batch.add(100, NotEct).fill(byte);
        }
        assert!(!batch.takes(101, NotEct));
        batch.add(7, NotEct).fill(4);
        assert!(!batch.takes(7, NotEct), "nothing comes behind a shorter one");
        assert_eq!((batch.bytes().len(), batch.each(), batch.count()), (307, 100, 4));
        assert_eq!((batch.bytes()[99], batch.bytes()[100], batch.bytes()[306]), (1, 2, 4));
        batch.clear();
        assert!(batch.is_empty() && batch.takes(1500, NotEct));
    }

    #[test]
    fn a_batch_has_at_most_64_datagrams_and_65507_bytes() {
        let mut batch = Batch::default();
        for _ in 0..64 {
            batch.add(10, NotEct);
        }
        assert!(!batch.takes(10, NotEct));
        batch.clear();
        for _ in 0..46 {
            batch.add(1400, NotEct);
        }
        assert!(!batch.takes(1400, NotEct), "64,400 bytes and 1,400 are too many");
        assert!(batch.takes(1107, NotEct));
    }

    #[test]
    fn what_was_added_last_may_be_taken_back() {
        let mut batch = Batch::default();
        batch.add(100, NotEct);
        batch.add(50, NotEct);
        batch.take_back(50);
        assert!(batch.takes(100, NotEct));
        batch.take_back(100);
        assert!(batch.is_empty() && batch.takes(1500, NotEct));
    }

    #[test]
    fn another_mark_is_another_batch() {
        let mut batch = Batch::default();
        batch.add(100, Ect0);
        assert!(batch.takes(100, Ect0) && !batch.takes(100, Ce) && !batch.takes(100, NotEct));
        batch.add(100, Ect0);
        assert_eq!((batch.ecn(), batch.count()), (Ect0, 2));
        batch.clear();
        assert!(batch.takes(100, Ce), "an empty one has no mark yet");
        batch.add(100, Ce);
        assert_eq!(batch.ecn(), Ce);
        batch.take_back(100);
        assert!(batch.takes(100, Ect0));
    }
}
