//! The worker: claims one job after the other and carries out its chores.
//!
//! ```text
//!   worker lock -> recover, drain waiting/ -> claim -> chore, chore, chore -> done/
//!                                               ^        |         '------> waiting/ or failed/, with the errors
//!                                               |        '-- stop --------> due/, nothing counted
//!                                               '---- next job
//! ```
//! A chore that fails does not keep the later ones from being done. What should not be done twice is noted before anything
//! else happens, so that a job that runs again does only the rest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::{Chore, Damaged, Fate, HistoryEntry, JobId, LedgerError};
use now::Wall;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::bench::{Bench, Claimed, FolderLedger, is_past, report_failure, wall};
use crate::hooks::{self, Run};
use crate::{Office, Settings, summary};

/// How long the office may take for one chore. A login over a slow network takes some seconds.
pub const OFFICE_TIMEOUT: Duration = Duration::from_secs(60);

/// Damaged files that one line of the log names.
const MAX_NAMED: usize = 10;

/// Works on the ledger of one tunnel, or of a gateway. Any number of these, in any number of processes, may be there: the
/// worker lock lets one of them work at a time.
#[derive(Debug)]
pub struct Worker<O> {
    ledger: Arc<FolderLedger>,
    settings: Settings,
    office: O,
    told: Option<mpsc::Sender<Attempt>>,
    hold: Option<watch::Receiver<bool>>,
}

/// What a worker has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why it does no more.
    pub ended: Ended,
    /// Jobs that are done now, in this order.
    pub done: Vec<JobId>,
    /// Jobs that failed, in this order.
    pub failed: Vec<Failure>,
    /// Files in the ledger that cannot be read, and where they are now.
    pub damaged: Vec<Damaged>,
    /// When the next waiting job becomes due; known only after [`Ended::NothingDue`].
    pub next: Option<Wall>,
}

/// Why a worker stopped working.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No job is due.
    NothingDue,
    /// It was told to stop; the job it had is due again.
    Stopped,
    /// Another worker has the lock and does the work.
    Busy,
    /// The disk failed, and what was claimed runs again later; or all is done, but due/ cannot be emptied
    /// ([`LedgerError::Stuck`]).
    Disk(LedgerError),
}

/// One attempt at a job that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Which.
    pub job: JobId,
    /// How long it took.
    pub took: Duration,
    /// Which attempt it was: 1 for the first.
    pub tries: u32,
    /// What went wrong; `None` if the job is done.
    pub failure: Option<Failure>,
}

/// A job that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub job: JobId,
    /// What went wrong.
    pub error: String,
    /// When it is tried again; `None` if it was given up.
    pub again: Option<Wall>,
}

impl Outcome {
    /// Of a worker that did nothing.
    pub fn new(ended: Ended) -> Self {
        Self {
            ended,
            done: Vec::new(),
            failed: Vec::new(),
            damaged: Vec::new(),
            next: None,
        }
    }

    /// Names files that are no jobs.
    fn set_aside(&mut self, damaged: Vec<Damaged>) {
        for file in damaged {
            if self.damaged.contains(&file) {
                continue;
            }
            let kept_as = file.kept_as.as_ref().map(tracing::field::display);
            warn!(folder = %file.folder, file = %file.name, kept_as, why = %file.why, "not a record");
            self.damaged.push(file);
        }
    }
}

/// How a chore went.
enum Chored {
    Done,
    Failed(String),
    Stopped,
}

/// How a job went.
enum Worked {
    AllDone,
    Failed(Vec<String>),
    Stopped,
}

impl<O: Office> Worker<O> {
    /// A worker; it does nothing by itself.
    pub fn new(ledger: Arc<FolderLedger>, settings: Settings, office: O) -> Self {
        Self {
            ledger,
            settings,
            office,
            told: None,
            hold: None,
        }
    }

    /// Takes up neither job nor chore while `hold` is true; what is in hand goes on.
    #[must_use]
    pub fn held_by(mut self, hold: watch::Receiver<bool>) -> Self {
        self.hold = Some(hold);
        self
    }

    /// Waits until something may be taken up. A holder that is gone holds nothing.
    async fn leave_to_begin(&self, stop: &watch::Receiver<bool>) {
        if let Some(hold) = &self.hold {
            let mut hold = hold.clone();
            tokio::select! {
                _ = hold.wait_for(|held| !held) => {}
                () = stopped(stop.clone()) => {}
            }
        }
    }

    /// Has `told` hear of each attempt as it ends. One that finds the queue full is not told.
    #[must_use]
    pub fn telling(mut self, told: mpsc::Sender<Attempt>) -> Self {
        self.told = Some(told);
        self
    }

    /// The ledger it works on.
    pub(crate) fn ledger(&self) -> &Arc<FolderLedger> {
        &self.ledger
    }

