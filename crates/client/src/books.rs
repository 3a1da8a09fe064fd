//! The tunnel's ledger, kept by a thread of its own: what is asked is done in that order, and no disk, however slow, holds
//! up whoever asks.
//!
//! ```text
//!   shell --write, close, withdraw--> queue (64) --> thread "ledger" --> open/ due/ ... history/
//!     ^   --what is wanted----------> queue (64) --> thread "wanted" --> desired
//!     +------------------- future of the answer -------------+
//! ```
//! A stop writes both, and so waits for the disk once and not twice: what is flushed at the same time is flushed together.
//! A future that is dropped changes nothing: what was asked is done all the same.

use std::future::Future;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use config::Housekeeping;
use ledger::{Disk, DiskError, End, FileName, Folder, JobId, Ledger, LedgerError, Limits, OpenRecord, Owed};
use platform::PlatformError;
use platform::disk::{FolderDisk, Keeper, KeeperLock};
use platform::files::write_private;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::ClientError;

/// A ledger in a folder of this host.
pub(crate) type FolderLedger = Ledger<FolderDisk>;

/// Requests that wait for the disk. A tunnel makes two or three at a time; whoever finds the queue full has a disk that
/// stands still.
const QUEUE: usize = 64;

/// Questions that wait. Whoever asks more hears that we are busy; no record waits behind them.
const QUESTIONS: usize = 4;

/// A disk that has not taken a record by then will not: the attempt fails with that reason.
pub(crate) const RECORD_PATIENCE: Duration = Duration::from_secs(10);

/// What the record of a session with some hundred routes takes.
const ROOM: usize = 16 * 1024;

/// The file that is written to see whether the disk takes a record. No session has that name.
const PROBE: &str = "probe";

/// What the user wanted last.
const DESIRED: &str = "desired";

/// What the gateway granted last.
const LEASE: &str = "lease.json";

/// A grant has a few thousand routes at most.
const MAX_LEASE: u64 = 1024 * 1024;

/// Why the ledger did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Trouble {
    /// The ledger's own error.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The folder cannot be used.
    #[error("{0}")]
    Folder(String),
    /// Another process keeps the ledger, and so the tunnel.
    #[error("another process runs this tunnel{}", pid.map_or(String::new(), |pid| format!(" (process {pid})")))]
    Kept {
        /// That process, if it is known.
        pid: Option<u32>,
    },
    /// The disk does not keep up.
    #[error("the disk does not answer")]
    Stalled,
    /// Too many questions at once.
    #[error("too many ask at once; ask again")]
    Busy,
}

type Request = Box<dyn FnOnce(&mut Desk) + Send>;

/// The books of one tunnel. A cheap handle; the threads end with the last one.
#[derive(Clone, Debug)]
pub(crate) struct Books {
    queue: SyncSender<Request>,
    wishes: SyncSender<Request>,
    questions: SyncSender<Request>,
    /// A probe waits for the disk; a disk that stands still is not asked more than once.
    probing: Arc<AtomicBool>,
    keeping: Arc<Mutex<Keeping>>,
    root: PathBuf,
}

/// Whether the ledger is ours. Nobody else makes jobs of our sessions while it is.
#[derive(Debug, Default)]
enum Keeping {
    /// The disk has not let us see yet.
    #[default]
    Unknown,
    /// It is, and the host's side of the tunnel with it, whichever network we are in.
    Ours(#[expect(dead_code, reason = "holds the lock")] KeeperLock),
    /// It was. What is still asked is answered.
    Over,
}

/// The ledger stays ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Tenure(Arc<Mutex<Keeping>>);

/// A thread's side.
struct Desk {
    root: PathBuf,
    limits: Limits,
    /// Makes the ledger ours before it touches it.
    keeping: Option<Arc<Mutex<Keeping>>>,
    ledger: Option<FolderLedger>,
}

impl Books {
    /// Starts keeping the books of `tunnel` below `state_dir`. The disk is not asked yet.
    pub(crate) fn open(state_dir: &Path, tunnel: &str, settings: &Housekeeping) -> Result<Self, ClientError> {
        let root = state_dir.join(tunnel);
        let keeping = Arc::default();
        let desk = |name: &str, length: usize, keeping| {
            let (queue, requests) = sync_channel(length);
            let desk = Desk {
                root: root.clone(),
                limits: limits(settings),
                keeping,
                ledger: None,
            };
            let thread = thread::Builder::new().name(name.to_owned());
            match thread.spawn(move || desk.serve(&requests)) {
                Ok(_) => Ok(queue),
                Err(error) => Err(ClientError::Local(format!(
                    "cannot start a thread for the ledger: {error}"
                ))),
            }
        };
        Ok(Self {
            queue: desk("ledger", QUEUE, Some(Arc::clone(&keeping)))?,
            wishes: desk("wanted", QUEUE, None)?,
            questions: desk("questions", QUESTIONS, None)?,
            probing: Arc::default(),
            keeping,
            root,
        })
    }

