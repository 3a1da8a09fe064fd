//! The world of one schedule: its time, its events, and everything that they happen to.
//!
//! Events are taken in the order of virtual time. A call of the ledger happens within one event, but before each of its
//! disk calls others may run for a while (a slow disk, or another process on the other core), to any depth up to
//! [`DEPTH_MAX`]. Therefore nothing here is borrowed while the ledger is called.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use ledger::{FileName, Ledger, Limits, Stamp};
use lifecycle::{Generation, Input, PowerWord};
use now::{Awake, Boot, Now, Wall};

use crate::books::Books;
use crate::broken::{Broken, Promise};
use crate::census::Counts;
use crate::chance::Chance;
use crate::demand::Demand;
use crate::disk::SimDisk;
use crate::gateway::Gateway;
use crate::host::{Host, Mark};
use crate::planted::Planted;
use crate::platter::Platter;
use crate::power::Nights;
use crate::process::{Lives, Process, Who};
use crate::shell::Daemon;
use crate::tasks::Task;
use crate::weather::Weather;

/// Calls of the disk that wait within each other. Four processes and threads that hang at once are enough to see races
/// between any two, and keep the stack small.
const DEPTH_MAX: u32 = 4;

/// 2023-11-14, in microseconds: when every schedule begins.
const EPOCH_US: u64 = 1_700_000_000_000_000;

/// Something that happens at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// User, host or gateway do something.
    Fate,
    /// A task goes on.
    Task(u32),
    /// An attempt to connect goes on.
    Attempt {
        life: u32,
        id: u32,
    },
    /// The result of an attempt that was aborted.
    Late {
        life: u32,
        g: Generation,
        up: bool,
    },
    /// The host's restoration goes on.
    Release {
        life: u32,
        mark: Mark,
    },
    /// A device is removed, behind the acknowledgement.
    DeviceGone {
        life: u32,
        mark: Mark,
    },
    /// Whoever starts it starts it.
    StartDaemon,
    StartUnit(Who),
    /// The host sleeps, and wakes.
    Sleeps,
    /// A maintenance wake comes to its end.
    Drowsy,
    /// The daemon reads what can be read of the host.
    Look,
    /// A word about the host's sleep arrives late.
    Word(PowerWord),
    /// The gateway has been told of a sleep.
    Parked {
        life: u32,
        g: Generation,
    },
    /// The pump heard the gateway, or waited for it in vain.
    Pump {
        life: u32,
        g: Generation,
        heard: bool,
    },
    /// Nothing happens, but time has passed.
    Calm,
    /// Programs and networks do something.
    Program,
    /// A packet is held and asks again.
    AskAgain {
        life: u32,
        mark: Mark,
    },
    /// The host is being set up without a session.
    Arm {
        life: u32,
        mark: Mark,
    },
    /// The daemon's alarm for waiting jobs.
    JobsDue {
        life: u32,
    },
}

/// What the service manager keeps for the next process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) mark: Mark,
    /// The session's number in the books.
    pub(crate) record: usize,
}

/// Who works off the jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workers {
    /// The daemon's background task.
    Daemon,
    /// Units of the service manager.
    Units,
    /// Whoever comes first.
    Both,
}

/// A world. One schedule long.
pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) planted: Option<Planted>,
    pub(crate) workers: Workers,
    /// The manager keeps descriptors.
    pub(crate) can_store: bool,
    pub(crate) limits: Limits,
    /// The tunnel is down while the host sleeps.
    pub(crate) disconnects: bool,

    /// Microseconds of the awake clock.
    pub(crate) at: Cell<u64>,
    /// What the boot clock is ahead.
    pub(crate) slept: Cell<u64>,
    /// How far the wall clock was set.
    pub(crate) set: Cell<i64>,
    /// Awake time in which the process did not run.
    pub(crate) held: Cell<u64>,
    pub(crate) boots: Cell<u32>,

    pub(crate) steps: Cell<u32>,
    /// Steps after which faults end.
    pub(crate) limit: u32,
    pub(crate) weather: Cell<Weather>,
    pub(crate) nights: RefCell<Nights>,
    pub(crate) demand: RefCell<Demand>,
    depth: Cell<u32>,
    numbers: Cell<u32>,
    events: RefCell<Vec<(u64, Event)>>,

    pub(crate) disk: RefCell<Platter>,
    pub(crate) names: RefCell<Vec<FileName>>,
    pub(crate) lock: Cell<Option<(Process, u32)>>,
    pub(crate) host: RefCell<Host>,
    pub(crate) stored: Cell<Option<Stored>>,
    pub(crate) gateway: RefCell<Gateway>,
    pub(crate) books: RefCell<Books>,

    pub(crate) lives: Cell<Lives>,
    pub(crate) daemon: RefCell<Option<Daemon>>,
    pub(crate) tasks: RefCell<Vec<Task>>,
    /// The user wants the tunnel.
    pub(crate) wanted: Cell<bool>,
    /// What a daemon knows of that: its last order, kept on the disk.
    pub(crate) desired: Cell<bool>,
    /// The path unit is about to start its service.
    pub(crate) unit_comes: Cell<bool>,
    /// A start was ordered and not taken up; until when it must be.
    pub(crate) start_by: Cell<Option<u64>>,

    pub(crate) counts: RefCell<Counts>,
    broken: RefCell<Option<Broken>>,
    trace: Option<RefCell<Vec<String>>>,
}

