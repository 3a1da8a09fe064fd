//! The loop: orders, results and deadlines become inputs of the machine, and its effects are carried out in order. It waits
//! for nothing but the next event: what may take long is a future or a task of its own.
//!
//! ```text
//!   orders ----+                                   +--> attempt   (a future; dropping it aborts it)
//!   attempt ---+                                   +--> opening   (a future; dropping it aborts it, and a release clears up)
//!   opening ---+--> Input --> Machine --> Effect --+--> pump      (a task that owns device and channel)
//!   pump ------+                                   +--> release   (a future; ends in the proof)
//!   deadline --+                                   +--> log, status, answers, exit
//! ```

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use api::Happening;
use config::client::Start;
use housekeeping::{Attempt, Outcome};
use ledger::{End, JobId, OpenRecord, Owed, Summary};
use lifecycle::{
    EndReason, FailReason, Generation, How, Jitter, LossKind, Machine, OnFailure, Origin, PowerWord, Settings, State,
};
use now::{Awake, Gap, GapDetector, LATE_BY};
use plan::NetworkPlan;
use platform::power::PowerSource;
use platform::service::{Descriptor, Manager};
use session::Traffic;
use session::client::Authenticated;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::ClientError;
use crate::account::Account;
use crate::arming::{Arming, Unarmed};
use crate::attempt::{Failure, Link, Opened};
use crate::books::Books;
use crate::changes::{self, Surroundings};
use crate::chores::AGAIN;
use crate::clock;
use crate::daemon;
use crate::datapath::DataPath;
use crate::device::Device;
use crate::host::{Host, InstallError};
use crate::lookout::{Lookout, Sight, Watched};
use crate::offline::{Offline, looked};
use crate::opening::{Opening, Prepared};
use crate::orders::Asker;
use crate::power::Power;
use crate::proof::{Input, Proof, Proven};
use crate::provider::{Counter, Order, Refused, Stopped};
use crate::pump::{self, Finished, Pump, PumpEvent};
use crate::quiet::{Quiet, Repeats};
use crate::report::{self, SessionLog};
use crate::rules::{Rules, Verdict, ruled};
use crate::setup::Setup;
use crate::store::{RestartTicket, Store};
use crate::waiting::{arming, opening, optional, pumping, running, watching};
use crate::wakes::Absence;

/// Attempts at jobs that nobody has told yet. A job takes longer than it takes to tell of it.
const MAX_TOLD: usize = 64;

pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A cookie, and the settings it was made under: it is for their gateway, and it is their user's.
pub(crate) struct Ticket {
    pub(crate) cookie: Authenticated,
    pub(crate) setup: Arc<Setup>,
}

/// An attempt that is running.
pub(crate) struct Running {
    pub(crate) g: Generation,
    pub(crate) how: How,
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
    pub(crate) watched: Option<Box<Watched>>,
}

/// What is left of a tunnel when it is down.
#[derive(Default)]
pub(crate) struct Leaving {
    pub(crate) device: Option<Device>,
    /// Kept open, so that a goodbye is not overtaken by a reset.
    pub(crate) link: Option<Link>,
}

/// Work beside the loop that came to its end.
pub(crate) enum Done {
    /// The host is rid of the device.
    DeviceGone {
        /// When it was let go.
        since: Awake,
    },
    /// What a session owes is on the disk, or why not.
    Recorded {
        /// Whose stop waits for it.
        g: Option<Generation>,
        /// Proof.
        owed: Owed,
        /// What the disk did not take.
        unclosed: Option<Box<(OpenRecord, End)>>,
    },
    /// The pump has stopped, and everything is left for the next process.
    HandedOver {
        /// Whose.
        g: Generation,
        /// What the pump gave back.
        finished: Option<Box<Finished>>,
    },
    /// The worker of housekeeping has come to an end.
    Kept(u64, Box<Outcome>),
    /// What the ledger holds; nothing if the disk does not say.
    Counted(Option<Box<Summary>>),
    /// There was no worker, and why.
    NotKept(u64, String),
    /// The disk has what nobody waits for but the end of the process.
    Noted,
}

