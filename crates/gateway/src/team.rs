//! What one worker knows of the others, and what it hands to them.
//!
//! ```text
//!   worker --parcels, bounded; full = counted drop--> worker     packets and datagrams that are for a session of the other one
//!          --words, bounded; full = all told again--> worker     which addresses are of a session of mine
//! ```
//! The first byte of an App-ID and of a connection id says whose it is: `byte mod workers`. Nobody waits for another worker, and no lock is taken.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use packet::Ecn;
use tokio::sync::mpsc;

use crate::buffer::Freight;
use crate::datagrams::Endpoint;
use crate::load::LoadFreight;
use crate::queue::{Receiver, Sender, Weighs, queue};

/// Parcels that wait for one worker: as many as for one session, for each of four.
const PARCELS: usize = 2048;

/// Bytes that they keep: 250 ms at 100 Mbit/s.
const PARCEL_BYTES: usize = 3 * 1024 * 1024;

/// Words that wait for one worker. It hears them at once; when many clients come at the same time there are two for each.
const WORDS: usize = 4096;

/// What is for a session of another worker.
#[derive(Debug)]
pub(crate) enum Parcel {
    /// One read of the device, or a packet of another client.
    Load(LoadFreight),
    /// Datagrams that came together: all but the last of `each` bytes.
    Datagrams {
        bytes: Freight,
        each: usize,
        ecn: Ecn,
        from: Endpoint,
    },
}

impl Weighs for Parcel {
    fn kept(&self) -> usize {
        match self {
            Self::Load(load) => load.kept(),
            Self::Datagrams { bytes, .. } => bytes.kept(),
        }
    }
}

/// Where records without a connection id are at home.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Those from there are for a session of mine.
    Mine(Endpoint),
    /// Not any more.
    NotMine(Endpoint),
    /// These, and no others.
    All(Vec<Endpoint>),
}

/// What went from worker to worker, since the start.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    datagrams: AtomicU64,
    packets: AtomicU64,
}

impl Handed {
    /// Datagrams, and packets.
    pub(crate) fn read(&self) -> (u64, u64) {
        (
            self.datagrams.load(Ordering::Relaxed),
            self.packets.load(Ordering::Relaxed),
        )
    }
}

/// One worker's side of it.
#[derive(Debug)]
pub(crate) struct Team {
    me: usize,
    parcels: Vec<Sender<Parcel>>,
    words: Vec<mpsc::Sender<(usize, Word)>>,
    /// Who has missed a word.
    behind: Vec<Cell<bool>>,
    handed: Arc<Handed>,
}

/// What comes to one worker from the others.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) parcels: Receiver<Parcel>,
    pub(crate) words: mpsc::Receiver<(usize, Word)>,
}

/// The sides of so many workers.
pub(crate) fn assemble(workers: usize, handed: &Arc<Handed>) -> Vec<(Team, Post)> {
    let (parcels, parcels_out): (Vec<_>, Vec<_>) = (0..workers).map(|_| queue(PARCELS, PARCEL_BYTES)).unzip();
    let (words, words_out): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(WORDS)).unzip();
    let post = parcels_out.into_iter().zip(words_out);
    post.enumerate()
        .map(|(me, (parcels_out, words_out))| {
            let team = Team {
                me,
                parcels: parcels.clone(),
                words: words.clone(),
                behind: vec![Cell::new(false); workers],
                handed: Arc::clone(handed),
            };
            let post = Post {
                parcels: parcels_out,
                words: words_out,
            };
            (team, post)
        })
        .collect()
}

/// A random byte that names a worker.
pub(crate) fn name(worker: usize, workers: usize, random: u8) -> u8 {
    let name = usize::from(random) / workers * workers + worker;
    u8::try_from(name).unwrap_or_else(|_| (name - workers) as u8)
}

impl Team {
    /// Whether there are no others.
    pub(crate) fn is_alone(&self) -> bool {
        self.parcels.len() == 1
    }

    /// A byte that names this worker.
    pub(crate) fn my_name(&self, random: u8) -> u8 {
        name(self.me, self.parcels.len(), random)
    }

