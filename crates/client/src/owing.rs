//! What sessions owe: recorded when they end, and worked off behind every acknowledgement.

use std::sync::Arc;
use std::time::Duration;

use api::Happening;
use housekeeping::{Attempt, Ended, Outcome};
use ledger::{End, OpenRecord, Owed};
use lifecycle::{EndReason, Generation, State};
use session::Traffic;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::books::{limits, open_ledger};
use crate::chores::{AGAIN, LOCKED, LONGEST_WAIT, worker};
use crate::clock;
use crate::proof::Input;
use crate::shell::{Done, Shell};

/// Sessions whose jobs the disk has not taken, and that it is offered again. What is beyond lies in open/ until the next
/// start.
const MAX_UNCLOSED: usize = 64;

/// A start that follows a stop at once has the processor for itself: connecting takes some tens of milliseconds.
const HEAD_START: Duration = Duration::from_millis(250);

impl Shell {
    /// The record of the session becomes a due job.
    pub(crate) fn record(&mut self, g: Generation) {
        let now = clock::now();
        self.withdraw_bare();
        let Some(mut account) = self.account.take() else {
            self.withdraw_unborn();
            return self.inputs.push_back(Input::Recorded { g, owed: Owed::Nothing });
        };
        if account.end.is_none() {
            let none = if self.stoppers.is_empty() { "fatal" } else { "user_stop" };
            let reason = self.ending.map_or(none, EndReason::word);
            account.end(reason, None, &self.carried, now);
        }
        let (record, end) = account.closing(now);
        self.close(Some(g), record, end);
        self.withdraw_unborn();
    }

    /// Makes a due job of a session, for the stop of `g` if one waits for it.
    fn close(&mut self, g: Option<Generation>, record: OpenRecord, end: End) {
        let again = (record.clone(), end.clone());
        let closing = self.books.close(record, end);
        self.background.spawn(async move {
            let owed = closing.await;
            let unclosed = matches!(owed, Owed::DiskTooSlow(_)).then(|| Box::new(again));
            Done::Recorded { g, owed, unclosed }
        });
    }

    /// The disk has answered. What it did not take is offered to it again later; it lies in open/ all the while, where a next
    /// start would find it.
    pub(crate) fn recorded(&mut self, g: Option<Generation>, owed: Owed, unclosed: Option<Box<(OpenRecord, End)>>) {
        if let Some(unclosed) = unclosed {
            if self.unclosed.len() < MAX_UNCLOSED {
                self.unclosed.push(*unclosed);
            }
            self.look_at.get_or_insert(Instant::now() + AGAIN);
        }
        // One that comes after its stop was acknowledged without it is work like any other.
        let waits =
            |g: &Generation| matches!(self.machine.state(), State::Stopping { g: current, .. } if current == *g);
        match (g.filter(waits), &owed) {
            (Some(g), _) => self.feed(Input::Recorded { g, owed }),
            (None, Owed::Recorded(_)) => self.feed(Input::JobsDue),
            (None, Owed::Nothing | Owed::DiskTooSlow(_)) => {}
        }
    }

    /// Looks into the ledger for the status, beside the loop.
    pub(crate) fn count_owed(&mut self) {
        let summary = self.books.question(|ledger| ledger.summary());
        self.workers
            .spawn(async move { Done::Counted(summary.await.ok().map(Box::new)) });
    }

    /// Jobs are looked at: also those that the disk has not taken yet.
    pub(crate) fn look_at_jobs(&mut self) {
        for (record, end) in std::mem::take(&mut self.unclosed) {
            self.close(None, record, end);
        }
        self.feed(Input::JobsDue);
    }

    /// Takes back the records of sessions that never came to life. Whoever loses power now finds them, and loses nothing.
    pub(crate) fn withdraw_unborn(&mut self) {
        for id in self.unborn.drain(..) {
            let withdrawn = self.books.withdraw(id);
            self.background.spawn(async move {
                let _ = withdrawn.await;
                Done::Noted
            });
        }
    }