enum Event {
    Done(Done),
    Order(Option<Order>),
    Attempt(Running, Result<Box<Opened>, Failure>),
    Opening(Opening, Result<Box<Prepared>, InstallError>),
    Armed(Result<NetworkPlan, Unarmed>),
    Sight(Sight),
    Rule(Verdict),
    Pump(PumpEvent),
    Released(Released),
    Attempted(Attempt),
    Around(changes::Step),
    Power(PowerWord),
    LookAtJobs,
    WayBack,
    Deadline,
}

/// The client.
pub(crate) struct Shell {
    pub(crate) setup: Arc<Setup>,
    pub(crate) config_path: PathBuf,
    pub(crate) machine: Machine<Proven>,
    pub(crate) counter: Counter,
    pub(crate) host: Host,
    pub(crate) attempt: Option<Running>,
    pub(crate) opening: Option<Opening>,
    pub(crate) pump: Option<(Generation, Pump)>,
    /// The host is being set up for traffic without a session.
    pub(crate) arming: Option<Arming>,
    /// Has the device while there is no connection, and packets may ask for one.
    pub(crate) lookout: Option<Lookout>,
    /// The record of a tunnel that has no session yet.
    pub(crate) bare: Option<JobId>,
    /// What is done in which network.
    pub(crate) rules: Option<Rules>,
    /// The start that waits for the first word of the rules, unless somebody orders anything before.
    pub(crate) first: Option<Input>,
    pub(crate) release: Option<Boxed<Released>>,
    /// The device while no pump has it.
    pub(crate) device: Option<Device>,
    /// The data channel of a connection that was lost, while no pump has it.
    pub(crate) data: Option<DataPath>,
    /// The connection of a pump that stopped by itself, while it is decided what follows.
    pub(crate) parting: Option<Link>,
    /// A granted connection that was never used, while it is decided what follows.
    pub(crate) orphan: Option<Link>,
    /// What a stopped tunnel leaves; let go behind the acknowledgement.
    pub(crate) leaving: Leaving,
    /// The session that lives, or lived last, as the ledger knows it.
    pub(crate) account: Option<Account>,
    /// What the connection just made says about the session.
    pub(crate) next_account: Option<Account>,
    /// Records of sessions that never came to life; withdrawn when the host is clean.
    pub(crate) unborn: Vec<JobId>,
    /// Sessions whose jobs the disk has not taken yet.
    pub(crate) unclosed: Vec<(OpenRecord, End)>,
    pub(crate) books: Books,
    pub(crate) manager: Option<Manager>,
    /// What the service manager keeps over a restart.
    pub(crate) store: Option<Store>,
    /// The listening API socket, to be kept there.
    pub(crate) api: Option<io::Result<Descriptor>>,
    /// Device and session are left to the next process.
    pub(crate) handed: bool,
    /// The session of the process before waits for its connection.
    pub(crate) restored: bool,
    /// Stops the worker of housekeeping when it is dropped.
    pub(crate) resting: Option<watch::Sender<bool>>,
    /// True while a stop keeps the worker from taking up anything.
    pub(crate) hold: watch::Sender<bool>,
    /// What workers say of each attempt at a job.
    pub(crate) attempts_told: (mpsc::Sender<Attempt>, mpsc::Receiver<Attempt>),
    /// Which worker was started last.
    pub(crate) shift: u64,
    /// Closed when that worker has ended.
    pub(crate) worker: Option<watch::Receiver<()>>,
    /// When jobs are to be looked at that wait for their time.
    pub(crate) look_at: Option<Instant>,
    /// Inputs that came of effects.
    pub(crate) inputs: VecDeque<Input>,
    /// Work that is finished beside the loop.
    pub(crate) background: JoinSet<Done>,
    /// Workers of housekeeping: one, and perhaps one before it that puts its job back. The end of the process does not wait
    /// for them.
    pub(crate) workers: JoinSet<Done>,
    /// The last attempt had no way to the gateway.
    pub(crate) offline: Option<Offline>,
    pub(crate) ticket: Option<Ticket>,
    pub(crate) known: Vec<SocketAddr>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) goodbye: bool,
    /// The stop on its way lifts a lockdown that lasts while the tunnel is up: somebody asked for it.
    pub(crate) lift: bool,
    pub(crate) lost_at: Option<Awake>,
    pub(crate) session: Option<SessionLog>,
    /// What the connection just made says about the session.
    pub(crate) upcoming: Option<SessionLog>,
    /// A session that is over, until its pump has told what it carried.
    pub(crate) ending: Option<EndReason>,
    pub(crate) ended_by: Option<session::EndReason>,
    pub(crate) carried: Traffic,
    pub(crate) quiet: Quiet,
    /// Events that were told a moment ago.
    pub(crate) repeats: Repeats,
    /// What is known of the last silence of this host.
    pub(crate) absence: Absence,
    pub(crate) failure: Option<ClientError>,
    /// What the machine said to the start that is being handled: whether the tunnel was wanted already.
    pub(crate) started: Result<bool, Refused>,
    /// Something of the status that is worth an event has changed.
    pub(crate) news: bool,
    /// What the user wants, as far as it is noted.
    pub(crate) wanted: Option<bool>,
    /// Nobody holds a provider any more.
    pub(crate) abandoned: bool,
    /// Whoever asked for a stop, in the order in which the machine acknowledges.
    pub(crate) stoppers: VecDeque<Asker<Stopped>>,
    /// The network around.
    pub(crate) around: Surroundings,
    /// What the host says of its sleep.
    pub(crate) power: Power,
    /// Whoever announced a sleep and waits for the word that it may begin.
    pub(crate) sleepers: Vec<oneshot::Sender<()>>,
    /// The answer of the stop that was acknowledged last.
    pub(crate) last_stop: Option<Stopped>,
    pub(crate) exit: Option<Option<FailReason>>,
}

