//! The loop: signals, results and deadlines become inputs of the machine, and its effects are carried out in order.
//!
//! ```text
//!   signals ---+                                  +--> attempt   (a future; dropping it aborts it)
//!   attempt ---+--> Input --> Machine --> Effect --+--> pump      (a task that owns device and channel)
//!   pump ------+                                  +--> release   (a future; ends in the proof)
//!   deadline --+                                  +--> log, status, exit
//! ```

use std::collections::VecDeque;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lifecycle::{
    EndReason, FailReason, Generation, Input, Jitter, LossKind, Machine, OnFailure, Origin, Settings, Stage, StopReason,
};
use now::{Awake, Gap, GapDetector, LATE_BY};
use platform::signals::Signal;
use session::Traffic;
use session::client::Authenticated;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::ClientError;
use crate::attempt::{Failure, Link, Opened};
use crate::clock;
use crate::device::Device;
use crate::grant::{Accepted, accept};
use crate::host::{Host, InstallError, Proof, ShellProofs};
use crate::pump::{Finished, Outcome, Pump, PumpEvent, Stop, say_goodbye};
use crate::quiet::Quiet;
use crate::report::{self, SessionLog};
use crate::setup::{Setup, changed_sections, read_config};
use crate::signals::SignalStream;
use crate::status::Status;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A cookie, and the settings it was made under: it is for their gateway, and it is their user's.
pub(crate) struct Ticket {
    pub(crate) cookie: Authenticated,
    pub(crate) setup: Arc<Setup>,
}

/// An attempt that is running.
pub(crate) struct Running {
    pub(crate) g: Generation,
    /// What it was started with; a reload may have replaced it since.
    pub(crate) setup: Arc<Setup>,
    pub(crate) result: Boxed<Result<Box<Opened>, Failure>>,
    pub(crate) dialled: Arc<AtomicU32>,
}

/// What a release left in our hands.
pub(crate) struct Released {
    pub(crate) g: Generation,
    pub(crate) proof: Proof,
    pub(crate) finished: Option<Box<Finished>>,
}

enum Event {
    Signal(Signal),
    Attempt(Running, Result<Box<Opened>, Failure>),
    Pump(PumpEvent),
    Released(Released),
    Deadline,
}

/// The client.
pub(crate) struct Shell {
    pub(crate) setup: Arc<Setup>,
    pub(crate) config_path: PathBuf,
    pub(crate) machine: Machine<ShellProofs>,
    pub(crate) signals: SignalStream,
    pub(crate) host: Host,
    pub(crate) attempt: Option<Running>,
    pub(crate) pump: Option<(Generation, Pump)>,
    pub(crate) release: Option<Boxed<Released>>,
    /// The device while no pump has it.
    pub(crate) device: Option<Device>,
    /// The connection of a pump that stopped by itself, while it is decided what follows.
    pub(crate) parting: Option<Link>,
    pub(crate) ticket: Option<Ticket>,
    pub(crate) known: Vec<SocketAddr>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) goodbye: bool,
    pub(crate) lost_at: Option<Awake>,
    pub(crate) session: Option<SessionLog>,
    /// What the connection just made says about the session.
    pub(crate) upcoming: Option<SessionLog>,
    /// A session that is over, until its pump has told what it carried.
    pub(crate) ending: Option<EndReason>,
    pub(crate) ended_by: Option<session::EndReason>,
    pub(crate) carried: Traffic,
    pub(crate) quiet: Quiet,
    pub(crate) failure: Option<ClientError>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) exit: Option<Option<FailReason>>,
    /// Inputs that wait for the effects before them to be carried out.
    pub(crate) answers: VecDeque<Input<ShellProofs>>,
}