    /// The record of the new session is the one that counts; the one before it, if any, is a job now.
    pub(crate) fn begin_account(&mut self) {
        let next = self.next_account.take();
        if let Some(mut old) = std::mem::replace(&mut self.account, next) {
            if old.end.is_none() {
                old.end("auth_expired", None, &Traffic::default(), clock::now());
            }
            let (record, end) = old.closing(clock::now());
            self.close(None, record, end);
        }
        self.withdraw_unborn();
        self.withdraw_bare();
    }

    /// Works off what is due, beside the loop; or leaves it to a unit of the service manager.
    pub(crate) fn housekeep(&mut self) {
        let config = &self.setup.config.housekeeping;
        if !config.run.in_daemon(self.manager.is_some()) {
            return self.inputs.push_back(Input::JobsDone);
        }
        let (stopper, mut stop) = watch::channel(false);
        self.resting = Some(stopper);
        self.shift += 1;
        let shift = self.shift;
        let (working, ended) = watch::channel(());
        let before = self.worker.replace(ended);
        let (setup, way, books) = (
            Arc::clone(&self.setup),
            (self.host.mark(), self.host.gate()),
            self.books.clone(),
        );
        let told = self.attempts_told.0.clone();
        let held = self.hold.subscribe();
        self.workers.spawn(async move {
            // One that was told to rest may still be putting its job back.
            if let Some(mut before) = before {
                let _ = before.changed().await;
            }
            let _working = working;
            if timeout(HEAD_START, stop.wait_for(|stop| *stop)).await.is_ok() {
                return Done::Kept(shift, Box::new(Outcome::new(Ended::Stopped)));
            }
            let root = books.root().to_owned();
            let limits = limits(&setup.config.housekeeping);
            // Authorities may be a long file on a slow disk, too.
            let engaged = tokio::task::spawn_blocking(move || {
                let ledger = open_ledger(&root, limits).map_err(|trouble| trouble.to_string())?;
                worker(setup, way, Arc::new(ledger)).map_err(|error| error.to_string())
            });
            match engaged.await {
                Ok(Ok(worker)) => Done::Kept(shift, Box::new(worker.telling(told).held_by(held).work_off(stop).await)),
                Ok(Err(why)) => Done::NotKept(shift, why),
                Err(_) => Done::NotKept(shift, "the worker's thread failed".to_owned()),
            }
        });
    }

    /// One attempt at a job has come to an end.
    pub(crate) fn attempted(&mut self, attempt: Attempt) {
        let (job, tries) = (attempt.job.to_string(), attempt.tries);
        self.tell(match attempt.failure {
            None => Happening::HousekeepingDone {
                job,
                ms: clock::millis(attempt.took),
                tries,
            },
            Some(failure) => Happening::HousekeepingFailed {
                job,
                error: failure.error,
                tries,
                given_up: failure.again.is_none(),
            },
        });
    }

    /// The worker has come to an end.
    pub(crate) fn kept(&mut self, shift: u64, outcome: &Outcome) {
        self.count_owed();
        match outcome.ended {
            Ended::NothingDue => {
                let now = clock::now().wall;
                let wait = outcome.next.map(|next| next.since(now).min(LONGEST_WAIT));
                self.shift_ended(shift, wait);
            }
            Ended::Busy => self.shift_ended(shift, Some(LOCKED)),
            Ended::Disk(_) => self.shift_ended(shift, Some(AGAIN)),
            Ended::Stopped => self.shift_ended(shift, None),
        }
    }

    /// The machine hears of the end of the worker that it started last; those before it were told to rest. Jobs are looked at
    /// again after `wait`, although nothing has become due meanwhile.
    pub(crate) fn shift_ended(&mut self, shift: u64, wait: Option<Duration>) {
        if shift == self.shift && self.resting.take().is_some() {
            let refused = (!self.unclosed.is_empty()).then_some(AGAIN);
            let wait = wait.into_iter().chain(refused).min();
            self.look_at = wait.map(|wait| Instant::now() + wait);
            self.feed(Input::JobsDone);
        }
    }
}