impl Shell {
    /// `wanted` is what the user wanted last.
    pub(crate) fn new(
        setup: Setup,
        config_path: PathBuf,
        host: Host,
        (books, wanted): (Books, Option<bool>),
        counter: Counter,
    ) -> Self {
        let settings = Settings {
            backoff: setup.backoff(),
            on_failure: OnFailure::Exit,
            disconnect_on_sleep: setup.config.sleep.disconnect_on_sleep,
            on_demand: setup.config.on_demand.enabled,
        };
        let rules = Rules::new(&setup.config.on_demand.rules, host.wayfinder(), host.gate());
        let mut machine = Machine::new(settings);
        machine.set_wake_limits(setup.wake_limits());
        Self {
            setup: Arc::new(setup),
            config_path,
            machine,
            counter,
            host,
            attempt: None,
            opening: None,
            pump: None,
            arming: None,
            lookout: None,
            bare: None,
            rules,
            first: None,
            release: None,
            device: None,
            data: None,
            parting: None,
            orphan: None,
            leaving: Leaving::default(),
            account: None,
            next_account: None,
            unborn: Vec::new(),
            unclosed: Vec::new(),
            books,
            manager: None,
            store: None,
            api: None,
            handed: false,
            restored: false,
            resting: None,
            hold: watch::Sender::new(false),
            attempts_told: mpsc::channel(MAX_TOLD),
            shift: 0,
            worker: None,
            look_at: None,
            inputs: VecDeque::new(),
            background: JoinSet::new(),
            workers: JoinSet::new(),
            offline: None,
            ticket: None,
            known: Vec::new(),
            addresses: Vec::new(),
            goodbye: false,
            lift: false,
            lost_at: None,
            session: None,
            upcoming: None,
            ending: None,
            ended_by: None,
            carried: Traffic::default(),
            quiet: Quiet::default(),
            repeats: Repeats::default(),
            absence: Absence::default(),
            failure: None,
            started: Ok(false),
            news: false,
            wanted,
            abandoned: false,
            stoppers: VecDeque::new(),
            around: Surroundings::default(),
            power: Power::new(PowerSource::none()),
            sleepers: Vec::new(),
            last_stop: None,
            exit: None,
        }
    }

