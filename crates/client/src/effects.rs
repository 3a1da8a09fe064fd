//! What the machine says is to be done, done.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use api::Happening;
use ledger::Owed;
use lifecycle::{Acknowledged, Effect, EndReason, Generation, How, Report, State};
use tracing::{debug, info, warn};

use crate::attempt::{Attempt, Failure};
use crate::clock;
use crate::opening::Opening;
use crate::orders::outcome;
use crate::proof::{Input, Proof, Proven};
use crate::provider::{Outcome, Refused, Stopped};
use crate::pump::{Command, Finished, Stop, say_goodbye};
use crate::shell::{Done, Released, Running, Shell};
use crate::store::Store;

impl Shell {
    pub(crate) fn carry_out(&mut self, effect: Effect<Proven>) {
        match effect {
            Effect::Connect { g, how, trigger } => {
                debug!(%g, ?how, ?trigger, "connecting");
                self.count(|totals| totals.attempts.add(trigger.word()));
                self.connect(g, how);
            }
            Effect::Arm { g } => self.arm(g),
            Effect::Abort { .. } => {
                self.attempt = None;
                if let Some((link, fresh)) = self.opening.take().map(Opening::abandon) {
                    self.orphan = Some(link);
                    self.unborn.extend(fresh);
                    // It kept everybody else from looking, and may have changed the host.
                    self.around.look_over();
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
            Effect::Housekeep => {
                self.hold.send_modify(|held| *held = false);
                self.housekeep();
            }
            Effect::Hold => self.hold.send_modify(|held| *held = true),
            Effect::Resume => self.hold.send_modify(|held| *held = false),
            Effect::Rest => {
                self.resting = None;
                self.hold.send_modify(|held| *held = false);
            }
            Effect::Mode(mode) => {
                debug!(%mode, "what may run has changed");
                self.tell_pump(Command::Mode(mode));
                if let Some(lookout) = &self.lookout {
                    lookout.mode(mode);
                }
            }
            Effect::Park { g } => {
                debug!(%g, "parking");
                self.tell_pump(Command::Park);
            }
            Effect::Woke { g, gap, wakes } => {
                debug!(%g, gap_s = gap.as_secs(), wakes, "fully awake");
                self.tell_pump(Command::Woke);
            }
            Effect::AckSleep => {
                self.power.acknowledge_sleep();
                for sleeper in self.sleepers.drain(..) {
                    // Nobody may wait for it.
                    let _ = sleeper.send(());
                }
            }
            Effect::Report(event) => self.report(event),
            Effect::Exit(reason) => self.exit = Some(reason),
        }
    }

    fn connect(&mut self, g: Generation, how: How) {
        // Whoever connects sets the host up itself.
        self.arming = None;
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
            gate: self.host.gate(),
            known: self.known.clone(),
            cookie,
            previous: self.addresses.clone(),
            books: self.books.clone(),
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
        self.offline = None;
        self.around.released();
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
        let lift = self.lifts();
        self.arming = None;
        let lookout = self.lookout.take();
        let restore = self.host.release(lift);
        self.release = Some(Box::pin(async move {
            let watched = match lookout {
                Some(lookout) => lookout.finished().await,
                None => None,
            };
            let finished = match pump {
                Some(pump) => pump.finished().await,
                None => None,
            };
            Released {
                g,
                proof: restore.await,
                finished,
                watched,
            }
        }));
    }

    /// Stops forwarding without a word. Host, record and what the service manager keeps stay as they are.
    fn hand_over(&mut self, g: Generation) {
        if !self.store.as_ref().is_some_and(Store::is_kept) {
            return self.inputs.push_back(Input::HandedOver { g, kept: false });
        }
        self.handed = true;
        self.lookout = None;
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
            let written = self.books.write(account.record.clone());
            self.background.spawn(async move {
                let _ = written.await;
                Done::Noted
            });
        }
        self.feed(Input::HandedOver { g, kept: true });
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

    fn acknowledge(&mut self, took: Duration, acknowledged: &Acknowledged<Proven>) {
        let outcome = outcome(acknowledged);
        let ms = clock::ms(took);
        match &outcome {
            Outcome::WasDown => info!(ms, "stop.ack: the tunnel was down"),
            Outcome::HandedOver => info!(ms, "stop.ack: device and session wait for the next process"),
            Outcome::Down { residue, owed } => {
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
                let (interface, dns) = (self.host.interface(), self.host.dns());
                let tunnel = self.session.as_ref().map(|session| session.status(interface, dns));
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
                self.forget_absence();
                if !matches!(reason, EndReason::UserStop | EndReason::StayDown) {
                    self.count(|totals| totals.disconnects.add(reason.word()));
                }
                match (&mut self.pump, self.machine.state()) {
                    // It went on with the data channel of a session that is over.
                    (Some((_, pump)), State::Reasserting { .. }) => pump.stop(Stop::Silently),
                    (Some(_), _) => {}
                    (None, _) => self.end_session(),
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
                    let tunnel = session.status(self.host.interface(), self.host.dns());
                    let after_ms = clock::millis(after);
                    self.tell(Happening::PathBack { after_ms });
                    self.counter.status.send_modify(|status| status.tunnel = Some(tunnel));
                }
            }
            Report::Reconnecting(_) => {
                if let Some(repeats) = self.repeats.told("reconnecting", clock::now().boot) {
                    warn!(repeats, "nothing was heard of the gateway for 10 s; reconnecting");
                }
            }
            Report::RetryIn(_, delay) => self.retry_notice(delay),
            Report::Suppressed(cause, wait) => {
                self.count(|totals| totals.suppressed.add(cause.word()));
                debug!(
                    cause = cause.word(),
                    wait_s = wait.map(|wait| wait.as_secs()),
                    "no connection now"
                );
            }
            Report::Wake(kind, gap) => {
                debug!(%kind, gap_s = gap.as_secs(), "wake");
                self.count(|totals| totals.wakes.add(kind.word()));
            }
            Report::ReconnectFailed(_) => {
                if let Some(error) = self.failure.take() {
                    let text = error.to_string();
                    match self.quiet.failed(&text, clock::now().awake) {
                        Some(failures) => warn!(failures, "the new connection failed, the old one goes on: {text}"),
                        None => debug!("the new connection failed, the old one goes on: {text}"),
                    }
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
