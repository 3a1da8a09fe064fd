//! The orders of the façade, taken one after the other. Each is answered, at once or when the machine says so.

use std::sync::Arc;

use lifecycle::{Acknowledged, StopReason};
use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

use crate::ClientError;
use crate::proof::{Input, Proven};
use crate::provider::{Event, Order, Outcome, Refused, Started, Stopped};
use crate::setup::{Setup, changed_sections, read_config};
use crate::shell::Shell;

impl Shell {
    pub(crate) fn order(&mut self, order: Order) {
        debug!(?order, "order");
        match order {
            Order::Start(origin, answer) => self.start(Input::Start { origin }, answer),
            Order::Reconnect(answer) => self.start(Input::Reconnect, answer),
            Order::Stop { reason, exit, answer } => self.stop(reason, exit, answer),
            Order::Cancel(why) => self.cancel(ClientError::Cancelled(why)),
            // Whoever does not wait for an answer gets none.
            Order::Reload(answer) => drop(answer.send(self.reload())),
        }
    }

    /// Nobody is left who could give an order.
    pub(crate) fn abandon(&mut self) {
        self.abandoned = true;
        let (answer, _) = oneshot::channel();
        self.stop(StopReason::User, true, answer);
    }

    fn start(&mut self, input: Input, answer: oneshot::Sender<Result<Started, Refused>>) {
        self.started = Ok(Started::Begun);
        self.feed(input);
        let _ = answer.send(self.started.clone());
    }

    fn stop(&mut self, reason: StopReason, exit: bool, answer: oneshot::Sender<Stopped>) {
        self.stoppers.push_back(answer);
        self.feed(Input::Stop { reason, exit });
    }

    /// One acknowledgement of the machine for one stop.
    pub(crate) fn answer_stop(&mut self, stopped: &Stopped) {
        if let Some(answer) = self.stoppers.pop_front() {
            let _ = answer.send(stopped.clone());
        }
        self.tell(Event::Stopped(stopped.clone()));
        self.last_stop = Some(stopped.clone());
    }

    /// Stops beyond those that the machine acknowledges one by one.
    pub(crate) fn answer_the_rest(&mut self) {
        let Some(last) = self.last_stop.take() else { return };
        for answer in self.stoppers.drain(..) {
            let _ = answer.send(last.clone());
        }
    }

    /// Tells whoever watches.
    pub(crate) fn tell(&self, event: Event) {
        let _ = self.counter.events.send(event);
    }

    /// All or nothing: a mistake anywhere leaves everything as it was.
    fn reload(&mut self) -> Result<(), Refused> {
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
        self.machine.set_backoff(setup.backoff());
        self.setup = Arc::new(setup);
        self.known.clear();
        Ok(())
    }
}

/// What of a proof is told to whoever asked for the stop.
pub(crate) fn outcome(acknowledged: &Acknowledged<Proven>) -> Outcome {
    match acknowledged {
        Acknowledged::WasDown => Outcome::WasDown,
        Acknowledged::Down { restored, owed: _ } => Outcome::Down {
            residue: restored.residue(),
        },
        Acknowledged::HandedOver => Outcome::HandedOver,
    }
}
