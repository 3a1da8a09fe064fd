//! Bytes that travel from task to task, and the pool of large buffers that they travel in.
//!
//! ```text
//!   socket or device --reads into--> large buffer --much in it--> given away  \ comes back to the pool when it is dropped
//!                                                 --little------> copied into a small one, which /
//! ```
//! So nothing is copied at full rate, no packet asks for memory, and what waits somewhere keeps no more than four times its length, or 1.5 KiB.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use platform::udp::Inbox;

/// Bytes in a large buffer from which it is given away.
const MUCH: usize = 16 * 1024;

/// Large buffers that wait to be used again: 4 MiB. What is on its way is bounded by the queues.
const FREE_MAX: usize = 64;

/// Bytes of a small buffer: one datagram of a usual link, whose packets have 1,500 bytes.
const SMALL: usize = 1536;

/// Small buffers that wait to be used again: 768 KiB.
const SMALL_FREE_MAX: usize = 512;

/// Large buffers ([`Inbox::buffer`]), and small ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool(Rc<RefCell<Vec<Box<[u8]>>>>, Rc<RefCell<Vec<Vec<u8>>>>);

impl Pool {
    /// One that was used before, or a new one.
    pub(crate) fn take(&self) -> Box<[u8]> {
        self.0.borrow_mut().pop().unwrap_or_else(Inbox::buffer)
    }

    /// What was read into the first `length` bytes of a large buffer: that buffer, for which another one is put in place, or a copy.
    pub(crate) fn part(&self, length: usize, read: &mut Box<[u8]>) -> Buffer {
        if length <= SMALL {
            let mut bytes = self.1.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(SMALL));
            bytes.extend_from_slice(&read[..length]);
            let pool = self.clone();
            return Buffer::Small(Small { bytes, pool });
        }
        if length < MUCH {
            return Buffer::Own(read[..length].to_vec());
        }
        Buffer::Large(Large {
            bytes: std::mem::replace(read, self.take()),
            length,
            pool: self.clone(),
        })
    }

    /// Bytes of memory that [`Pool::part`] keeps for so many.
    pub(crate) fn kept(length: usize) -> usize {
        if length < MUCH {
            length.max(SMALL)
        } else {
            Inbox::BUFFER
        }
    }

    fn back(&self, bytes: Box<[u8]>) {
        let mut free = self.0.borrow_mut();
        if free.len() < FREE_MAX {
            free.push(bytes);
        }
    }
}

/// Bytes with one owner.
#[derive(Debug)]
pub(crate) enum Buffer {
    Large(Large),
    Small(Small),
    Own(Vec<u8>),
    /// A part of what a TLS record was decrypted to.
    Frame(BytesMut),
    Shared(Bytes),
}

/// A large buffer on its way. It goes back to its pool.
#[derive(Debug)]
pub(crate) struct Large {
    bytes: Box<[u8]>,
    length: usize,
    pool: Pool,
}

/// A small buffer on its way. It goes back to its pool.
#[derive(Debug)]
pub(crate) struct Small {
    bytes: Vec<u8>,
    pool: Pool,
}

impl Drop for Small {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        let mut free = self.pool.1.borrow_mut();
        if bytes.capacity() >= SMALL && free.len() < SMALL_FREE_MAX {
            bytes.clear();
            free.push(bytes);
        }
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // It may have gone to another worker.
        if !bytes.is_empty() {
            self.pool.back(bytes);
        }
    }
}

/// A buffer on its way to another worker, which has a pool of its own.
#[derive(Debug)]
pub(crate) enum Freight {
    /// A large buffer, and how much of it is of use.
    Large(Box<[u8]>, usize),
    Own(Vec<u8>),
    Frame(BytesMut),
    Shared(Bytes),
}

impl Freight {
    /// Bytes of memory that it keeps.
    pub(crate) fn kept(&self) -> usize {
        match self {
            Self::Large(bytes, _) => bytes.len(),
            Self::Own(bytes) => bytes.len(),
            Self::Frame(bytes) => bytes.len(),
            Self::Shared(bytes) => bytes.len(),
        }
    }

    /// The buffer, where it has arrived.
    pub(crate) fn unload(self, pool: &Pool) -> Buffer {
        match self {
            Self::Large(bytes, length) => Buffer::Large(Large {
                bytes,
                length,
                pool: pool.clone(),
            }),
            Self::Own(bytes) => Buffer::Own(bytes),
            Self::Frame(bytes) => Buffer::Frame(bytes),
            Self::Shared(bytes) => Buffer::Shared(bytes),
        }
    }
}

impl Buffer {
    /// Bytes of memory that it keeps.
    pub(crate) fn kept(&self) -> usize {
        match self {
            Self::Large(large) => large.bytes.len(),
            Self::Small(small) => small.bytes.capacity(),
            Self::Own(bytes) => bytes.len(),
            Self::Frame(bytes) => bytes.len(),
            Self::Shared(bytes) => bytes.len(),
        }
    }

    /// For another worker: nothing is copied.
    pub(crate) fn into_freight(self) -> Freight {
        match self {
            Self::Large(mut large) => Freight::Large(std::mem::take(&mut large.bytes), large.length),
            Self::Small(mut small) => Freight::Own(std::mem::take(&mut small.bytes)),
            Self::Own(bytes) => Freight::Own(bytes),
            Self::Frame(bytes) => Freight::Frame(bytes),
            Self::Shared(bytes) => Freight::Shared(bytes),
        }
    }

    /// The bytes, to be changed in place; a copy if others see them, too.
    pub(crate) fn to_mut(&mut self) -> &mut [u8] {
        if let Self::Shared(bytes) = self {
            *self = Self::Own(bytes.to_vec());
        }
        match self {
            Self::Large(large) => &mut large.bytes[..large.length],
            Self::Small(small) => &mut small.bytes,
            Self::Own(bytes) => bytes,
            Self::Frame(bytes) => bytes,
            Self::Shared(_) => unreachable!("replaced above"),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Large(large) => &large.bytes[..large.length],
            Self::Small(small) => &small.bytes,
            Self::Own(bytes) => bytes,
            Self::Frame(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_is_given_away_and_little_is_copied() {
        let pool = Pool::default();
        let mut whole = Inbox::buffer();
        whole[0] = 7;
        let little = pool.part(100, &mut whole);
        assert_eq!((little.len(), little.kept(), little[0]), (100, SMALL, 7));
        let some = pool.part(3000, &mut whole);
        assert_eq!((some.len(), some.kept()), (3000, 3000));
        let much = pool.part(40_000, &mut whole);
        assert_eq!((much.len(), much[0]), (40_000, 7));
        assert!(much.kept() > 65_535);
        assert_eq!(whole[0], 0, "another one");
        drop(much);
        assert_eq!(pool.0.borrow().len(), 1);
        assert_eq!(pool.take()[0], 7, "the same again");
        let memory = little.as_ptr();
        drop(little);
        let again = pool.part(50, &mut whole);
        assert_eq!((again.len(), again.as_ptr()), (50, memory), "the same again");
    }
    #[test]
    fn a_large_buffer_goes_to_another_pool_and_stays_there() {
        let (here, there) = (Pool::default(), Pool::default());
        let mut whole = Inbox::buffer();
        whole[0] = 7;
        let freight = here.part(40_000, &mut whole).into_freight();
        assert!(freight.kept() > 65_535);
        let unloaded = freight.unload(&there);
        assert_eq!((unloaded.len(), unloaded[0]), (40_000, 7));
        drop(unloaded);
        assert_eq!((here.0.borrow().len(), there.0.borrow().len()), (0, 1));
    }
}