    /// Goes on with what the process before left on the host and in the hands of the service manager.
    pub(crate) fn take_over(&mut self, ticket: &RestartTicket, record: OpenRecord, plan: NetworkPlan) {
        info!(job = %record.id, "device, routes and session of the process before are taken over");
        let session = SessionLog::restored(&record, plan, clock::now());
        let tunnel = session.status(self.host.interface(), self.host.dns());
        self.counter.status.send_modify(|status| {
            status.sessions = 1;
            status.tunnel = Some(tunnel);
        });
        self.session = Some(session);
        self.device = self.host.device();
        self.ticket = Some(Ticket {
            cookie: ticket.cookie(),
            setup: Arc::clone(&self.setup),
        });
        self.addresses.clone_from(&ticket.addresses);
        self.known.clone_from(&ticket.known);
        self.account = Some(Account { record, end: None });
        self.restored = true;
        // The process before may have died in the middle of a change.
        self.around.look_over();
    }

    /// Runs until the process is to end. Returns whether device and session are left to another one.
    pub(crate) async fn run(mut self) -> (bool, Result<(), ClientError>) {
        self.introduce();
        if let Some(manager) = &self.manager {
            told(manager.ready());
        }
        let up = match self.setup.config.tunnel.start {
            Start::Up => true,
            Start::Down => false,
            Start::Last => self.wanted.unwrap_or(true),
        };
        if self.restored || up {
            self.lock();
        }
        let restore = Origin::Restore;
        if self.restored {
            self.begin(Input::Start { origin: restore });
        } else if up {
            drop(self.want(true));
            self.begin(Input::Start { origin: Origin::Boot });
        } else {
            info!("waiting for `marmot up` or SIGUSR2 to bring the tunnel up");
        }
        self.feed(Input::JobsDue);
        loop {
            self.publish();
            if let Some(reason) = self.exit {
                self.last_words().await;
                let result = match reason {
                    None => Ok(()),
                    Some(reason) => Err(self.failure.take().unwrap_or_else(|| unexplained(reason))),
                };
                return (self.handed, result);
            }
            let (event, gap) = self.next().await;
            let Some(gap) = gap else {
                self.handle(event).await;
                continue;
            };
            match event {
                // It was done before the gap was seen: a machine that heard of the gap first would take it for abandoned.
                Event::Attempt(..) | Event::Opening(..) | Event::Armed(_) => {
                    self.handle(event).await;
                    self.look_around().await;
                    self.gap(gap);
                }
                // Looked into already; this is the same one, or less.
                Event::Pump(PumpEvent::Gap(_)) | Event::Sight(Sight::Gap(_)) => {
                    self.handle(event).await;
                    self.gap(gap);
                }
                // Whoever gave such an order says of the host what there is to say, or does not wait for one that is slow to.
                Event::Order(ref order) if order.as_ref().is_none_or(Order::is_urgent) => {
                    self.gap(gap);
                    self.handle(event).await;
                }
                event => {
                    self.look_around().await;
                    self.gap(gap);
                    self.handle(event).await;
                }
            }
        }
    }

