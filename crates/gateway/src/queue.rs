//! A queue with two bounds: how many, and how many bytes of memory they keep. Its ends may be on two threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::buffer::Buffer;

/// Something that keeps memory while it waits.
pub(crate) trait Weighs {
    /// Bytes of memory that it keeps.
    fn kept(&self) -> usize;
}

impl Weighs for Buffer {
    fn kept(&self) -> usize {
        Buffer::kept(self)
    }
}

/// Puts things into a queue.
#[derive(Debug)]
pub(crate) struct Sender<T> {
    queue: mpsc::Sender<T>,
    kept: Arc<AtomicUsize>,
    most: usize,
}

/// Takes things out of a queue.
#[derive(Debug)]
pub(crate) struct Receiver<T> {
    queue: mpsc::Receiver<T>,
    kept: Arc<AtomicUsize>,
}

/// Why a thing was not taken. It is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    /// Nobody takes anything any more.
    Closed,
}

/// A queue of at most `items` things that keep about `bytes` bytes: it takes another as long as those in it keep less.
pub(crate) fn queue<T: Weighs>(items: usize, bytes: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::channel(items);
    let kept = Arc::new(AtomicUsize::new(0));
    (
        Sender {
            queue: sender,
            kept: Arc::clone(&kept),
            most: bytes,
        },
        Receiver { queue: receiver, kept },
    )
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            kept: Arc::clone(&self.kept),
            most: self.most,
        }
    }
}

impl<T: Weighs> Sender<T> {
    /// Puts `thing` at the end, if there is room.
    pub(crate) fn try_send(&self, thing: T) -> Result<(), Refused> {
        if self.kept.load(Ordering::Relaxed) >= self.most {
            return Err(if self.is_closed() {
                Refused::Closed
            } else {
                Refused::Full
            });
        }
        // Before it is sent: the other thread may take it at once.
        let kept = thing.kept();
        self.kept.fetch_add(kept, Ordering::Relaxed);
        self.queue.try_send(thing).map_err(|error| {
            self.kept.fetch_sub(kept, Ordering::Relaxed);
            match error {
                mpsc::error::TrySendError::Full(_) => Refused::Full,
                mpsc::error::TrySendError::Closed(_) => Refused::Closed,
            }
        })
    }

    /// Whether nobody takes anything any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }
}

impl<T: Weighs> Receiver<T> {
    /// Waits for the next thing; `None` when nobody can put one in. Cancel safe.
    pub(crate) async fn recv(&mut self) -> Option<T> {
        let thing = self.queue.recv().await?;
        Some(self.taken(thing))
    }

    /// The next thing, if there is one.
    pub(crate) fn try_recv(&mut self) -> Option<T> {
        let thing = self.queue.try_recv().ok()?;
        Some(self.taken(thing))
    }

    /// Takes nothing more in.
    pub(crate) fn close(&mut self) {
        self.queue.close();
    }

    fn taken(&self, thing: T) -> T {
        self.kept.fetch_sub(thing.kept(), Ordering::Relaxed);
        thing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_at_either_bound() {
        let (sender, mut receiver) = queue(3, 100);
        let thing = |length| Buffer::Own(vec![0; length]);
        assert_eq!(sender.try_send(thing(90)), Ok(()));
        assert_eq!(sender.try_send(thing(90)), Ok(()), "there was room");
        assert_eq!(sender.try_send(thing(1)), Err(Refused::Full));
        assert!(receiver.try_recv().is_some());
        assert_eq!(sender.try_send(thing(1)), Ok(()));
        assert_eq!(sender.try_send(thing(1)), Ok(()));
        assert_eq!(sender.try_send(thing(1)), Err(Refused::Full), "three are in it");
        while receiver.try_recv().is_some() {}
        assert_eq!(sender.try_send(thing(500)), Ok(()), "nothing is in it");
        drop(receiver);
        assert_eq!(sender.try_send(thing(1)), Err(Refused::Closed));
    }
}
