//! The orders of the façade, taken one after the other. Each is answered, at once or when the machine says so.

use std::sync::Arc;
use std::time::Duration;

use api::Happening;
use lifecycle::{ACK_BUDGET, Acknowledged, Origin, PowerWord, Rule, State, StopReason};
use plan::Flows;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use crate::ClientError;
use crate::books::{RECORD_PATIENCE, Trouble};
use crate::daemon::down;
use crate::news::coming;
use crate::proof::{Input, Proven};
use crate::provider::{Order, Outcome, Refused, Started, Stopped};
use crate::rules::Rules;
use crate::setup::{Setup, changed_sections, read_config};
use crate::shell::{Boxed, Shell, told};
use crate::store::Store;

/// A start is answered within 50 ms, whether or not the disk has noted it.
const NOTE_START: Duration = Duration::from_millis(40);

/// Whoever waits for an answer, and what has to be on the disk before it is given.
pub(crate) struct Asker<T> {
    answer: oneshot::Sender<T>,
    noted: Option<Boxed<Result<(), Trouble>>>,
}

impl<T: Send + 'static> Asker<T> {
    /// Answers when the disk has noted the order, and after `patience` in any case.
    fn answer(self, words: T, patience: Duration) {
        let Self { answer, noted } = self;
        let Some(noted) = noted else {
            // Nobody may wait for it.
            let _ = answer.send(words);
            return;
        };
        tokio::spawn(async move {
            match timeout(patience, noted).await {
                Ok(Ok(())) => {}
                Ok(Err(trouble)) => warn!("cannot note what is wanted: {trouble}"),
                Err(_) => warn!("the disk takes its time to note what is wanted"),
            }
            let _ = answer.send(words);
        });
    }
}

impl Shell {
    pub(crate) fn order(&mut self, order: Order) {
        debug!(?order, "order");
        if matches!(order, Order::Start(..) | Order::Reconnect(_) | Order::Stop { .. }) {
            self.first = None;
        }
        match order {
            Order::Start(origin, answer) => self.start(Input::Start { origin }, answer),
            Order::Reconnect(answer) => self.start(Input::Reconnect, answer),
            Order::Stop { reason, exit, answer } => self.stop(reason, exit, answer),
            Order::Sleep(answer) => {
                self.sleepers.push(answer);
                self.feed(Input::Power(PowerWord::Sleeping));
            }
            Order::Wake(kind) => self.feed(Input::Wake(kind)),
            Order::JobsDue => self.look_at_jobs(),
            Order::Cancel(why) => self.cancel(ClientError::Cancelled(why)),
            // Whoever does not wait for an answer gets none.
            Order::Reload(answer) => match self.reload() {
                Ok(Some(steering)) => drop(tokio::spawn(async move { answer.send(steering.await) })),
                Ok(None) => drop(answer.send(Ok(()))),
                Err(refused) => drop(answer.send(Err(refused))),
            },
        }
    }

    /// Nobody is left who could give an order.
    pub(crate) fn abandon(&mut self) {
        self.abandoned = true;
        let (answer, _) = oneshot::channel();
        self.stop(StopReason::User, true, answer);
    }

    fn start(&mut self, input: Input, answer: oneshot::Sender<Result<Started, Refused>>) {
        self.started = Ok(false);
        self.lock();
        self.feed(input);
        let state = self.machine.state();
        let started = self.started.clone().map(|already| Started {
            state: state.word(),
            generation: coming(state).unwrap_or(0),
            already,
        });
        let noted = started.is_ok().then(|| self.want(true)).flatten();
        Asker { answer, noted }.answer(started, NOTE_START);
    }

    /// A daemon that is told to end is not told that the tunnel is not wanted: after a boot it comes up again.
    fn stop(&mut self, reason: StopReason, exit: bool, answer: oneshot::Sender<Stopped>) {
        if exit && let Some(manager) = &self.manager {
            told(manager.stopping());
        }
        let noted = if exit { None } else { self.want(false) };
        let returns = reason == StopReason::Restart && self.manager.is_some();
        // Nobody would go on with the session.
        let reason = match reason {
            StopReason::Restart if self.store.as_ref().is_some_and(Store::is_kept) => StopReason::Restart,
            StopReason::Restart | StopReason::User => StopReason::User,
        };
        self.stoppers.push_back(Asker { answer, noted });
        self.lift |= !returns;
        self.feed(Input::Stop { reason, exit });
        self.lift_what_is_left();
    }

    /// Keeps what is wanted, for `start = "last"`.
    pub(crate) fn want(&mut self, up: bool) -> Option<Boxed<Result<(), Trouble>>> {
        if self.wanted.replace(up) == Some(up) {
            return None;
        }
        Some(Box::pin(self.books.note_desired(up)))
    }

