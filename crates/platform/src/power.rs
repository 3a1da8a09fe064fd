//! What the operating system says of sleep: words that arrive, and facts that can be read.
//!
//! ```text
//!   logind, a test, a tunnel service of the system          the client
//!      Feed --- words ------------------------------------>  PowerSource::next
//!           --- what is known, or can be looked up ------->  PowerSource::surroundings
//!           <-- "the sleep may go on" ---------------------  PowerSource::acknowledge_sleep
//! ```
//! A source that is missing is normal: in a container there is no bus, on a server nobody sleeps. So nothing here fails.
//! Words may be missing, doubled or late; whoever hears them takes the clocks for the truth and these for a hint.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::os::power as system;

// All of it is there for its tests; each system uses its part.
#[allow(dead_code)]
pub(crate) mod relay;

/// Opens the source of this system, which is [`Promise::None`] until it is found and whenever it is lost. Returns at once;
/// finding happens in a task of its own. Needs a tokio runtime with I/O and time.
pub fn open() -> PowerSource {
    system::open(None)
}

/// As [`open`], at another D-Bus address than that of the system bus. Where there is no D-Bus, as [`PowerSource::none`].
pub fn open_at(address: String) -> PowerSource {
    system::open(Some(address))
}

/// Words that wait for the client. It takes them at once; a host that says more in the meantime repeats itself.
const MAX_WORDS: usize = 16;

/// Looks that wait for an answer. There is one asker, who asks one after the other.
const MAX_LOOKS: usize = 4;

/// A source that does not answer a look within this time is not waited for: the look is before packets move again.
pub const LOOK_TIMEOUT: Duration = Duration::from_millis(200);

/// A word about sleep. Each may be missing, doubled or late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PowerEvent {
    /// The host is about to sleep, and may wait for [`PowerSource::acknowledge_sleep`] (logind: 5 s unless its
    /// `InhibitDelayMaxSec` says otherwise).
    Sleeping,
    /// The host does not sleep any more; that says nothing of a user (logind's `PrepareForSleep(false)`, Windows'
    /// `PBT_APMRESUMEAUTOMATIC`).
    Resumed,
    /// A user is there (macOS' `kIOMessageSystemHasPoweredOn`, Windows' `PBT_APMRESUMESUSPEND`).
    UserPresent,
}

/// What a source can be relied on for, while it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promise {
    /// Nothing: there is no source, or it is lost.
    #[default]
    None,
    /// [`Surroundings`] can be read at any time (logind). Its [`PowerEvent::Resumed`] comes at the end of a sleep job, which
    /// may have slept several times; [`PowerEvent::UserPresent`] never comes.
    Facts,
    /// [`PowerEvent::UserPresent`] comes at each wake that has a user (macOS, Windows), and there are no facts.
    Presence,
}

/// What can be read of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Who says so, and so what is to be made of what is missing here.
    pub promise: Promise,
    /// A sleep is prepared, or goes on: between two `PrepareForSleep` signals of logind, however often the host wakes.
    pub preparing: Option<bool>,
    /// The lid is closed. A host without a lid says no, or nothing.
    pub lid_closed: Option<bool>,
    /// It is in a dock, or has an external display.
    pub docked: Option<bool>,
    /// It runs on external power.
    pub on_external_power: Option<bool>,
}

/// The client's end: the source of this system ([`open`]), or one that is fed ([`PowerSource::fed`]).
#[derive(Debug)]
pub struct PowerSource {
    words: mpsc::Receiver<PowerEvent>,
    known: watch::Receiver<Surroundings>,
    looks: Option<mpsc::Sender<Look>>,
    /// Sleeps that were heard of.
    heard: u64,
    acknowledged: watch::Sender<u64>,
    task: Option<AbortHandle>,
}

/// The other end: what a system, a test or a tunnel service of the operating system says.
#[derive(Debug)]
pub struct Feed {
    words: mpsc::Sender<PowerEvent>,
    known: watch::Sender<Surroundings>,
    /// Sleeps that were told.
    told: AtomicU64,
    /// Up to which of them the client is ready.
    acknowledged: watch::Receiver<u64>,
}

/// Somebody wants to know the surroundings of this moment.
pub(crate) type Look = oneshot::Sender<Surroundings>;

impl PowerSource {
    /// A source that never says anything.
    pub fn none() -> Self {
        Self::fed().1
    }

    /// A source that says what its [`Feed`] is told.
    pub fn fed() -> (Feed, Self) {
        let (words, heard) = mpsc::channel(MAX_WORDS);
        let (known, facts) = watch::channel(Surroundings::default());
        let (acknowledged, acknowledgements) = watch::channel(0);
        let feed = Feed {
            words,
            known,
            told: AtomicU64::new(0),
            acknowledged: acknowledgements,
        };
        let source = Self {
            words: heard,
            known: facts,
            looks: None,
            heard: 0,
            acknowledged,
            task: None,
        };
        (feed, source)
    }