    /// The other worker that an id names, by its first byte.
    pub(crate) fn other(&self, id: &[u8]) -> Option<usize> {
        let worker = usize::from(*id.first()?) % self.parcels.len();
        (worker != self.me).then_some(worker)
    }

    /// Hands packets to another worker, or says that it cannot take them now.
    pub(crate) fn hand_load(&self, worker: usize, load: LoadFreight, packets: usize) -> bool {
        self.hand(worker, Parcel::Load(load), &self.handed.packets, packets as u64)
    }

    /// Hands datagrams to another worker, or says that it cannot take them now.
    pub(crate) fn hand_datagrams(
        &self,
        worker: usize,
        (bytes, each, ecn): (Freight, usize, Ecn),
        count: usize,
        from: Endpoint,
    ) -> bool {
        let parcel = Parcel::Datagrams { bytes, each, ecn, from };
        self.hand(worker, parcel, &self.handed.datagrams, count as u64)
    }

    fn hand(&self, worker: usize, parcel: Parcel, counter: &AtomicU64, count: u64) -> bool {
        let taken = self
            .parcels
            .get(worker)
            .is_some_and(|queue| queue.try_send(parcel).is_ok());
        if taken {
            counter.fetch_add(count, Ordering::Relaxed);
        }
        taken
    }

    /// Tells all others.
    pub(crate) fn tell(&self, word: impl Fn() -> Word) {
        for (worker, words) in self.others() {
            // Whoever is behind hears everything soon, and nothing out of order before that.
            if !self.behind[worker].get() && words.try_send((self.me, word())).is_err() {
                self.behind[worker].set(true);
            }
        }
    }

    /// Tells everything to those who have missed a word. To be called from time to time.
    pub(crate) fn catch_up(&self, mine: impl Fn() -> Vec<Endpoint>) {
        for (worker, words) in self.others() {
            if self.behind[worker].get() && words.try_send((self.me, Word::All(mine()))).is_ok() {
                self.behind[worker].set(false);
            }
        }
    }

    fn others(&self) -> impl Iterator<Item = (usize, &mpsc::Sender<(usize, Word)>)> {
        let all = self.words.iter().enumerate();
        all.filter(|(worker, _)| *worker != self.me)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_names_the_worker_it_was_made_for() {
        for workers in 1..=16 {
            for worker in 0..workers {
                for random in 0..=255 {
                    assert_eq!(usize::from(name(worker, workers, random)) % workers, worker);
                }
            }
        }
    }

    #[test]
    fn whoever_misses_a_word_hears_everything_later() {
        let mut sides = assemble(2, &Arc::default());
        let (_, mut post) = sides.pop().expect("two");
        let (team, _post) = sides.pop().expect("two");
        let mine = || vec![Endpoint::nowhere()];
        for _ in 0..WORDS {
            team.tell(|| Word::Mine(Endpoint::nowhere()));
        }
        team.catch_up(mine);
        team.tell(|| Word::NotMine(Endpoint::nowhere()));
        team.catch_up(mine);
        let mut heard = Vec::new();
        while let Ok((0, word)) = post.words.try_recv() {
            heard.push(word);
        }
        assert_eq!(heard.len(), WORDS, "the last one was missed");
        team.tell(|| Word::Mine(Endpoint::nowhere()));
        team.catch_up(mine);
        assert_eq!(post.words.try_recv(), Ok((0, Word::All(mine()))));
        assert!(post.words.try_recv().is_err());
    }

    #[test]
    fn a_parcel_that_does_not_fit_is_refused() {
        let handed = Arc::default();
        let mut sides = assemble(2, &handed);
        let (_, mut post) = sides.pop().expect("two");
        let (team, _post) = sides.pop().expect("two");
        let hand = || {
            team.hand_datagrams(
                1,
                (Freight::Own(vec![0; 10]), 5, Ecn::default()),
                2,
                Endpoint::nowhere(),
            )
        };
        assert!((0..PARCELS).all(|_| hand()));
        assert!(!hand());
        assert!(post.parcels.try_recv().is_some());
        assert!(hand());
        assert_eq!(handed.read(), (2 * (PARCELS as u64 + 1), 0));
    }
}