impl World {
    pub(crate) fn new(seed: u64, limit: u32, planted: Option<Planted>, traced: bool) -> Rc<Self> {
        let chance = Chance::new(seed);
        let workers = chance.pick(&[Workers::Daemon, Workers::Units, Workers::Both]);
        let weather = Weather::draw(&chance);
        let can_store = chance.below(2) == 0;
        // Jobs are forgotten almost as soon as they may be, and sessions never. What is in done/ is the ledger's memory of
        // closed sessions: with none kept, whoever listed open/ before and closes a record of it after would begin it anew.
        let prunes = chance.once_in(3);
        let limits = Limits {
            attempts: chance.pick(&[2, 12]),
            interruptions: chance.pick(&[3, 100]),
            keep_done: chance.pick(&[1, 3]),
            keep_for: Duration::from_secs(100 * 365 * 24 * 3600),
            ..Limits::default()
        };
        let nights = Nights::draw(&chance);
        let disconnects = chance.once_in(4);
        Rc::new(Self {
            chance,
            planted,
            workers,
            can_store,
            limits,
            disconnects,
            at: Cell::new(100_000_000),
            slept: Cell::new(0),
            set: Cell::new(0),
            held: Cell::new(0),
            boots: Cell::new(1),
            steps: Cell::new(0),
            limit,
            weather: Cell::new(weather),
            nights: RefCell::new(nights),
            demand: RefCell::new(Demand::draw(seed)),
            depth: Cell::new(0),
            numbers: Cell::new(0),
            events: RefCell::new(Vec::with_capacity(16)),
            disk: RefCell::new(Platter::new()),
            names: RefCell::new(Vec::with_capacity(8)),
            lock: Cell::new(None),
            host: RefCell::default(),
            stored: Cell::new(None),
            gateway: RefCell::default(),
            books: RefCell::new(Books {
                prunes,
                ..Books::default()
            }),
            lives: Cell::default(),
            daemon: RefCell::new(None),
            tasks: RefCell::default(),
            wanted: Cell::new(true),
            desired: Cell::new(true),
            unit_comes: Cell::new(false),
            start_by: Cell::new(None),
            counts: RefCell::default(),
            broken: RefCell::new(None),
            trace: traced.then(RefCell::default),
        })
    }

    /// Takes apart what refers to itself, and says what was broken, what was counted and what happened.
    pub(crate) fn dissolve(self: Rc<Self>) -> (Option<Broken>, Counts, Vec<String>) {
        let tasks = self.tasks.take();
        drop(tasks);
        let broken = self.broken.take();
        let mut counts = self.counts.take();
        counts.steps = self.steps.get();
        let trace = self.trace.as_ref().map(RefCell::take).unwrap_or_default();
        (broken, counts, trace)
    }

    // Time.

    pub(crate) fn now(&self) -> Now {
        let awake = self.at.get();
        let boot = awake + self.slept.get();
        let wall = (EPOCH_US + boot).saturating_add_signed(self.set.get());
        Now {
            awake: Awake::from_origin(Duration::from_micros(awake)),
            boot: Boot::from_origin(Duration::from_micros(boot)),
            wall: Wall::from_origin(Duration::from_micros(wall)),
        }
    }

    pub(crate) fn stamp(&self) -> Stamp {
        let now = self.now();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Stamp {
            wall_ms: ms(now.wall.since_origin()),
            boot_ms: ms(now.boot.since_origin()),
            boot_id: self.boots.get().to_string(),
        }
    }

    // Events.

    pub(crate) fn after(&self, us: u64, event: Event) {
        self.events.borrow_mut().push((self.at.get() + us, event));
    }

    pub(crate) fn forget_fate(&self) {
        self.events
            .borrow_mut()
            .retain(|(_, event)| !matches!(event, Event::Fate | Event::Program));
    }

