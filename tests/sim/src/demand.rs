//! On demand: programs that send packets, idle tunnels, and networks in which there is to be no tunnel.
//!
//! It has its own dice, and only in every other world: the schedules of the others are what they were without it.

use std::rc::Rc;
use std::time::Duration;

use lifecycle::{DEMAND_LASTS, Generation, How, Input, Rule, State, Trigger};

use crate::broken::Promise;
use crate::chance::Chance;
use crate::host::{Mark, Things};
use crate::planted::Planted;
use crate::shell::Down;
use crate::tasks::Kind;
use crate::world::{Event, World};

const SECOND_US: u64 = 1_000_000;

/// The longest that a packet is held.
const HELD_US: u64 = 10 * SECOND_US;

/// Whoever holds packets asks this often. (The shell asks every second; a schedule has few steps.)
const ASK_EVERY_US: u64 = 3 * SECOND_US;

/// An attempt that begins while somebody asks may lead to a login at once when its cookie is refused.
const IN_HAND: Duration = Duration::from_secs(5);

/// What goes on besides the daemon.
pub(crate) struct Demand {
    pub(crate) chance: Chance,
    /// The tunnel waits for traffic.
    pub(crate) on: bool,
    /// A lease is remembered on the disk.
    pub(crate) remembered: bool,
    pub(crate) rule: Rule,
    /// When a packet came last that asks for the tunnel, in running time.
    pub(crate) asked: Option<u64>,
    /// A person wants the connection that is made, if there is none yet.
    pub(crate) person: bool,
    /// When each of the packets came that are held.
    held: Vec<u64>,
    sent: u32,
    gone: u32,
}

impl Demand {
    pub(crate) fn draw(seed: u64) -> Self {
        let chance = Chance::new(seed ^ 0x6d61_726d_6f74);
        let on = chance.once_in(2);
        let remembered = chance.once_in(2);
        Self {
            chance,
            on,
            remembered,
            rule: Rule::Connect,
            asked: None,
            person: false,
            held: Vec::new(),
            sent: 0,
            gone: 0,
        }
    }
}

impl World {
    /// Something that programs or networks do.
    pub(crate) fn program(self: &Rc<Self>) {
        if !self.is_stormy() {
            return;
        }
        let (pause, what) = {
            let demand = self.demand.borrow();
            let pause = match demand.chance.below(4) {
                0 => demand.chance.below(5_000),
                1 => demand.chance.below(400_000),
                _ => demand.chance.below(40 * SECOND_US),
            };
            (pause, demand.chance.below(12))
        };
        self.after(pause, Event::Program);
        match what {
            0..6 => self.packet(),
            6..10 => self.falls_idle(),
            10 => self.network(Rule::StayDown),
            _ => self.network(Rule::Connect),
        }
    }

    pub(crate) fn network(self: &Rc<Self>, rule: Rule) {
        self.demand.borrow_mut().rule = rule;
        if self.with(|daemon| daemon.ready) == Some(true) {
            self.feed(Input::NetworkRule(rule));
        }
    }

    fn falls_idle(self: &Rc<Self>) {
        if let Some(State::Up { g, .. }) = self.state() {
            self.counts.borrow_mut().idles += 1;
            self.feed(Input::Idle(g));
        }
    }

    /// A program sends a packet. Where nobody watches the device it goes its way, or waits there.
    pub(crate) fn packet(self: &Rc<Self>) {
        let Some(mark) = self.watched() else { return };
        let at = self.run_time();
        let first = {
            let mut demand = self.demand.borrow_mut();
            demand.sent += 1;
            demand.held.push(at);
            demand.held.len() == 1
        };
        self.counts.borrow_mut().packets += 1;
        self.ask_for_tunnel(Input::Demand);
        if let Some(life) = self.with(|daemon| daemon.process.life).filter(|_| first) {
            self.after(ASK_EVERY_US, Event::AskAgain { life, mark });
        }
    }

    /// The instance whose device is watched.
    fn watched(&self) -> Option<Mark> {
        self.with(|daemon| daemon.instances.iter().find(|one| one.watched).map(|one| one.mark))
            .flatten()
    }

    pub(crate) fn asks_again(self: &Rc<Self>, life: u32, mark: Mark) {
        if !self.is_life(life) || self.watched() != Some(mark) {
            return;
        }
        let now = self.run_time();
        let waits = {
            let mut demand = self.demand.borrow_mut();
            let before = demand.held.len();
            demand.held.retain(|at| now - at < HELD_US);
            demand.gone += u32::try_from(before - demand.held.len()).unwrap_or(u32::MAX);
            !demand.held.is_empty()
        };
        if waits {
            self.after(ASK_EVERY_US, Event::AskAgain { life, mark });
            self.ask_for_tunnel(Input::Demand);
        }
    }

    /// What is held is dropped, and counted: it is old, or nobody is left who would send it.
    pub(crate) fn drop_held(&self) {
        let mut demand = self.demand.borrow_mut();
        demand.gone += u32::try_from(demand.held.len()).unwrap_or(u32::MAX);
        demand.held.clear();
    }

    /// A connection stands: what is held goes first.
    pub(crate) fn send_held(&self, mark: Mark) {
        let watched = self.with(|daemon| {
            let instance = daemon.instance(mark)?;
            Some(std::mem::take(&mut instance.watched))
        });
        if watched.flatten() != Some(true) {
            return;
        }
        let mut demand = self.demand.borrow_mut();
        let held = u32::try_from(std::mem::take(&mut demand.held).len()).unwrap_or(u32::MAX);
        if !self.has(Planted::FirstPacketLost) {
            demand.gone += held;
            self.counts.borrow_mut().first_packets += held;
        }
    }