    /// Does all work that is due, and says what became of it. Once `stop` is true (or its sender is gone) it ends within
    /// [`platform::children::GRACE`] and a moment, as far as the disk lets it. If this is dropped, what it was about to do
    /// is found by the next worker.
    pub async fn work_off(&self, stop: watch::Receiver<bool>) -> Outcome {
        let mut outcome = Outcome::new(Ended::NothingDue);
        outcome.ended = match self.work(&stop, &mut outcome).await {
            Ok(ended) => ended,
            Err(error) => {
                warn!(%error, "housekeeping cannot use its ledger");
                Ended::Disk(error)
            }
        };
        outcome
    }

    async fn work(&self, stop: &watch::Receiver<bool>, outcome: &mut Outcome) -> Result<Ended, LedgerError> {
        self.leave_to_begin(stop).await;
        let Some((mut bench, damaged)) = Bench::open(Arc::clone(&self.ledger)).await? else {
            return Ok(Ended::Busy);
        };
        outcome.set_aside(damaged);
        let mut to_prune = false;
        loop {
            self.leave_to_begin(stop).await;
            if is_stopped(stop) {
                return Ok(Ended::Stopped);
            }
            let (claimed, damaged) = bench.claim().await?;
            outcome.set_aside(damaged);
            let Some(claimed) = claimed else {
                if to_prune {
                    self.prune(&mut bench).await;
                    name_damaged(&mut bench).await;
                }
                outcome.next = bench.next_time().await?;
                bench.with(|ledger, held| ledger.check_due(&held.work)).await?;
                return Ok(Ended::NothingDue);
            };
            to_prune |= claimed.job.owed().any(|chore| matches!(chore, Chore::Prune));
            let job = claimed.job.id();
            match self.work_on(&mut bench, &claimed, stop, outcome).await {
                Ok(true) => {}
                Ok(false) => return Ok(Ended::Stopped),
                Err(error) => {
                    bench.release(job).await;
                    return Err(error);
                }
            }
        }
    }

    /// Works on one job until it is settled; `false` if a stop came first.
    async fn work_on(
        &self,
        bench: &mut Bench,
        claimed: &Claimed,
        stop: &watch::Receiver<bool>,
        outcome: &mut Outcome,
    ) -> Result<bool, LedgerError> {
        let begun = Instant::now();
        let (job, tries) = (claimed.job.id(), claimed.attempt);
        let worked = self.carry_out(bench, claimed, stop).await?;
        let took = begun.elapsed();
        let failure = match worked {
            Worked::Stopped => {
                bench.requeue().await?;
                debug!(%job, "housekeeping interrupted by a stop");
                return Ok(false);
            }
            Worked::AllDone => {
                bench.finish().await?;
                let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                info!(%job, ms, tries, "housekeeping.done");
                outcome.done.push(job);
                None
            }
            Worked::Failed(errors) => {
                let error = errors.join("; ");
                let again = match bench.fail(error.clone()).await? {
                    Some(Fate::Waiting(until)) => Some(until),
                    Some(Fate::GivenUp) | None => None,
                };
                report_failure(job, tries, &error, again);
                let failure = Failure { job, error, again };
                outcome.failed.push(failure.clone());
                Some(failure)
            }
        };
        if let Some(told) = &self.told {
            let _ = told.try_send(Attempt {
                job,
                took,
                tries,
                failure,
            });
        }
        Ok(true)
    }

    async fn carry_out(
        &self,
        bench: &mut Bench,
        claimed: &Claimed,
        stop: &watch::Receiver<bool>,
    ) -> Result<Worked, LedgerError> {
        let record = &claimed.job.record;
        let mut errors = Vec::new();
        for chore in claimed.job.owed() {
            self.leave_to_begin(stop).await;
            if is_stopped(stop) {
                return Ok(Worked::Stopped);
            }
            let chored = match chore {
                Chore::Account => {
                    let entry = HistoryEntry::from(record);
                    on_disk(bench.with(move |ledger, _| ledger.history_write(&entry)).await)
                }
                // An expired token ends nothing any more, nor is there anything left to end.
                Chore::Logout {
                    token_expires_ms: Some(until),
                    ..
                } if is_past(*until) => Chored::Done,
                Chore::Logout { token, .. } => {
                    bench.save().await?;
                    within(OFFICE_TIMEOUT, "logout", self.office.logout(record, token), stop).await
                }
                Chore::Hooks => self.run_hooks(bench, claimed, stop).await?,
                Chore::Upload => match &self.settings.collector {
                    None => Chored::Done,
                    Some(collector) => {
                        bench.save().await?;
                        let body = summary::json(&claimed.job, claimed.attempt);
                        let key = record.id.to_string();
                        within(collector.timeout, "upload", collector.post(&key, body), stop).await
                    }
                },
                // The session table has done it; what remains is that somebody may want to know, which is a hook's.
                Chore::ReleaseLease => Chored::Done,
                Chore::Forget => within(OFFICE_TIMEOUT, "forget", self.office.forget(record), stop).await,
                // Once for all jobs, when none is due any more: it looks at every file of the past.
                Chore::Prune => Chored::Done,
            };
            match chored {
                Chored::Done if self.is_repeatable(chore) => bench.note(chore.word()),
                Chored::Done => bench.progress(chore.word().to_owned()).await?,
                Chored::Failed(error) => errors.push(error),
                Chored::Stopped => return Ok(Worked::Stopped),
            }
        }
        Ok(if errors.is_empty() {
            Worked::AllDone
        } else {
            Worked::Failed(errors)
        })
    }