impl Shell {
    pub(crate) fn new(
        setup: Setup,
        config_path: PathBuf,
        host: Host,
        signals: SignalStream,
        status: watch::Sender<Status>,
    ) -> Self {
        let settings = Settings {
            backoff: setup.backoff(),
            on_failure: OnFailure::Exit,
        };
        Self {
            setup: Arc::new(setup),
            config_path,
            machine: Machine::new(settings),
            signals,
            host,
            attempt: None,
            pump: None,
            release: None,
            device: None,
            parting: None,
            ticket: None,
            known: Vec::new(),
            addresses: Vec::new(),
            goodbye: false,
            lost_at: None,
            session: None,
            upcoming: None,
            ending: None,
            ended_by: None,
            carried: Traffic::default(),
            quiet: Quiet::default(),
            failure: None,
            status,
            exit: None,
            answers: VecDeque::new(),
        }
    }

    /// Runs until the process is to end.
    pub(crate) async fn run(mut self) -> Result<(), ClientError> {
        if self.setup.config.tunnel.start == config::client::Start::Up {
            self.feed(Input::Start { origin: Origin::Boot });
        } else {
            info!("waiting for SIGUSR2 to bring the tunnel up");
        }
        loop {
            self.publish();
            if let Some(reason) = self.exit {
                return match reason {
                    None => Ok(()),
                    Some(reason) => Err(self.failure.take().unwrap_or_else(|| unexplained(reason))),
                };
            }
            let (event, gap) = self.next().await;
            if let Some(gap) = gap {
                self.gap(gap);
            }
            self.handle(event).await;
        }
    }