    /// The folder of the ledger.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Who runs the tunnel holds this.
    pub(crate) fn tenure(&self) -> Tenure {
        Tenure(Arc::clone(&self.keeping))
    }

    /// Whether the disk takes the record of a session now, by writing as much as that.
    pub(crate) async fn takes_records(&self) -> Result<(), Trouble> {
        if self.probing.swap(true, Ordering::Relaxed) {
            return Err(Trouble::Stalled);
        }
        let probing = Probing(Arc::clone(&self.probing));
        let probe = self.ask(move |ledger| {
            let _probing = probing;
            probe(ledger.disk()).map_err(|error| LedgerError::Disk {
                what: "write".to_owned(),
                folder: Folder::Open,
                error,
            })
        });
        timeout(RECORD_PATIENCE, probe).await.unwrap_or(Err(Trouble::Stalled))
    }

    /// Writes or replaces the record of a session that lives. Durable when the answer is there.
    pub(crate) fn write(&self, record: OpenRecord) -> impl Future<Output = Result<(), Trouble>> + Send + use<> {
        self.ask(move |ledger| ledger.open(&record))
    }

    /// Takes the record of a session back that never came to life.
    pub(crate) fn withdraw(&self, id: JobId) -> impl Future<Output = Result<(), Trouble>> + Send + use<> {
        self.ask(move |ledger| ledger.withdraw(id))
    }

    /// Makes a due job of a session that is over.
    pub(crate) fn close(&self, record: OpenRecord, end: End) -> impl Future<Output = Owed> + Send + use<> {
        let closing = self.ask(move |ledger| ledger.close(record, end));
        async move {
            match closing.await {
                Ok(receipt) => Owed::Recorded(receipt),
                Err(trouble) => Owed::DiskTooSlow(trouble.to_string()),
            }
        }
    }

    /// Notes what the user wants, for `start = "last"`. Durable when the answer is there.
    pub(crate) fn note_desired(&self, up: bool) -> impl Future<Output = Result<(), Trouble>> + Send + use<> {
        request(&self.wishes, move |desk| {
            desk.ledger()?;
            let word = if up { "up\n" } else { "down\n" };
            write_private(&desk.root.join(DESIRED), word.as_bytes()).map_err(|error| Trouble::Folder(error.to_string()))
        })
    }

    /// What the user wanted last; `None` if nobody knows.
    pub(crate) fn desired(&self) -> impl Future<Output = Result<Option<bool>, Trouble>> + Send + use<> {
        request(&self.wishes, |desk| {
            match std::fs::read_to_string(desk.root.join(DESIRED)) {
                Ok(word) => Ok(match word.trim() {
                    "up" => Some(true),
                    "down" => Some(false),
                    _ => None,
                }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Trouble::Folder(format!("cannot read {DESIRED}: {error}"))),
            }
        })
    }

    /// Notes what the gateway granted last, for a start that waits for traffic.
    pub(crate) fn note_lease(&self, lease: Vec<u8>) -> impl Future<Output = Result<(), Trouble>> + Send + use<> {
        request(&self.wishes, move |desk| {
            desk.ledger()?;
            write_private(&desk.root.join(LEASE), &lease).map_err(|error| Trouble::Folder(error.to_string()))
        })
    }

