//! What the machine says is to be done, done.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use api::Happening;
use housekeeping::{Ended, Outcome};
use ledger::Owed;
use lifecycle::{Acknowledged, Effect, EndReason, Generation, How, Report};
use session::Traffic;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::attempt::{Attempt, Failure};
use crate::books::{limits, open_ledger};
use crate::chores::{AGAIN, LONGEST_WAIT, worker};
use crate::clock;
use crate::opening::Opening;
use crate::orders::outcome;
use crate::proof::{Input, Proof, Proven};
use crate::provider::{Outcome as Left, Refused, Stopped};
use crate::pump::{Finished, Stop, say_goodbye};
use crate::shell::{Done, Released, Running, Shell};
use crate::store::Store;

/// A start that follows a stop at once has the processor for itself: connecting takes some tens of milliseconds.
const HEAD_START: Duration = Duration::from_millis(250);

impl Shell {
    pub(crate) fn carry_out(&mut self, effect: Effect<Proven>) {
        match effect {
            Effect::Connect { g, how, trigger } => {
                debug!(%g, ?how, ?trigger, "connecting");
                self.connect(g, how);
            }
            Effect::Abort { .. } => {
                self.attempt = None;
                if let Some((link, fresh)) = self.opening.take().map(Opening::abandon) {
                    self.orphan = Some(link);
                    self.unborn.extend(fresh);
                }
            }
            Effect::Goodbye { .. } => match &mut self.parting {
                Some(link) => say_goodbye(link),
                None => self.goodbye = true,
            },
            Effect::Release { g } => self.begin_release(g),
            Effect::Record { g } => self.record(g),
            Effect::HandOver { g } => self.hand_over(g),
            Effect::Curtail { g } => self.curtail(g),
            Effect::AckStop { took, outcome } => self.acknowledge(took, &outcome),
            Effect::Housekeep => self.housekeep(),
            Effect::Rest => self.resting = None,
            Effect::Report(event) => self.report(event),
            Effect::Exit(reason) => self.exit = Some(reason),
        }
    }

    fn connect(&mut self, g: Generation, how: How) {
        // A reload may have named another gateway or user, who is not to see what the old one gave.
        if self
            .ticket
            .as_ref()
            .is_some_and(|ticket| !ticket.setup.same_login(&self.setup))
        {
            self.ticket = None;
            self.addresses.clear();
        }
        let setup = Arc::clone(&self.setup);
        let dialled = Arc::new(AtomicU32::new(0));
        let attempt = |cookie| Attempt {
            setup: Arc::clone(&setup),
            mark: self.host.mark(),
            known: self.known.clone(),
            cookie,
            previous: self.addresses.clone(),
            dialled: Arc::clone(&dialled),
        };
        self.attempt = Some(Running {
            g,
            how,
            result: match (how, &self.ticket) {
                (How::Login, _) => Box::pin(attempt(None).run()),
                (How::Cookie, Some(ticket)) => Box::pin(attempt(Some(ticket.cookie.clone())).run()),
                // The machine has to know that a login makes another session.
                (How::Cookie, None) => Box::pin(ready(Err(Failure::without_cookie()))),
            },
            setup,
            dialled,
        });
    }

    fn begin_release(&mut self, g: Generation) {
        self.ticket = None;
        self.addresses.clear();
        self.lost_at = None;
        let how = if std::mem::take(&mut self.goodbye) {
            Stop::WithGoodbye
        } else {
            Stop::Silently
        };
        let pump = self.pump.take().map(|(_, mut pump)| {
            pump.stop(how);
            pump
        });
        // A session that was granted and never used.
        if let Some(link) = &mut self.orphan {
            say_goodbye(link);
        }
        let restore = self.host.release();
        self.release = Some(Box::pin(async move {
            let finished = match pump {
                Some(pump) => pump.finished().await,
                None => None,
            };
            Released {
                g,
                proof: restore.await,
                finished,
            }
        }));
    }

    /// Stops forwarding without a word. Host, record and what the service manager keeps stay as they are.
    fn hand_over(&mut self, g: Generation) {
        if !self.store.as_ref().is_some_and(Store::is_kept) {
            return self.inputs.push_back(Input::HandedOver { g, kept: false });
        }
        self.handed = true;
        let pump = self.pump.take().map(|(_, mut pump)| {
            pump.stop(Stop::Silently);
            pump
        });
        self.background.spawn(async move {
            let finished = match pump {
                Some(pump) => pump.finished().await,
                None => None,
            };
            Done::HandedOver { g, finished }
        });
    }