    /// Waits for one event. A deadline that fired late comes with the gap that made it late.
    async fn next(&mut self) -> (Event, Option<Gap>) {
        let now = clock::now();
        let deadline = self.machine.deadline();
        let wait = deadline.map(|deadline| deadline.at.since(now.awake));
        let mut detector = wait.map(|wait| GapDetector::new(now, wait));
        let at = Instant::now() + wait.unwrap_or_default();
        let look_at = self.look_at;
        let shift = self.shift;
        let mode = self.machine.mode();
        let event = tokio::select! {
            biased;
            order = self.counter.orders.recv(), if !self.abandoned => Event::Order(order),
            released = optional(&mut self.release) => {
                self.release = None;
                Event::Released(released)
            }
            (running, result) = running(&mut self.attempt) => Event::Attempt(running, result),
            (opening, result) = opening(&mut self.opening) => Event::Opening(opening, result),
            Some(done) = self.background.join_next() => done.map_or(Event::Deadline, Event::Done),
            Some(attempt) = self.attempts_told.1.recv() => Event::Attempted(attempt),
            // One that broke an invariant is a shift without a worker, or nobody would be engaged any more.
            Some(done) = self.workers.join_next() => Event::Done(
                done.unwrap_or_else(|_| Done::NotKept(shift, "the worker failed".to_owned())),
            ),
            word = self.power.next(mode) => Event::Power(word),
            event = pumping(&mut self.pump) => Event::Pump(event),
            result = arming(&mut self.arming) => Event::Armed(result),
            sight = watching(&mut self.lookout) => Event::Sight(sight),
            verdict = ruled(&mut self.rules) => Event::Rule(verdict),
            step = self.around.next() => Event::Around(step),
            () = sleep_until(look_at.unwrap_or(at)), if look_at.is_some() => Event::LookAtJobs,
            () = looked(&mut self.offline, self.known.first().copied(), self.host.mark()) => Event::WayBack,
            () = sleep_until(at), if wait.is_some() => Event::Deadline,
        };
        let gap = detector
            .as_mut()
            .and_then(|detector| detector.look(clock::now(), LATE_BY));
        (event, gap)
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Order(Some(order)) => self.order(order),
            Event::Order(None) => self.abandon(),
            Event::Attempt(running, result) => {
                let dialled = running.dialled.load(Ordering::Relaxed);
                self.feed(Input::Dialled(dialled.saturating_sub(1)));
                match result {
                    Ok(opened) => self.opened(running, opened),
                    Err(failure) => self.attempt_failed(running.g, running.setup, failure, dialled),
                }
            }
            Event::Opening(opening, Ok(prepared)) => self.prepared(opening, *prepared).await,
            Event::Opening(opening, Err(error)) => self.not_prepared(opening, error),
            Event::Armed(result) => self.armed(result),
            Event::Sight(sight) => self.lookout_said(sight).await,
            Event::Rule(verdict) => self.ruled(&verdict),
            Event::Pump(PumpEvent::Finished(finished)) => self.pump_ended(finished),
            Event::Pump(PumpEvent::Traffic(traffic)) => self.counter.status.send_modify(|status| {
                status.session_traffic = self.carried;
                status.session_traffic.add(&traffic);
            }),
            Event::Pump(PumpEvent::Told(news)) => self.pump_told(news),
            Event::Pump(PumpEvent::Gap(gap)) => {
                self.look_around().await;
                self.gap(gap);
            }
            Event::Released(released) => self.released(released),
            Event::Attempted(attempt) => self.attempted(attempt),
            Event::Around(step) => self.surroundings(step),
            Event::Power(word) => self.feed(Input::Power(word)),
            Event::LookAtJobs => {
                self.look_at = None;
                self.look_at_jobs();
            }
            Event::WayBack => self.path_changed(),
            Event::Deadline => self.feed(Input::DeadlineReached),
            Event::Done(done) => self.done(done),
        }
    }

    /// What kind of wake follows a gap is told by what can be read of the host afterwards.
    pub(crate) async fn look_around(&mut self) {
        let surroundings = self.power.look().await;
        self.feed(Input::Power(surroundings));
    }

    pub(crate) fn cancel(&mut self, error: ClientError) {
        self.trouble(error);
        self.feed(Input::Cancel);
    }

    /// `dialled` is how many connections it made.
    pub(crate) fn attempt_failed(&mut self, g: Generation, setup: Arc<Setup>, failure: Failure, dialled: u32) {
        let class = failure.class_after(dialled);
        self.offline = Offline::after(class);
        let stage = failure.stage;
        if let Some(cookie) = failure.cookie {
            self.ticket = Some(Ticket { cookie, setup });
        }
        debug!(error = %failure.error, ?class, ?stage, "the attempt failed");
        self.trouble(failure.error);
        self.feed(Input::ConnectFailed { g, class, stage });
    }

    fn pump_ended(&mut self, mut finished: Option<Box<Finished>>) {
        for news in finished
            .as_mut()
            .map(|finished| std::mem::take(&mut finished.news))
            .unwrap_or_default()
        {
            self.pump_told(news);
        }
        let Some((g, _)) = self.pump.take() else { return };
        self.lost_at = Some(clock::now().awake);
        let Some((outcome, mut link)) = self.keep(finished) else {
            return self.cancel(ClientError::Local("the packet pump failed".to_owned()));
        };
        // A session that ended while the pump went on.
        self.end_session();
        if matches!(self.machine.state(), State::Armed { .. }) {
            // The connection was to go anyway; without its device the tunnel would be dead for good.
            match &outcome {
                pump::Outcome::Stopped => return self.pump_parked(),
                pump::Outcome::Lost(kind, why) => {
                    debug!(%kind, "the control channel went before it was parked: {why}");
                    return self.pump_parked();
                }
                pump::Outcome::Ended(reason) => {
                    // The next connection logs in: nothing waits for this cookie any more.
                    self.ticket = None;
                    info!("the gateway ended the session before it was parked: {reason}");
                    return self.pump_parked();
                }
                pump::Outcome::DeviceGone(_) => {}
            }
        }
        self.data = link.data.take();
        self.parting = Some(link);
        match outcome {
            pump::Outcome::DeviceGone(error) => self.cancel(ClientError::DeviceGone(error)),
            pump::Outcome::Lost(kind, why) => {
                debug!(%kind, "the control channel is gone: {why}");
                self.feed(Input::ControlLost { g, kind });
            }
            pump::Outcome::Stopped => self.feed(Input::ControlLost { g, kind: LossKind::Eof }),
            pump::Outcome::Ended(reason) => {
                let word = report::end_reason(&reason);
                self.ended_by = Some(reason.clone());
                self.trouble(ClientError::Ended(reason));
                self.feed(Input::SessionEnded { g, reason: word });
            }
        }
    }

    /// Keeps what a pump gives back.
    pub(crate) fn keep(&mut self, finished: Option<Box<Finished>>) -> Option<(pump::Outcome, Link)> {
        let Finished {
            outcome, device, link, ..
        } = *finished?;
        self.carried.add(link.established.traffic());
        self.device = Some(device);
        Some((outcome, link))
    }

    /// Hands an input to the machine and carries out what it says, and what comes of that at once.
    pub(crate) fn feed(&mut self, input: Input) {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            let mut random = [0; 2];
            // Without randomness all clients wait alike, which is no reason to stop one.
            let _ = aws_lc_rs::rand::fill(&mut random);
            let jitter = Jitter::new(u16::from_be_bytes(random));
            for effect in self.machine.handle(input, clock::now(), jitter) {
                self.carry_out(effect);
            }
        }
        self.parting = None;
        self.orphan = None;
        if !matches!(self.machine.state(), State::Stopping { .. }) {
            self.let_go();
        }
    }

    pub(crate) fn done(&mut self, done: Done) {
        match done {
            Done::DeviceGone { since } => {
                let took = clock::now().awake.since(since);
                info!(ms = clock::ms(took), "device.gone");
                let interface = self.host.interface().unwrap_or_default().to_owned();
                self.tell(Happening::DeviceGone {
                    interface,
                    ms: clock::ms(took),
                });
            }
            Done::Recorded { g, owed, unclosed } => self.recorded(g, owed, unclosed),
            Done::Counted(summary) => {
                if let Some(summary) = summary {
                    let owed = daemon::housekeeping(&summary);
                    self.counter.status.send_modify(|status| status.owed = owed);
                }
            }
            Done::HandedOver { g, finished } => self.handed_over(g, finished),
            Done::Noted => {}
            Done::Kept(shift, outcome) => self.kept(shift, &outcome),
            Done::NotKept(shift, why) => {
                warn!("what is owed cannot be worked off: {why}");
                self.shift_ended(shift, Some(AGAIN));
            }
        }
    }
}

/// A service manager that does not listen is no reason to stop.
pub(crate) fn told(result: io::Result<()>) {
    if let Err(error) = result {
        warn!("the service manager does not take our messages: {error}");
    }
}

fn unexplained(reason: FailReason) -> ClientError {
    ClientError::Local(format!("the tunnel failed: {reason}"))
}