    /// Waits for one event. A deadline that fired late comes with the gap that made it late.
    async fn next(&mut self) -> (Event, Option<Gap>) {
        let now = clock::now();
        let deadline = self.machine.deadline();
        let wait = deadline.map(|deadline| deadline.at.since(now.awake));
        let mut detector = wait.map(|wait| GapDetector::new(now, wait));
        let at = Instant::now() + wait.unwrap_or_default();
        let event = tokio::select! {
            biased;
            signal = self.signals.next() => Event::Signal(signal),
            released = optional(&mut self.release) => {
                self.release = None;
                Event::Released(released)
            }
            (running, result) = running(&mut self.attempt) => Event::Attempt(running, result),
            event = pumping(&mut self.pump) => Event::Pump(event),
            () = sleep_until(at), if wait.is_some() => Event::Deadline,
        };
        let gap = detector
            .as_mut()
            .and_then(|detector| detector.look(clock::now(), LATE_BY));
        (event, gap)
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Signal(signal) => self.signal(signal),
            Event::Attempt(Running { g, setup, dialled, .. }, result) => {
                let dialled = dialled.load(Ordering::Relaxed);
                self.feed(Input::Dialled(dialled.saturating_sub(1)));
                match result {
                    Ok(opened) => self.opened(g, setup, *opened).await,
                    Err(failure) => self.attempt_failed(g, setup, failure),
                }
            }
            Event::Pump(PumpEvent::Finished(finished)) => self.pump_ended(finished),
            // With a deadline of its own the machine hears of gaps from that.
            Event::Pump(PumpEvent::Gap(gap)) if self.machine.deadline().is_none() => self.gap(gap),
            Event::Pump(PumpEvent::Gap(_)) => {}
            Event::Released(released) => self.released(released),
            Event::Deadline => self.feed(Input::DeadlineReached),
        }
    }

    fn signal(&mut self, signal: Signal) {
        debug!(?signal, "signal");
        match signal {
            Signal::Terminate | Signal::Interrupt | Signal::Quit => {
                self.feed(Input::Stop {
                    reason: StopReason::User,
                    exit: true,
                });
            }
            Signal::TunnelDown => self.feed(Input::Stop {
                reason: StopReason::User,
                exit: false,
            }),
            Signal::TunnelUp => self.feed(Input::Reconnect),
            Signal::Reload => self.reload(),
        }
    }

    /// All or nothing: a mistake anywhere leaves everything as it was.
    fn reload(&mut self) {
        let config = match read_config(&self.config_path) {
            Ok(config) => config,
            Err(errors) => {
                tracing::error!("the configuration has mistakes and is not taken; the old one goes on\n{errors}");
                return;
            }
        };
        let changed = changed_sections(&self.setup.config, &config);
        if changed.contains(&"tunnel") {
            tracing::error!("[tunnel] cannot change while the client runs; the old configuration goes on, restart it");
            return;
        }
        match Setup::new(config, self.setup.secrets.clone()) {
            Ok(setup) => {
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
            }
            Err(error) => tracing::error!("the configuration is not taken, the old one goes on: {error}"),
        }
    }

    fn gap(&mut self, gap: Gap) {
        info!(kind = ?gap.kind, seconds = gap.length.as_secs_f32(), "clock.gap");
        self.status.send_modify(|status| status.clock_gaps += 1);
        self.feed(Input::ClockGap(gap));
    }

    /// Checks the grant, sets the host up, and starts pumping over the new connection.
    async fn opened(&mut self, g: Generation, setup: Arc<Setup>, opened: Opened) {
        let Opened {
            mut link,
            cookie,
            peer,
            known,
            tls,
        } = opened;
        if setup.same_login(&self.setup) {
            self.known = known;
        }
        let prepared = self.prepare(&link.established, peer).await;
        let accepted = match prepared {
            Ok(accepted) => accepted,
            Err(error) => {
                // The grant is not to be used; the gateway need not keep it.
                say_goodbye(&mut link);
                self.ticket = None;
                let (error, damaged) = match error {
                    InstallError::Clean(error) => (error, false),
                    InstallError::Damaged(error) => (error, true),
                };
                self.attempt_failed(
                    g,
                    setup,
                    Failure {
                        error,
                        stage: Stage::Granted,
                        cookie: None,
                    },
                );
                if damaged {
                    self.feed(Input::Cancel);
                }
                return;
            }
        };
        self.ended_by = None;
        if self
            .session
            .as_ref()
            .is_none_or(|session| !session.has_plan(&accepted.plan))
        {
            report::accepted(&accepted, link.established.grant());
        }
        let addresses: Vec<IpAddr> = link.established.addresses().collect();
        if !self.addresses.is_empty() && self.addresses != addresses {
            info!(
                old = report::list(&self.addresses),
                new = report::list(&addresses),
                "the gateway gave other addresses"
            );
        }
        self.addresses = addresses;
        self.upcoming = Some(SessionLog::new(
            &setup,
            peer,
            tls,
            accepted.plan,
            link.established.session(),
        ));

        self.ticket = Some(Ticket { cookie, setup });

        // The connection that this one replaces goes silently: its session goes on, here.
        if let Some((_, mut pump)) = self.pump.take() {
            pump.stop(Stop::Silently);
            let finished = pump.finished().await;
            self.keep(finished);
        }
        let Some(device) = self.device.take() else {
            return self.cancel(ClientError::Local("the packet pump failed".to_owned()));
        };
        self.quiet.reset();
        self.failure = None;
        self.feed(Input::Connected(g));
        let stale = self
            .lost_at
            .take()
            .is_some_and(|lost| clock::now().awake.since(lost) >= LATE_BY);
        self.pump = Some((g, Pump::start(device, link, stale)));
    }

    fn cancel(&mut self, error: ClientError) {
        self.failure = Some(error);
        self.feed(Input::Cancel);
    }

    async fn prepare(
        &mut self,
        established: &session::client::Established,
        peer: IpAddr,
    ) -> Result<Accepted, InstallError> {
        let local = self.host.local_networks().await.map_err(InstallError::Clean)?;
        let accepted = accept(established.grant(), peer, &self.setup.config, &local)
            .map_err(|refused| InstallError::Clean(refused.into()))?;
        self.host.install(accepted.plan.clone(), &mut self.device).await?;
        Ok(accepted)
    }

    fn attempt_failed(&mut self, g: Generation, setup: Arc<Setup>, failure: Failure) {
        let (class, stage) = (failure.class(), failure.stage);
        if let Some(cookie) = failure.cookie {
            self.ticket = Some(Ticket { cookie, setup });
        }
        debug!(error = %failure.error, ?class, ?stage, "the attempt failed");
        self.failure = Some(failure.error);
        self.feed(Input::ConnectFailed { g, class, stage });
    }

    fn pump_ended(&mut self, finished: Option<Box<Finished>>) {
        let Some((g, _)) = self.pump.take() else { return };
        self.lost_at = Some(clock::now().awake);
        let Some((outcome, link)) = self.keep(finished) else {
            return self.cancel(ClientError::Local("the packet pump failed".to_owned()));
        };
        self.parting = Some(link);
        match outcome {
            Outcome::DeviceGone(error) => self.cancel(ClientError::DeviceGone(error)),
            Outcome::Lost(kind, why) => {
                debug!(%kind, "the control channel is gone: {why}");
                self.feed(Input::ControlLost { g, kind });
            }
            Outcome::Stopped => self.feed(Input::ControlLost { g, kind: LossKind::Eof }),
            Outcome::Ended(reason) => {
                let word = report::end_reason(&reason);
                self.ended_by = Some(reason.clone());
                self.failure = Some(ClientError::Ended(reason));
                self.feed(Input::SessionEnded { g, reason: word });
            }
        }
        self.parting = None;
    }

    /// Keeps what a pump gives back.
    fn keep(&mut self, finished: Option<Box<Finished>>) -> Option<(Outcome, Link)> {
        let Finished { outcome, device, link } = *finished?;
        self.carried.add(link.established.traffic());
        self.device = Some(device);
        Some((outcome, link))
    }

    fn released(&mut self, released: Released) {
        let Released { g, proof, finished } = released;
        // The link is dropped after the acknowledgement.
        let link = finished.map(|finished| {
            self.carried.add(finished.link.established.traffic());
            self.device = Some(finished.device);
            finished.link
        });
        self.end_session();
        if !proof.residue().is_empty() {
            warn!(
                residue = proof.residue().join("; "),
                "could not restore all of this host; the next start of this tunnel tries again"
            );
        }
        self.feed(Input::Released { g, restored: proof });
        self.status.send_modify(|status| status.tunnel = None);
        self.host.take_back(self.device.take());
        drop(link);
    }

    /// Hands an input to the machine and carries out what it says, and again with what can be answered at once.
    pub(crate) fn feed(&mut self, input: Input<ShellProofs>) {
        self.answers.push_back(input);
        while let Some(input) = self.answers.pop_front() {
            let mut random = [0; 2];
            // Without randomness all clients wait alike, which is no reason to stop one.
            let _ = aws_lc_rs::rand::fill(&mut random);
            let effects = self
                .machine
                .handle(input, clock::now(), Jitter::new(u16::from_be_bytes(random)));
            for effect in effects {
                self.carry_out(effect);
            }
        }
    }

    fn publish(&mut self) {
        let word = self.machine.state().word();
        self.status
            .send_if_modified(|status| std::mem::replace(&mut status.state, word) != word);
    }
}

fn unexplained(reason: FailReason) -> ClientError {
    ClientError::Local(format!("the tunnel failed: {reason}"))
}

async fn optional<T>(future: &mut Option<Boxed<T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn running(attempt: &mut Option<Running>) -> (Running, Result<Box<Opened>, Failure>) {
    if let Some(running) = attempt {
        let result = (&mut running.result).await;
        if let Some(running) = attempt.take() {
            return (running, result);
        }
    }
    std::future::pending().await
}

async fn pumping(pump: &mut Option<(Generation, Pump)>) -> PumpEvent {
    match pump {
        Some((_, pump)) => pump.next().await,
        None => std::future::pending().await,
    }
}