    /// One acknowledgement of the machine for one stop.
    pub(crate) fn answer_stop(&mut self, stopped: &Stopped) {
        if !self.stoppers.is_empty() {
            // Whoever took the tunnel down need not hear why it was not up.
            self.counter.status.send_modify(|status| status.problem = None);
            self.news = true;
        }
        if let Some(stopper) = self.stoppers.pop_front() {
            stopper.answer(stopped.clone(), ACK_BUDGET.saturating_sub(stopped.took));
        }
        let down = down(stopped);
        self.counter
            .status
            .send_modify(|status| status.last_stop = Some(down.clone()));
        self.tell(Happening::StopAck(down));
        self.last_stop = Some(stopped.clone());
    }

    /// Stops beyond those that the machine acknowledges one by one.
    pub(crate) fn answer_the_rest(&mut self) {
        let Some(last) = self.last_stop.take() else { return };
        for stopper in self.stoppers.drain(..) {
            stopper.answer(last.clone(), ACK_BUDGET.saturating_sub(last.took));
        }
    }

    /// All or nothing: a mistake anywhere leaves everything as it was. Flow rules count at once; what replaces them is returned.
    fn reload(&mut self) -> Result<Option<Boxed<Result<(), Refused>>>, Refused> {
        let config = read_config(&self.config_path).map_err(|errors| {
            error!("the configuration has mistakes and is not taken; the old one goes on\n{errors}");
            Refused::Mistaken(errors.to_string())
        })?;
        let changed = changed_sections(&self.setup.config, &config);
        if changed.contains(&"tunnel") {
            let why = "[tunnel] cannot change while the client runs; the old configuration goes on, restart it";
            error!("{why}");
            return Err(Refused::Mistaken(why.to_owned()));
        }
        let setup = Setup::new(config, self.setup.secrets.clone()).map_err(|error| {
            error!("the configuration is not taken, the old one goes on: {error}");
            Refused::Mistaken(error.to_string())
        })?;
        let steering = (self.setup.flows != setup.flows).then(|| self.steering(setup.flows.clone()));
        let changed = if changed.is_empty() {
            "nothing".to_owned()
        } else {
            changed.join(" ")
        };
        info!(
            changed,
            "configuration read again; it counts from the next connection on"
        );
        if self.setup.config.log != setup.config.log {
            warn!("[log] counts from the next start of the client on");
        }
        if self.setup.config.dns != setup.config.dns {
            warn!("[dns] counts from the next start of the client on");
        }
        if self.setup.config.sleep.power_source != setup.config.sleep.power_source {
            warn!("[sleep] power_source counts from the next start of the client on");
        }
        self.machine.set_backoff(setup.backoff());
        self.machine
            .set_disconnect_on_sleep(setup.config.sleep.disconnect_on_sleep);
        self.machine.set_wake_limits(setup.wake_limits());
        let on_demand = &setup.config.on_demand;
        self.machine.set_on_demand(on_demand.enabled);
        let other_rules = self.setup.config.on_demand.rules != on_demand.rules;
        let always = !on_demand.enabled;
        // Before the machine hears of anything: what it starts is to find the new settings.
        self.setup = Arc::new(setup);
        self.known.clear();
        self.introduce();
        self.lockdown_changed();
        if other_rules {
            let rules = &self.setup.config.on_demand.rules;
            self.rules = Rules::new(rules, self.host.wayfinder(), self.host.gate());
            if self.rules.is_none() {
                self.feed(Input::NetworkRule(Rule::Connect));
                // The verdict that it waits for never comes.
                if let Some(start) = self.first.take() {
                    self.feed(start);
                }
            }
        }
        if always && matches!(self.machine.state(), State::Armed { .. }) {
            self.feed(Input::Start { origin: Origin::Boot });
        }
        // A plan may be under way that was made with the old settings.
        self.around.look_over();
        Ok(steering)
    }

    /// Replaces the flow rules of a tunnel that is up: the record first, then the kernel, in one transaction.
    pub(crate) fn steering(&mut self, flows: Option<Flows>) -> Boxed<Result<(), Refused>> {
        let noted = self.account.as_mut().filter(|account| account.end.is_none());
        let noted = noted.and_then(|account| {
            account.record.undo.as_mut()?.plan.flows.clone_from(&flows);
            Some(self.books.write(account.record.clone()))
        });
        let steer = self.host.steer(flows);
        Box::pin(async move {
            if let Some(noted) = noted {
                // What is left behind is found by its slot as well.
                let _ = timeout(RECORD_PATIENCE, noted).await;
            }
            steer
                .await
                .map(|()| info!("flow rules are as configured"))
                .map_err(|error| {
                    let why = format!(
                        "the flow rules are not replaced, the old ones go on until the next connection: {error}"
                    );
                    error!("{why}");
                    Refused::Mistaken(why)
                })
        })
    }
}

/// What of a proof is told to whoever asked for the stop.
pub(crate) fn outcome(acknowledged: &Acknowledged<Proven>) -> Outcome {
    match acknowledged {
        Acknowledged::WasDown => Outcome::WasDown,
        Acknowledged::Down { restored, owed } => Outcome::Down {
            residue: restored.residue(),
            owed: owed.clone(),
        },
        Acknowledged::HandedOver => Outcome::HandedOver,
    }
}