    /// What the gateway granted last, if that is known.
    pub(crate) fn lease(&self) -> impl Future<Output = Result<Option<Vec<u8>>, Trouble>> + Send + use<> {
        request(&self.wishes, |desk| match std::fs::File::open(desk.root.join(LEASE)) {
            Ok(file) => {
                let mut bytes = Vec::new();
                match file.take(MAX_LEASE + 1).read_to_end(&mut bytes) {
                    Ok(_) if bytes.len() as u64 <= MAX_LEASE => Ok(Some(bytes)),
                    Ok(_) => Ok(None),
                    Err(error) => Err(Trouble::Folder(format!("cannot read {LEASE}: {error}"))),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Trouble::Folder(format!("cannot read {LEASE}: {error}"))),
        })
    }

    /// Asks the ledger something, behind what was asked before.
    pub(crate) fn ask<T, W>(&self, work: W) -> impl Future<Output = Result<T, Trouble>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&FolderLedger) -> Result<T, LedgerError> + Send + 'static,
    {
        request(&self.queue, move |desk| Ok(work(desk.ledger()?)?))
    }

    /// Asks the ledger something that changes nothing, beside what is written.
    ///
    /// The answer is [`Trouble::Busy`] if too many ask.
    pub(crate) fn question<T, W>(&self, work: W) -> impl Future<Output = Result<T, Trouble>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&FolderLedger) -> Result<T, LedgerError> + Send + 'static,
    {
        let asked = request(&self.questions, move |desk| Ok(work(desk.ledger()?)?));
        async move {
            match asked.await {
                Err(Trouble::Stalled) => Err(Trouble::Busy),
                other => other,
            }
        }
    }

    /// Has the disk stand still until the returned end is dropped.
    #[cfg(test)]
    pub(crate) fn stall(&self) -> std::sync::mpsc::Sender<()> {
        let (end, until) = std::sync::mpsc::channel::<()>();
        let (other_end, other_until) = std::sync::mpsc::channel::<()>();
        let (third_end, third_until) = std::sync::mpsc::channel::<()>();
        let request: Request = Box::new(move |_| {
            let _ = until.recv();
            drop((other_end, third_end));
        });
        let third: Request = Box::new(move |_| {
            let _ = third_until.recv();
        });
        let other: Request = Box::new(move |_| {
            let _ = other_until.recv();
        });
        self.queue.try_send(request).expect("room");
        self.wishes.try_send(other).expect("room");
        self.questions.try_send(third).expect("room");
        end
    }
}

/// Dropped when the probe is done, or is not made at all.
struct Probing(Arc<AtomicBool>);

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn probe(disk: &FolderDisk) -> Result<(), DiskError> {
    let name = FileName::new(PROBE).ok_or(DiskError::Unsupported)?;
    let written = disk
        .write_temporary(Folder::Open, &name, &[0; ROOM])
        .and_then(|()| disk.sync_temporary(Folder::Open, &name));
    let removed = disk.remove_temporaries(Folder::Open);
    written.and(removed)
}

fn request<T, W>(queue: &SyncSender<Request>, work: W) -> impl Future<Output = Result<T, Trouble>> + Send + use<T, W>
where
    T: Send + 'static,
    W: FnOnce(&mut Desk) -> Result<T, Trouble> + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    let request: Request = Box::new(move |desk| {
        // Nobody may wait for it any more.
        let _ = answer.send(work(desk));
    });
    let queued = queue.try_send(request);
    async move {
        queued.map_err(|_| Trouble::Stalled)?;
        answered.await.map_err(|_| Trouble::Stalled)?
    }
}

impl Desk {
    fn serve(mut self, requests: &Receiver<Request>) {
        while let Ok(request) = requests.recv() {
            request(&mut self);
        }
    }

    /// The ledger; a folder that could not be used is tried again.
    fn ledger(&mut self) -> Result<&FolderLedger, Trouble> {
        let ledger = match self.ledger.take() {
            Some(ledger) => ledger,
            None => open_ledger(&self.root, self.limits)?,
        };
        if let Some(keeping) = &self.keeping {
            keep(keeping, ledger.disk())?;
        }
        Ok(self.ledger.insert(ledger))
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        *state(&self.0) = Keeping::Over;
    }
}

fn state(keeping: &Mutex<Keeping>) -> MutexGuard<'_, Keeping> {
    keeping.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(keeping: &Mutex<Keeping>, disk: &FolderDisk) -> Result<(), Trouble> {
    if !matches!(*state(keeping), Keeping::Unknown) {
        return Ok(());
    }
    let lock = lock_keeper(disk)?;
    let mut keeping = state(keeping);
    if matches!(*keeping, Keeping::Unknown) {
        *keeping = Keeping::Ours(lock);
    }
    Ok(())
}