    /// The next process finds device and ticket; what the session carried so far is in its record.
    pub(crate) fn handed_over(&mut self, g: Generation, finished: Option<Box<Finished>>) {
        self.leaving.link = self.keep(finished).map(|(_, link)| link);
        self.leaving.device = self.device.take();
        if let Some(account) = &mut self.account {
            account.carry(&std::mem::take(&mut self.carried));
            drop(self.books.write(account.record.clone()));
        }
        self.feed(Input::HandedOver { g, kept: true });
    }

    /// The record of the session becomes a due job.
    fn record(&mut self, g: Generation) {
        let now = clock::now();
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
        let closing = self.books.close(record, end);
        self.withdraw_unborn();
        self.recording = Some(g);
        self.background.spawn(async move {
            let owed = closing.await;
            Done::Recorded { g, owed }
        });
    }

    /// Takes back the records of sessions that never came to life. Whoever loses power now finds them, and loses nothing.
    pub(crate) fn withdraw_unborn(&mut self) {
        for id in self.unborn.drain(..) {
            drop(self.books.withdraw(id));
        }
    }

    /// Answers for what takes too long. The work itself goes on.
    fn curtail(&mut self, g: Generation) {
        if self.handed {
            return self.inputs.push_back(Input::HandedOver { g, kept: true });
        }
        if self.release.is_some() {
            let restored = Proof::Unfinished;
            self.inputs.push_back(Input::Released { g, restored });
        }
        let owed = Owed::DiskTooSlow("the disk does not answer".to_owned());
        self.inputs.push_back(Input::Recorded { g, owed });
    }