    /// Every packet is held, sent first, or dropped for a reason with a name.
    pub(crate) fn check_held(&self) {
        let (sent, known) = {
            let demand = self.demand.borrow();
            let held = u32::try_from(demand.held.len()).unwrap_or(u32::MAX);
            (demand.sent, demand.gone + held)
        };
        if sent != known {
            self.broke(Promise::L17FirstPacket, || {
                format!("of {sent} packets {known} are known of")
            });
        }
    }

    /// An armed tunnel dials for a packet, or for a person.
    pub(crate) fn check_unasked(&self, g: Generation, how: How, trigger: Trigger) {
        let watched = self.with(|daemon| daemon.of(g).is_some_and(|one| one.watched)) == Some(true);
        if !watched || self.demand.borrow().person || matches!(trigger, Trigger::User | Trigger::Boot) {
            return;
        }
        let at = self.run_time();
        let slack = if how == How::Login { IN_HAND } else { Duration::ZERO };
        let lasts = u64::try_from((DEMAND_LASTS + slack).as_micros()).unwrap_or(u64::MAX);
        let asked = self.demand.borrow().asked;
        if asked.is_none_or(|asked| at - asked > lasts) {
            self.broke(Promise::L16NoDialUnasked, || {
                format!("an attempt of {g} for {trigger:?}, and traffic asked at {asked:?}, it is {at}")
            });
        }
    }

    // The shell.

    pub(crate) fn arm(self: &Rc<Self>, g: Generation) {
        let mark = self.mark(g);
        let facts = self.with(|daemon| {
            let process = daemon.process;
            let instance = daemon.instance(mark)?;
            instance.forwarding = false;
            Some((process, instance.put == Things::ALL.len(), instance.bare))
        });
        let Some((process, there, bare)) = facts.flatten() else {
            return;
        };
        self.counts.borrow_mut().armed += 1;
        self.demand.borrow_mut().person = false;
        if there {
            self.on(mark, |instance| instance.watched = true);
            return self.kernel_talks();
        }
        if !self.demand.borrow().remembered {
            return self.feed(Input::NotArmed(g));
        }
        if let Some(record) = bare {
            // It was interrupted, and goes on.
            let opened = self.books.borrow().entries[record].opened;
            if opened {
                let life = process.life;
                self.after(0, Event::Arm { life, mark });
            }
        } else {
            let random = self.chance.draw();
            let stamp = self.stamp();
            let record = self.books.borrow_mut().add_bare(mark, g.number(), random, stamp);
            self.on(mark, |instance| instance.bare = Some(record));
            self.spawn(process, Kind::Arm { mark, record }, self.chance.between(100, 3_000));
        }
    }

    /// The record of an armed tunnel is durable, or the disk failed.
    pub(crate) fn arm_written(self: &Rc<Self>, life: u32, mark: Mark, record: usize, good: bool) {
        self.books.borrow_mut().entries[record].opened |= good;
        if !good {
            self.forget_bare(mark);
        }
        let waits = self.with(|daemon| {
            let armed = matches!(daemon.machine.state(), State::Armed { .. });
            let instance = daemon.instance(mark)?;
            (armed && instance.down == Down::Not).then_some(instance.g)
        });
        let Some(g) = waits.flatten() else { return };
        if good {
            self.after(0, Event::Arm { life, mark });
        } else {
            self.feed(Input::NotArmed(g));
        }
    }

    /// The host is being set up without a session.
    pub(crate) fn arm_goes_on(self: &Rc<Self>, life: u32, mark: Mark) {
        if !self.is_life(life) {
            return;
        }
        let put = self.with(|daemon| {
            let armed = matches!(daemon.machine.state(), State::Armed { .. });
            let in_the_way = daemon
                .instances
                .iter()
                .any(|other| other.mark != mark && matches!(other.down, Down::Releasing { .. }));
            let instance = daemon.instance(mark)?;
            (armed && instance.down == Down::Not).then_some((instance.put, in_the_way))
        });
        // Whoever does not wait for traffic any more sets the host up itself.
        let Some((put, in_the_way)) = put.flatten() else { return };
        if in_the_way {
            return self.after(200_000, Event::Arm { life, mark });
        }
        let until = (put + 2).min(Things::ALL.len());
        for thing in &Things::ALL[put..until] {
            self.host.borrow_mut().put(mark, *thing);
        }
        self.on(mark, |instance| {
            instance.put = until;
            instance.watched = until == Things::ALL.len();
        });
        if until < Things::ALL.len() {
            self.after(self.chance.between(100, 3_000), Event::Arm { life, mark });
        } else {
            self.kernel_talks();
        }
    }

    /// A kernel says something on a new device by itself; that is nobody's traffic.
    fn kernel_talks(self: &Rc<Self>) {
        if self.has(Planted::KernelAsks) {
            self.feed(Input::Demand);
        }
    }

    /// The record of a session is durable, or nothing is on the host any more: the one of the armed tunnel is not needed.
    pub(crate) fn forget_bare(&self, mark: Mark) {
        let bare = self.with(|daemon| {
            let process = daemon.process;
            let record = daemon.instance(mark)?.bare.take()?;
            Some((process, record))
        });
        if let Some((process, record)) = bare.flatten() {
            let mark = Some(mark);
            self.spawn(process, Kind::Withdraw { record, mark }, 0);
        }
    }

    /// Whether packets would be held.
    pub(crate) fn is_watched(&self) -> bool {
        self.watched().is_some()
    }
}