/// Makes a ledger ours.
///
/// # Errors
/// [`Trouble::Kept`] if it is somebody else's.
pub(crate) fn lock_keeper(disk: &FolderDisk) -> Result<KeeperLock, Trouble> {
    match disk.lock_keeper() {
        Ok(Keeper::Ours(lock)) => Ok(lock),
        Ok(Keeper::Another { pid }) => Err(Trouble::Kept { pid }),
        Err(error) => Err(Trouble::Folder(format!(
            "cannot lock the ledger {}: {error}",
            disk.root().display()
        ))),
    }
}

/// What whoever wants to run the tunnel is told when another process does.
pub(crate) fn running(tunnel: &str, pid: Option<u32>) -> ClientError {
    ClientError::Platform(PlatformError::TunnelRunning {
        tunnel: tunnel.to_owned(),
        pid,
    })
}

/// The ledger in a folder, which is made if missing.
pub(crate) fn open_ledger(root: &Path, limits: Limits) -> Result<FolderLedger, Trouble> {
    let disk = FolderDisk::open(root).map_err(|error| Trouble::Folder(error.to_string()))?;
    Ok(Ledger::new(disk, limits))
}

/// The limits of a ledger, from the configuration.
pub(crate) fn limits(settings: &Housekeeping) -> Limits {
    Limits {
        attempts: settings.attempts,
        retry_first: settings.retry_first,
        retry_max: settings.retry_max,
        give_up_after: settings.give_up_after,
        keep_done: settings.keep_done,
        keep_failed: settings.keep_failed,
        keep_history: settings.keep_history,
        keep_for: settings.keep,
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pki, client_config};

    fn books(pki: &Pki) -> Books {
        let config = client_config(pki, "");
        Books::open(pki.folder(), "home", &config.housekeeping).expect("a thread")
    }

    #[tokio::test]
    async fn what_was_wanted_last_is_remembered() {
        let pki = Pki::new("vpn.test");
        assert_eq!(books(&pki).desired().await, Ok(None));
        for up in [true, false] {
            books(&pki).note_desired(up).await.expect("written");
            assert_eq!(books(&pki).desired().await, Ok(Some(up)));
        }
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_used_is_named_and_tried_again() {
        let pki = Pki::new("vpn.test");
        pki.write("home", "in the way", 0o600);
        let books = books(&pki);
        let error = books.ask(|ledger| ledger.summary()).await.expect_err("no folder");
        assert!(error.to_string().contains("home"), "{error}");
        std::fs::remove_file(pki.folder().join("home")).expect("removed");
        books.ask(|ledger| ledger.summary()).await.expect("a folder");
    }

    #[tokio::test]
    async fn questions_beyond_a_few_are_turned_away_and_no_write_waits_for_them() {
        let pki = Pki::new("vpn.test");
        let books = books(&pki);
        let (go, until) = std::sync::mpsc::channel::<()>();
        let (begun, begins) = oneshot::channel();
        let slow = books.question(move |ledger| {
            let _ = begun.send(());
            let _ = until.recv();
            ledger.summary()
        });
        begins.await.expect("asked");
        let waiting: Vec<_> = (0..QUESTIONS)
            .map(|_| Box::pin(books.question(|ledger| ledger.summary())))
            .collect();
        assert_eq!(
            books.question(|ledger| ledger.summary()).await.err(),
            Some(Trouble::Busy)
        );
        books.takes_records().await.expect("written meanwhile");
        drop(go);
        slow.await.expect("answered");
        for answer in waiting {
            answer.await.expect("answered");
        }
    }

    #[tokio::test]
    async fn a_disk_that_stands_still_is_noticed_when_the_queue_is_full() {
        let pki = Pki::new("vpn.test");
        let books = books(&pki);
        let stalled = books.stall();
        let mut asked: Vec<_> = (0..=QUEUE).map(|_| Box::pin(books.note_desired(true))).collect();
        let last = asked.pop().expect("asked");
        assert_eq!(last.await, Err(Trouble::Stalled));
        drop(stalled);
        for answer in asked {
            let _ = answer.await;
        }
    }
}