    /// Works off what is due, beside the loop; or leaves it to a unit of the service manager.
    fn housekeep(&mut self) {
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
        let (setup, mark, books) = (Arc::clone(&self.setup), self.host.mark(), self.books.clone());
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
            let opened = tokio::task::spawn_blocking(move || open_ledger(&root, limits)).await;
            let ledger = match opened {
                Ok(Ok(ledger)) => Arc::new(ledger),
                Ok(Err(trouble)) => return Done::NotKept(shift, trouble.to_string()),
                Err(_) => return Done::NotKept(shift, "the ledger's thread failed".to_owned()),
            };
            match worker(setup, mark, ledger) {
                Ok(worker) => Done::Kept(shift, Box::new(worker.work_off(stop).await)),
                Err(error) => Done::NotKept(shift, error.to_string()),
            }
        });
    }

    /// The worker has come to an end.
    pub(crate) fn kept(&mut self, shift: u64, outcome: &Outcome) {
        for effort in &outcome.efforts {
            let (job, tries) = (effort.job.to_string(), effort.tries);
            let failure = outcome.failed.iter().find(|failure| failure.job == effort.job);
            self.tell(match failure {
                None => Happening::HousekeepingDone {
                    job,
                    ms: clock::millis(effort.took),
                    tries,
                },
                Some(failure) => Happening::HousekeepingFailed {
                    job,
                    error: failure.error.clone(),
                    tries,
                    given_up: failure.again.is_none(),
                },
            });
        }
        match outcome.ended {
            Ended::NothingDue => {
                let now = clock::now().wall;
                let wait = outcome.next.map(|next| next.since(now).min(LONGEST_WAIT));
                self.shift_ended(shift, wait);
            }
            Ended::Busy | Ended::Disk(_) => self.shift_ended(shift, Some(AGAIN)),
            Ended::Stopped => self.shift_ended(shift, None),
        }
    }

    /// The machine hears of the end of the worker that it started last; those before it were told to rest. Jobs are looked at
    /// again after `wait`, although nothing has become due meanwhile.
    pub(crate) fn shift_ended(&mut self, shift: u64, wait: Option<Duration>) {
        if shift == self.shift && self.resting.take().is_some() {
            self.look_at = wait.map(|wait| Instant::now() + wait);
            self.feed(Input::JobsDone);
        }
    }

    fn acknowledge(&mut self, took: Duration, acknowledged: &Acknowledged<Proven>) {
        let outcome = outcome(acknowledged);
        let ms = clock::ms(took);
        match &outcome {
            Left::WasDown => info!(ms, "stop.ack: the tunnel was down"),
            Left::HandedOver => info!(ms, "stop.ack: device and session wait for the next process"),
            Left::Down { residue, owed } => {
                let (owed, job, why) = match owed {
                    Owed::Recorded(receipt) => ("recorded", Some(receipt.job().to_string()), None),
                    Owed::Nothing => ("nothing", None, None),
                    Owed::DiskTooSlow(why) => ("disk_too_slow", None, Some(why)),
                };
                if residue.is_empty() && why.is_none() {
                    info!(ms, owed, job, "stop.ack");
                } else {
                    let residue = Some(residue.join("; ")).filter(|residue| !residue.is_empty());
                    warn!(ms, owed, why, residue, "stop.ack");
                }
            }
        }
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counter.status.send_modify(|status| status.stop_ack_us = Some(us));
        self.answer_stop(&Stopped { took, outcome });
    }

    fn report(&mut self, event: Report) {
        match event {
            Report::SessionStart(_) => {
                self.begin_account();
                self.session = self.upcoming.take().map(|session| session.started(clock::now()));
                let interface = self.host.interface();
                let tunnel = self.session.as_ref().map(|session| session.status(interface));
                if let Some(tunnel) = &tunnel {
                    let (session, epoch) = tunnel.session.clone().unzip();
                    self.tell(Happening::SessionStart {
                        session,
                        epoch,
                        interface: tunnel.interface.clone(),
                        addresses: tunnel.addresses.iter().map(ToString::to_string).collect(),
                    });
                }
                self.counter.status.send_modify(|status| {
                    status.sessions += 1;
                    status.tunnel = tunnel;
                });
            }
            Report::SessionEnd(_, reason) => {
                self.ending = Some(reason);
                if self.pump.is_none() {
                    self.end_session();
                }
            }
            Report::PathLost(_, kind) => {
                self.counter.status.send_modify(|status| status.path_losses += 1);
                if let Some(account) = &mut self.account {
                    account.record.facts.path_losses += 1;
                }
                self.tell(Happening::PathLost {
                    detail: Some(kind.to_string()),
                });
                debug!(%kind, "path.lost");
            }
            Report::PathBack(_, after) => {
                if let (Some(account), Some(next)) = (&mut self.account, self.next_account.take()) {
                    account.went_on(next);
                }
                if let (Some(session), Some(upcoming)) = (&mut self.session, self.upcoming.take()) {
                    session.went_on(upcoming, after);
                    let tunnel = session.status(self.host.interface());
                    let after_ms = clock::millis(after);
                    self.tell(Happening::PathBack { after_ms });
                    self.counter.status.send_modify(|status| status.tunnel = Some(tunnel));
                }
            }
            Report::Reconnecting(_) => warn!("no connection to the gateway for 10 s; reconnecting"),
            Report::RetryIn(_, delay) => self.retry_notice(delay),
            Report::Suppressed(delay) => debug!(delay_s = delay.as_secs(), "too many connections; waiting"),
            Report::ReconnectFailed(_) => {
                if let Some(error) = self.failure.take() {
                    warn!("the new connection failed, the old one goes on: {error}");
                }
            }
            Report::AlreadyWanted => {
                self.started = Ok(true);
                debug!("the tunnel is up or on its way already");
            }
            Report::StartRefused => {
                self.started = Err(Refused::Exiting);
                warn!("cannot start: the client is about to exit");
            }
            Report::Failed(reason) => debug!(%reason, "failed"),
        }
    }

    fn retry_notice(&mut self, delay: Duration) {
        let at = clock::millis(clock::now().wall.plus(delay).since_origin());
        self.problem_changed(|problem| problem.next_attempt_unix_ms = Some(at));
        let text = self.failure.as_ref().map_or_else(String::new, ToString::to_string);
        let delay_ms = delay.as_millis();
        match self.quiet.failed(&text, clock::now().awake) {
            Some(failures) => warn!(failures, delay_ms, "trying again: {text}"),
            None => debug!(delay_ms, "trying again: {text}"),
        }
    }

    /// The record of the new session is the one that counts; the one before it, if any, is a job now.
    fn begin_account(&mut self) {
        let next = self.next_account.take();
        if let Some(mut old) = std::mem::replace(&mut self.account, next) {
            if old.end.is_none() {
                old.end("auth_expired", None, &Traffic::default(), clock::now());
            }
            let (record, end) = old.closing(clock::now());
            // What the disk does not take stays in open/, where the next start finds it.
            drop(self.books.close(record, end));
            self.inputs.push_back(Input::JobsDue);
        }
        self.withdraw_unborn();
    }

    /// Logs the end of a session once all it carried is known.
    pub(crate) fn end_session(&mut self) {
        let Some(reason) = self.ending.take() else { return };
        let carried = std::mem::take(&mut self.carried);
        if let Some(account) = &mut self.account {
            let detail = self.ended_by.as_ref().map(ToString::to_string);
            account.end(reason.word(), detail, &carried, clock::now());
        }
        self.counter.status.send_modify(|status| {
            status.traffic.add(&carried);
            status.session_traffic = carried;
        });
        if let Some(session) = self.session.take() {
            self.tell(Happening::SessionEnd {
                reason: reason.word().to_owned(),
                detail: self.ended_by.as_ref().map(ToString::to_string),
                seconds: session.age(clock::now()).as_secs(),
            });
            session.end(reason, self.ended_by.take(), &carried, clock::now());
        }
    }
}