    pub(crate) fn forget_nights(&self) {
        let of_night = |event: &Event| matches!(event, Event::Sleeps | Event::Drowsy | Event::Look | Event::Word(_));
        self.events.borrow_mut().retain(|(_, event)| !of_night(event));
    }

    /// Makes the next thing happen; false if there is none.
    pub(crate) fn step(self: &Rc<Self>) -> bool {
        let next = {
            let events = self.events.borrow();
            let first = events.iter().enumerate().min_by_key(|(_, (at, _))| *at);
            first.map(|(index, (at, _))| (index, *at))
        };
        let deadline = self.deadline();
        self.steps.set(self.steps.get() + 1);
        match (next, deadline) {
            (None, None) => return false,
            (Some((index, at)), deadline) if deadline.is_none_or(|deadline| at < deadline) => {
                let (_, event) = self.events.borrow_mut().swap_remove(index);
                self.at.set(self.at.get().max(at));
                self.happen(event);
            }
            (_, Some(deadline)) => {
                self.at.set(self.at.get().max(deadline));
                self.deadline_reached();
            }
            (Some(_), None) => {}
        }
        self.check();
        true
    }

    fn happen(self: &Rc<Self>, event: Event) {
        match event {
            Event::Fate => self.fate(),
            Event::Task(id) if self.depth.get() < DEPTH_MAX => self.run_task(id),
            Event::Task(_) => self.after(2_000, event),
            Event::Attempt { life, id } => self.attempt_goes_on(life, id),
            Event::Late { life, g, up } => self.late_result(life, g, up),
            Event::Release { life, mark } => self.release_goes_on(life, mark),
            Event::DeviceGone { life, mark } => self.device_gone(life, mark),
            Event::StartDaemon => self.start_daemon(),
            Event::StartUnit(who) => {
                self.unit_comes.set(false);
                self.start_unit(who);
            }
            Event::JobsDue { life } => self.alarm(life),
            Event::Program => self.program(),
            Event::AskAgain { life, mark } => self.asks_again(life, mark),
            Event::Arm { life, mark } => self.arm_goes_on(life, mark),
            Event::Sleeps => self.sleeps(),
            Event::Drowsy => self.goes_to_sleep(),
            Event::Look => self.look(),
            Event::Word(word) => self.word(word),
            Event::Parked { life, g } if self.is_life(life) => self.feed(Input::Parked(g)),
            Event::Parked { .. } | Event::Calm => {}
            Event::Pump { life, g, heard } => self.pump_says(life, g, heard),
        }
    }

    /// Whether faults may still happen.
    pub(crate) fn is_stormy(&self) -> bool {
        self.steps.get() < self.limit && !self.is_broken()
    }

    /// Before a call of the disk: others run for a while, or until the disk answers again.
    pub(crate) fn let_others_run(self: &Rc<Self>, process: Process) {
        let weather = self.weather.get();
        let stuck = weather.stuck;
        if !stuck && (weather.stalls == 0 || !self.chance.once_in(weather.stalls)) || self.depth.get() >= DEPTH_MAX {
            return;
        }
        self.counts.borrow_mut().disk_stalls += 1;
        self.depth.set(self.depth.get() + 1);
        let mut turns = if stuck {
            u64::MAX
        } else {
            self.chance.pick(&[1, 1, 1, 2, 3, 8])
        };
        while turns > 0 && self.is_alive(process) && self.is_stormy() && (!stuck || self.weather.get().stuck) {
            self.step();
            turns -= 1;
        }
        self.depth.set(self.depth.get() - 1);
    }

    // Small things.

    pub(crate) fn has(&self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }

    pub(crate) fn next_number(&self) -> u32 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    pub(crate) fn number_of(&self, name: &FileName) -> u8 {
        let mut names = self.names.borrow_mut();
        let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
            names.push(name.clone());
            names.len() - 1
        });
        u8::try_from(at).expect("a schedule has few names")
    }

    pub(crate) fn ledger(self: &Rc<Self>, process: Process) -> Ledger<SimDisk> {
        Ledger::new(SimDisk::new(self, process), self.limits)
    }

    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let ms = self.at.get() as f64 / 1000.0;
            let inset = "  ".repeat(self.depth.get() as usize);
            trace.borrow_mut().push(format!("{ms:>14.3} {inset}{}", what()));
        }
    }

    /// Notes a broken promise; the first one counts.
    pub(crate) fn broke(&self, promise: Promise, how: impl FnOnce() -> String) {
        if self.is_broken() {
            return;
        }
        let how = how();
        self.say(|| format!("BROKEN {promise}: {how}"));
        let step = self.steps.get();
        *self.broken.borrow_mut() = Some(Broken { promise, how, step });
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.borrow().is_some()
    }
}