    /// Runs the administrator's executables that have not done their work for this job yet.
    async fn run_hooks(
        &self,
        bench: &mut Bench,
        claimed: &Claimed,
        stop: &watch::Receiver<bool>,
    ) -> Result<Chored, LedgerError> {
        let folder = self.settings.hooks_dir.clone();
        let Ok(listed) = spawn_blocking(move || hooks::list(&folder)).await else {
            return Ok(Chored::Stopped);
        };
        let found = match listed {
            Ok(found) => found,
            Err(error) => return Ok(Chored::Failed(error)),
        };
        let mut errors = Vec::new();
        let mut saved = false;
        for hook in found {
            if claimed.job.has_done(&hook.word()) {
                continue;
            }
            let program = match &hook.program {
                Ok(program) => program.clone(),
                Err(why) => {
                    errors.push(format!("hook {} is not run: it {why}", hook.name));
                    continue;
                }
            };
            self.leave_to_begin(stop).await;
            if is_stopped(stop) {
                return Ok(Chored::Stopped);
            }
            if !saved {
                bench.save().await?;
                saved = true;
            }
            let lock = match bench.hold() {
                Ok(lock) => lock,
                Err(error) => {
                    errors.push(format!("hook {} could not be started: {error}", hook.name));
                    continue;
                }
            };
            let env = summary::environment(&claimed.job, claimed.attempt);
            let running = hooks::run(&hook.name, program, (env, lock), &self.settings, stopped(stop.clone()));
            match running.await {
                Run::Done => bench.progress(hook.word()).await?,
                Run::Failed(error) => errors.push(error),
                Run::Stopped => return Ok(Chored::Stopped),
            }
        }
        Ok(match errors.is_empty() {
            true => Chored::Done,
            false => Chored::Failed(errors.join("; ")),
        })
    }

    /// Drops what is too old or too much of the past. That it fails is nobody's but the disk's concern: the next time does it.
    async fn prune(&self, bench: &mut Bench) {
        match bench.with(|ledger, held| ledger.prune(&held.work, wall())).await {
            Ok(pruned) => {
                for file in &pruned.failed {
                    warn!(%file, "a job that was given up is forgotten; raise keep_failed to keep more");
                }
                for file in &pruned.damaged {
                    warn!(%file, "a file that could not be read is forgotten");
                }
                debug!(done = pruned.done, history = pruned.history, "pruned");
            }
            Err(error) => warn!(%error, "the past cannot be pruned"),
        }
    }

    /// Whether doing a chore again after a crash has no effect, so that it need not be durable at once that it was done.
    /// That costs two waits for the disk.
    fn is_repeatable(&self, chore: &Chore) -> bool {
        match chore {
            // The history has one entry of a name; of hooks, each that is done was noted by itself.
            Chore::Account | Chore::Hooks | Chore::ReleaseLease | Chore::Forget | Chore::Prune => true,
            Chore::Upload => self.settings.collector.is_none(),
            Chore::Logout { .. } => false,
        }
    }
}

/// Says which files nobody can read, those that were set aside earlier as well: they are kept until somebody looks at them, or
/// until they are too old. Once for all jobs, like pruning.
async fn name_damaged(bench: &mut Bench) {
    match bench.with(|ledger, _| ledger.summary()).await {
        Ok(summary) if summary.damaged.is_empty() => {}
        Ok(summary) => {
            let named: Vec<_> = summary
                .damaged
                .iter()
                .take(MAX_NAMED)
                .map(ToString::to_string)
                .collect();
            let (count, files) = (summary.damaged.len(), named.join(" "));
            warn!(
                count,
                files, "files of the ledger cannot be read; look at them and remove them"
            );
        }
        Err(error) => warn!(%error, "the ledger cannot be looked through"),
    }
}

/// Waits for something that needs the network, for a limited time and not through a stop.
async fn within(
    limit: Duration,
    word: &str,
    what: impl Future<Output = Result<(), String>>,
    stop: &watch::Receiver<bool>,
) -> Chored {
    tokio::select! {
        biased;
        () = stopped(stop.clone()) => Chored::Stopped,
        outcome = timeout(limit, what) => match outcome {
            Ok(Ok(())) => Chored::Done,
            Ok(Err(error)) => Chored::Failed(format!("{word}: {error}")),
            Err(_) => Chored::Failed(format!("{word}: no answer within {} s", limit.as_secs_f64())),
        },
    }
}

/// A chore of the disk's: that it failed is for later; that its being done cannot be noted is for now.
fn on_disk(outcome: Result<(), LedgerError>) -> Chored {
    match outcome {
        Ok(()) => Chored::Done,
        Err(error) => Chored::Failed(error.to_string()),
    }
}

fn is_stopped(stop: &watch::Receiver<bool>) -> bool {
    *stop.borrow() || stop.has_changed().is_err()
}

/// Waits until it is true.
pub(crate) async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that whoever could say stop is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}