    /// A source whose facts are looked up when somebody asks.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) fn looked_up() -> (Feed, mpsc::Receiver<Look>, Self) {
        let (looks, asked) = mpsc::channel(MAX_LOOKS);
        let (feed, mut source) = Self::fed();
        source.looks = Some(looks);
        (feed, asked, source)
    }

    /// This task ends with the source.
    pub(crate) fn served_by(mut self, task: AbortHandle) -> Self {
        self.task = Some(task);
        self
    }

    /// The next word. Cancel safe; waits for ever where there is no source, or none any more.
    pub async fn next(&mut self) -> PowerEvent {
        match self.words.recv().await {
            Some(word) => {
                if word == PowerEvent::Sleeping {
                    self.heard += 1;
                }
                word
            }
            None => std::future::pending().await,
        }
    }

    /// What the source can be relied on for at this moment.
    pub fn promise(&self) -> Promise {
        self.known.borrow().promise
    }

    /// The surroundings of this moment, within [`LOOK_TIMEOUT`]; without facts where the source does not answer in time.
    pub async fn surroundings(&self) -> Surroundings {
        let Some(looks) = &self.looks else {
            return *self.known.borrow();
        };
        let (answer, answered) = oneshot::channel();
        let asked = looks.try_send(answer).is_ok();
        match timeout(LOOK_TIMEOUT, answered).await {
            Ok(Ok(surroundings)) if asked => surroundings,
            Ok(Ok(_) | Err(_)) | Err(_) => Surroundings {
                promise: self.promise(),
                ..Surroundings::default()
            },
        }
    }

    /// Whoever heard [`PowerEvent::Sleeping`] is ready: the host need not wait any longer. More than one is harmless, and so is
    /// a late one: it is about the sleep that [`PowerSource::next`] told last, not about one that waits to be told.
    pub fn acknowledge_sleep(&self) {
        self.acknowledged.send_replace(self.heard);
    }
}

impl Drop for PowerSource {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Feed {
    /// Says a word. False if nobody heard it: the source is gone, or does not listen.
    pub fn say(&self, word: PowerEvent) -> bool {
        let told = self.words.try_send(word).is_ok();
        if told && word == PowerEvent::Sleeping {
            self.told.fetch_add(1, Ordering::Relaxed);
        }
        told
    }

    /// Tells what is known from now on.
    pub fn know(&self, surroundings: Surroundings) {
        self.known.send_replace(surroundings);
    }

    /// Waits until somebody says that the sleep that was told last may go on; several times in the meantime count as one.
    /// Waits for ever once the source is gone. Cancel safe.
    pub async fn acknowledgement(&mut self) {
        loop {
            if self.acknowledged.changed().await.is_err() {
                std::future::pending().await
            }
            if *self.acknowledged.borrow_and_update() == self.told.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// Whoever spoke is gone, and with it all that is known.
impl Drop for Feed {
    fn drop(&mut self) {
        self.know(Surroundings::default());
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
        pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_source_that_is_missing_says_nothing_and_knows_nothing() {
        let mut source = PowerSource::none();
        assert!(poll(source.next()).is_pending());
        assert_eq!(poll(source.surroundings()), Poll::Ready(Surroundings::default()));
        assert_eq!(source.promise(), Promise::None);
        source.acknowledge_sleep();
    }

    #[test]
    fn a_fed_source_says_and_knows_what_it_is_told_and_its_end_leaves_nothing() {
        let (feed, mut source) = PowerSource::fed();
        let closed = Surroundings {
            promise: Promise::Facts,
            lid_closed: Some(true),
            ..Surroundings::default()
        };
        feed.know(closed);
        assert!(feed.say(PowerEvent::Sleeping) && feed.say(PowerEvent::Sleeping));
        assert_eq!(poll(source.next()), Poll::Ready(PowerEvent::Sleeping));
        assert_eq!(poll(source.next()), Poll::Ready(PowerEvent::Sleeping));
        assert_eq!(poll(source.surroundings()), Poll::Ready(closed));
        drop(feed);
        assert!(poll(source.next()).is_pending());
        assert_eq!(source.promise(), Promise::None);
    }

    #[test]
    fn acknowledgements_are_heard_and_several_count_as_one() {
        let (mut feed, mut source) = PowerSource::fed();
        assert!(feed.say(PowerEvent::Sleeping));
        assert!(poll(feed.acknowledgement()).is_pending());
        assert!(poll(source.next()).is_ready());
        source.acknowledge_sleep();
        source.acknowledge_sleep();
        assert!(poll(feed.acknowledgement()).is_ready());
        assert!(poll(feed.acknowledgement()).is_pending());
    }

    #[test]
    fn who_has_not_heard_of_a_sleep_acknowledges_the_one_before() {
        let (mut feed, mut source) = PowerSource::fed();
        for word in [PowerEvent::Sleeping, PowerEvent::Resumed, PowerEvent::Sleeping] {
            assert!(feed.say(word));
        }
        for heard in [PowerEvent::Sleeping, PowerEvent::Resumed] {
            assert_eq!(poll(source.next()), Poll::Ready(heard));
            source.acknowledge_sleep();
            assert!(poll(feed.acknowledgement()).is_pending());
        }
        assert_eq!(poll(source.next()), Poll::Ready(PowerEvent::Sleeping));
        assert!(poll(feed.acknowledgement()).is_pending());
        source.acknowledge_sleep();
        assert!(poll(feed.acknowledgement()).is_ready());
    }

    #[test]
    fn words_that_nobody_hears_have_a_limit() {
        let (feed, source) = PowerSource::fed();
        let heard = (0..MAX_WORDS + 1).filter(|_| feed.say(PowerEvent::Resumed)).count();
        assert_eq!(heard, MAX_WORDS);
        drop(source);
        assert!(!feed.say(PowerEvent::Resumed));
    }

    #[tokio::test]
    async fn a_source_that_does_not_answer_is_not_waited_for() {
        let (feed, _asked, source) = PowerSource::looked_up();
        feed.know(Surroundings {
            promise: Promise::Facts,
            preparing: Some(true),
            ..Surroundings::default()
        });
        let surroundings = source.surroundings().await;
        assert_eq!((surroundings.promise, surroundings.preparing), (Promise::Facts, None));
    }
}
