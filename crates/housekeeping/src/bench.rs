//! A worker's hold on the ledger: the lock, the job in hand, and blocking threads for everything the disk is asked.

use std::collections::hash_map::RandomState;
use std::future::pending;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;

use ledger::{Claim, Damaged, Disk, Fate, Job, JobId, Ledger, LedgerError, Work};
use now::Wall;
use platform::disk::FolderDisk;
use platform::service::Descriptor;
use tokio::task::spawn_blocking;
use tracing::{debug, warn};

/// The ledger that worker and shells share.
pub(crate) type FolderLedger = Ledger<FolderDisk>;

/// The worker lock and the job in hand. While this lives nobody else works on the ledger.
pub(crate) struct Bench {
    ledger: Arc<FolderLedger>,
    /// Away while a blocking thread uses it.
    held: Option<Held>,
}

/// What goes to a blocking thread and comes back.
pub(crate) struct Held {
    pub(crate) work: Work<<FolderDisk as Disk>::Lock>,
    claim: Option<Claim>,
}

/// The job in hand, as it was when it was claimed.
#[derive(Clone, Debug)]
pub(crate) struct Claimed {
    pub(crate) job: Job,
    /// 1 for the first.
    pub(crate) attempt: u32,
}

impl Bench {
    /// Takes the lock, and puts in order what the worker before left. `None` if there is another worker.
    pub(crate) async fn open(ledger: Arc<FolderLedger>) -> Result<Option<(Self, Vec<Damaged>)>, LedgerError> {
        let begun = blocking(Arc::clone(&ledger), |ledger| {
            let Some(lock) = ledger.lock_worker()? else {
                return Ok(None);
            };
            let (mut work, found) = ledger.recover(lock, wall())?;
            debug!(
                interrupted = found.interrupted.len(),
                copies = found.copies,
                "ledger recovered"
            );
            for job in &found.given_up {
                warn!(%job, "given up: its workers ended too often");
            }
            ledger.drain_waiting(&mut work, wall())?;
            let mut damaged = found.damaged;
            damaged.extend(work.take_damaged());
            Ok(Some((work, damaged)))
        })
        .await?;
        Ok(begun.map(|(work, damaged)| {
            let held = Some(Held { work, claim: None });
            (Self { ledger, held }, damaged)
        }))
    }

    /// Claims the oldest job that is due. Also returns the files it came upon that are no jobs.
    pub(crate) async fn claim(&mut self) -> Result<(Option<Claimed>, Vec<Damaged>), LedgerError> {
        self.with(|ledger, held| {
            held.claim = ledger.claim(&mut held.work)?;
            let claimed = held.claim.as_ref().map(|claim| Claimed {
                job: claim.job().clone(),
                attempt: claim.attempt(),
            });
            Ok((claimed, held.work.take_damaged()))
        })
        .await
    }

    /// What holds the lock beside this bench, for as long as it is kept by anybody.
    pub(crate) fn hold(&self) -> io::Result<Descriptor> {
        let held = self.held.as_ref().expect("nobody asks the ledger meanwhile");
        held.work.lock().descriptor()
    }

    /// Notes a chore or a part of one as done.
    pub(crate) async fn progress(&mut self, word: String) -> Result<(), LedgerError> {
        self.with(|ledger, Held { work, claim }| match claim {
            Some(claim) => ledger.progress(work, claim, word),
            None => Ok(()),
        })
        .await
    }

    /// Notes a chore as done whose repetition has no effect; costs nothing.
    pub(crate) fn note(&mut self, word: &str) {
        if let Some(claim) = self.held.as_mut().and_then(|held| held.claim.as_mut()) {
            claim.note(word);
        }
    }

    /// Makes what was noted durable, before something is done that should not be done twice.
    pub(crate) async fn save(&mut self) -> Result<(), LedgerError> {
        self.with(|ledger, Held { work, claim }| match claim {
            Some(claim) => ledger.save(work, claim),
            None => Ok(()),
        })
        .await
    }

    /// Puts back a job that cannot be worked on for the disk's fault: it is due again, as far as the disk lets it.
    pub(crate) async fn release(&mut self, job: JobId) {
        let released = self.with(move |ledger, held| {
            held.claim = None;
            ledger.release(&held.work, job)
        });
        if let Err(error) = released.await {
            debug!(%job, %error, "a job stays claimed until the next worker");
        }
    }

    /// Puts the job in hand away as done.
    pub(crate) async fn finish(&mut self) -> Result<(), LedgerError> {
        self.with(|ledger, held| match held.claim.take() {
            Some(claim) => ledger.finish(&held.work, claim, wall()),
            None => Ok(()),
        })
        .await
    }

    /// Puts the job in hand away as failed. `None` if there is none.
    pub(crate) async fn fail(&mut self, error: String) -> Result<Option<Fate>, LedgerError> {
        self.with(|ledger, held| {
            let Some(claim) = held.claim.take() else {
                return Ok(None);
            };
            ledger.fail(&held.work, claim, error, wall(), random()).map(Some)
        })
        .await
    }

    /// Puts the job in hand back; it counts as not tried.
    pub(crate) async fn requeue(&mut self) -> Result<(), LedgerError> {
        self.with(|ledger, held| match held.claim.take() {
            Some(claim) => ledger.requeue(&held.work, claim),
            None => Ok(()),
        })
        .await
    }

    /// When the next waiting job becomes due.
    pub(crate) async fn next_time(&mut self) -> Result<Option<Wall>, LedgerError> {
        self.with(|ledger, _| ledger.next_time(wall())).await
    }

    /// Asks the ledger something on a blocking thread. If the future is dropped, the lock is given back when the thread
    /// comes back.
    pub(crate) async fn with<T, F>(&mut self, ask: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&FolderLedger, &mut Held) -> Result<T, LedgerError> + Send + 'static,
    {
        let mut held = self.held.take().expect("a dropped future drops its bench");
        let ledger = Arc::clone(&self.ledger);
        let (held, answer) = blocking(ledger, move |ledger| {
            let answer = ask(ledger, &mut held);
            (held, answer)
        })
        .await;
        self.held = Some(held);
        answer
    }
}

async fn blocking<T: Send + 'static>(
    ledger: Arc<FolderLedger>,
    ask: impl FnOnce(&FolderLedger) -> T + Send + 'static,
) -> T {
    match spawn_blocking(move || ask(&ledger)).await {
        Ok(answer) => answer,
        Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
        // The runtime goes down, and this task with it.
        Err(_) => pending().await,
    }
}

/// The present on the wall clock.
pub(crate) fn wall() -> Wall {
    platform::clock::now().wall
}

/// Whether a moment that was written down is past.
pub(crate) fn is_past(wall_ms: u64) -> bool {
    wall().since_origin().as_millis() >= u128::from(wall_ms)
}

/// Spreads the waits of jobs that failed together. Not secret: the keys of a hash map are random enough.
fn random() -> u16 {
    (RandomState::new().build_hasher().finish() & u64::from(u16::MAX)) as u16
}

/// What became of a failed job, for its log line: the id, how often it was tried, what went wrong.
pub(crate) fn report_failure(job: JobId, tries: u32, error: &str, again: Option<Wall>) {
    match again {
        Some(until) => {
            let wait_s = until.since(wall()).as_secs();
            tracing::info!(%job, tries, wait_s, error, "housekeeping failed; it is tried again");
        }
        None => warn!(%job, tries, error, "housekeeping given up; see `marmot housekeep --help`"),
    }
}
