//! The way down, as the shell walks it: goodbye, release, record, acknowledgement, and what comes behind it.

use std::rc::Rc;

use ledger::{Folder, Owed};
use lifecycle::{Acknowledged, Generation, Input};

use crate::broken::Promise;
use crate::disk::number;
use crate::host::{Mark, Things};
use crate::planted::Planted;
use crate::platter::Place;
use crate::process::Who;
use crate::shell::{Down, Restored, Shell};
use crate::tasks::Kind;
use crate::world::{Event, World};

/// The device is gone within this after the acknowledgement (lifecycle.md, section 2).
const GONE_AFTER_US: u64 = 100_000;

impl World {
    pub(crate) fn goodbye(&self, g: Generation) {
        let epoch = self.with(|daemon| daemon.of(g)?.epoch).flatten();
        // The buffer may be full, or nobody may get it.
        if let Some(epoch) = epoch
            && self.chance.once_in(2)
        {
            self.gateway.borrow_mut().end(epoch);
        }
    }

    pub(crate) fn release(self: &Rc<Self>, g: Generation) {
        let mark = self.mark(g);
        let goes_on = self.has(Planted::PumpGoesOn);
        let at_once = self.has(Planted::AckBeforeRelease);
        let found = self.with(|daemon| {
            daemon.stopping = Some(mark);
            let waited_for = !daemon.stops.is_empty();
            let life = daemon.process.life;
            let instance = daemon.instance(mark)?;
            instance.forwarding &= goes_on;
            instance.watched = false;
            instance.down = Down::Releasing { done: 0 };
            instance.released = at_once;
            if let Some(at) = instance.record {
                self.books.borrow_mut().entries[at].unacknowledged = waited_for;
            }
            Some(life)
        });
        let Some(life) = found.flatten() else { return };
        self.drop_held();
        self.after(self.release_takes(), Event::Release { life, mark });
        if at_once {
            let residue = Things::none();
            self.feed(Input::Released {
                g,
                restored: Restored { mark, residue },
            });
        }
    }

    fn release_takes(&self) -> u64 {
        if self.weather.get().slow_host && self.is_stormy() {
            self.chance.pick(&[100_000, 240_000, 260_000, 2_000_000, 8_000_000])
        } else {
            self.chance.between(100, 2_000)
        }
    }

    /// One or more steps of restoring the host.
    pub(crate) fn release_goes_on(self: &Rc<Self>, life: u32, mark: Mark) {
        if !self.is_life(life) {
            return;
        }
        let down = self.with(|daemon| daemon.instance(mark).map(|instance| instance.down));
        let Some(Down::Releasing { done }) = down.flatten() else {
            return;
        };
        let weather = self.weather.get();
        let steps = Things::RELEASED;
        let until = if self.chance.once_in(2) { done + 1 } else { steps.len() };
        for thing in &steps[done..until] {
            if weather.host_errors > 0 && self.is_stormy() && self.chance.once_in(weather.host_errors) {
                self.counts.borrow_mut().host_errors += 1;
                self.say(|| format!("{mark}: {thing} cannot be removed"));
            } else {
                self.host.borrow_mut().take(mark, *thing);
            }
            if *thing == Things::RULES {
                self.host.borrow_mut().set_down(mark);
            }
        }
        if until < steps.len() {
            self.on(mark, |instance| instance.down = Down::Releasing { done: until });
            self.after(self.release_takes(), Event::Release { life, mark });
            return;
        }
        let left = self.host.borrow().in_force(mark);
        let residue = if self.has(Planted::ResidueUnnamed) {
            Things::none()
        } else {
            left
        };
        self.host.borrow_mut().name(mark, residue);
        let g = self.with(|daemon| {
            let instance = daemon.instance(mark)?;
            instance.down = Down::Released;
            instance.released = true;
            Some(instance.g)
        });
        if let Some(g) = g.flatten() {
            self.feed(Input::Released {
                g,
                restored: Restored { mark, residue },
            });
            self.let_go(mark);
        }
    }

    pub(crate) fn record(self: &Rc<Self>, g: Generation) {
        let mark = self.mark(g);
        let found = self.with(|daemon| {
            let process = daemon.process;
            let instance = daemon.instance(mark)?;
            instance.recording = true;
            Some((process, instance.record, instance.curtailed))
        });
        let Some((process, record, curtailed)) = found.flatten() else {
            return;
        };
        self.forget_bare(mark);
        if let Some(record) = record {
            let latency = self.chance.between(100, 3_000);
            self.spawn(process, Kind::close(record, Some(mark), "user_stop"), latency);
        }
        if record.is_none() || self.has(Planted::AckBeforeRecord) {
            self.recorded(mark, Owed::Nothing);
        } else if curtailed {
            self.recorded(mark, Owed::DiskTooSlow("the budget is used up".to_owned()));
        }
    }

    /// Answers `Record`, once.
    pub(crate) fn recorded(self: &Rc<Self>, mark: Mark, owed: Owed) {
        let answered = self.with(|daemon| {
            let instance = daemon.instance(mark)?;
            let waits = instance.recording && !instance.recorded;
            instance.recorded |= waits;
            waits.then_some(instance.g)
        });
        if let Some(g) = answered.flatten() {
            self.feed(Input::Recorded { g, owed });
            self.let_go(mark);
        }
    }

    pub(crate) fn hand_over(self: &Rc<Self>, g: Generation) {
        let mark = self.mark(g);
        self.with(|daemon| {
            daemon.stopping = Some(mark);
            let instance = daemon.instance(mark)?;
            instance.forwarding = false;
            instance.watched = false;
            instance.handing_over = true;
            Some(())
        });
        self.drop_held();
        self.counts.borrow_mut().restarts += 1;
        // A manager that does not answer is the reason for the budget.
        if !self.weather.get().slow_host {
            let kept = self.can_store && self.stored.get().is_some_and(|stored| stored.mark == mark);
            self.handed_over(mark, kept);
        }
    }

    fn handed_over(self: &Rc<Self>, mark: Mark, kept: bool) {
        let answered = self.with(|daemon| {
            let instance = daemon.instance(mark)?;
            instance.handed_over = kept;
            std::mem::take(&mut instance.handing_over).then_some(instance.g)
        });
        if let Some(g) = answered.flatten() {
            self.feed(Input::HandedOver { g, kept });
        }
    }

    pub(crate) fn curtail(self: &Rc<Self>, g: Generation) {
        if self.has(Planted::NoCurtail) {
            return;
        }
        self.counts.borrow_mut().curtailed += 1;
        let mark = self.mark(g);
        let open = self.with(|daemon| {
            let instance = daemon.instance(mark)?;
            let released = instance.released;
            // A hand-over that is given up leads to a release, and that to another order to cut it short.
            if !instance.handing_over {
                instance.curtailed = true;
                instance.released = true;
            }
            Some((instance.handing_over, released))
        });
        match open.flatten() {
            Some((true, _)) => self.handed_over(mark, false),
            Some((false, false)) => {
                let residue = self.host.borrow().in_force(mark);
                self.feed(Input::Released {
                    g,
                    restored: Restored { mark, residue },
                });
            }
            Some((false, true)) | None => {}
        }
        self.recorded(mark, Owed::DiskTooSlow("the budget is used up".to_owned()));
    }

    /// Checks what an acknowledgement says, and gives it to whoever asked.
    pub(crate) fn acknowledge(self: &Rc<Self>, outcome: Acknowledged<Shell>) {
        let at = self.at.get();
        let stop = self.with(|daemon| {
            let again = std::mem::replace(&mut daemon.last_acknowledged, at) == at;
            if again && self.has(Planted::OneAckForAll) {
                return Some((daemon.ready, daemon.stopping));
            }
            let stop = daemon.stops.pop_front();
            stop.map(|_| (daemon.ready, daemon.stopping))
        });
        let Some((ready, stopping)) = stop.flatten() else {
            return self.broke(Promise::L1Budget, || {
                "an acknowledgement that nobody waits for".to_owned()
            });
        };
        match outcome {
            // Before the host was looked at, nothing is promised of it.
            Acknowledged::WasDown if ready => {
                if let Some((mark, things)) = self.forgotten_now() {
                    self.broke(Promise::L2Restored, || format!("down, but {mark} has {things}"));
                }
            }
            Acknowledged::WasDown => {}
            Acknowledged::HandedOver => {
                let stored = self.stored.get().map(|stored| stored.mark);
                if stored != stopping {
                    self.broke(Promise::L2Restored, || {
                        format!("handed over {stopping:?}, kept is {stored:?}")
                    });
                }
            }
            Acknowledged::Down { restored, owed } => {
                let Some(mark) = stopping else { return };
                self.check_restored(mark, restored);
                self.check_owed(mark, &owed);
            }
        }
        for entry in &mut self.books.borrow_mut().entries {
            if Some(entry.mark) == stopping {
                entry.unacknowledged = false;
            }
        }
    }

    /// What an instance forgot that is not on its way out.
    fn forgotten_now(&self) -> Option<(Mark, Things)> {
        let going: Vec<Mark> = self.with(|daemon| {
            let going = daemon.instances.iter().filter(|instance| instance.going);
            going.map(|instance| instance.mark).collect()
        })?;
        let host = self.host.borrow();
        let (mark, things) = host.forgotten(None)?;
        let things = if going.contains(&mark) {
            things.without(Things::BEHIND_A_DEAD_LINK)
        } else {
            things
        };
        (!things.is_none()).then_some((mark, things))
    }

    fn check_restored(&self, mark: Mark, restored: Restored) {
        let left = self.host.borrow().in_force(mark).without(restored.residue);
        if restored.mark != mark || !left.is_none() {
            self.broke(Promise::L2Restored, || {
                format!(
                    "{mark} still has {left} in force, the proof is of {} and names {}",
                    restored.mark, restored.residue
                )
            });
        }
    }

    fn check_owed(&self, mark: Mark, owed: &Owed) {
        let facts = self.with(|daemon| {
            let instance = daemon.instance(mark)?;
            Some((instance.record, instance.curtailed || instance.disk_failed))
        });
        let Some((record, excused)) = facts.flatten() else {
            return;
        };
        let books = self.books.borrow();
        let entry = record.map(|at| &books.entries[at]);
        let lie = match (owed, entry) {
            (Owed::Nothing, Some(entry)) if entry.opened => Some("something is owed"),
            (Owed::Nothing, _) => None,
            (Owed::Recorded(receipt), Some(entry)) if receipt.job() == entry.record.id => {
                let name = self.number_of(&entry.record.id.file_name());
                let folders = [
                    Folder::Due,
                    Folder::Running,
                    Folder::Waiting,
                    Folder::Failed,
                    Folder::Done,
                ];
                let disk = self.disk.borrow();
                let safe = folders.iter().any(|folder| {
                    disk.is_durable(Place {
                        folder: number(*folder),
                        name,
                        temporary: false,
                    })
                });
                (!safe).then_some("a power loss could take it")
            }
            (Owed::Recorded(_), _) => Some("it is the receipt of another"),
            (Owed::DiskTooSlow(_), _) => (!excused).then_some("the disk was not too slow"),
        };
        if let Some(lie) = lie {
            self.broke(Promise::L3Recorded, || {
                format!("{mark} is acknowledged with {owed:?}, and {lie}")
            });
        }
    }

    /// Behind the answers: the device goes.
    fn let_go(self: &Rc<Self>, mark: Mark) {
        let goes = self.with(|daemon| {
            let life = daemon.process.life;
            let instance = daemon.instance(mark)?;
            let goes = instance.recorded && instance.down == Down::Released && !instance.going;
            instance.going |= goes;
            goes.then_some(life)
        });
        if let Some(life) = goes.flatten() {
            self.after(self.chance.between(0, GONE_AFTER_US), Event::DeviceGone { life, mark });
        }
    }

    pub(crate) fn device_gone(self: &Rc<Self>, life: u32, mark: Mark) {
        if !self.is_life(life) {
            return;
        }
        if !self.has(Planted::DeviceStays) {
            self.host.borrow_mut().take(mark, Things::LINK);
        }
        if self.stored.get().is_some_and(|stored| stored.mark == mark) {
            self.stored.set(None);
        }
        let left = self.host.borrow().nameless(mark);
        if !left.is_none() {
            self.broke(Promise::L15CleanAfterStop, || format!("{mark} is gone and left {left}"));
        }
        self.with(|daemon| daemon.instances.retain(|instance| instance.mark != mark));
    }

    /// The process ends by order.
    pub(crate) fn exit(self: &Rc<Self>) {
        let Some(process) = self.running(Who::Daemon) else {
            return;
        };
        let facts = self.with(|daemon| {
            let handed_over = daemon.instances.iter().any(|instance| instance.handed_over);
            let released = daemon.instances.iter().all(|instance| instance.down == Down::Released);
            (daemon.stops.len(), handed_over, released && daemon.ready)
        });
        let Some((stops, handed_over, released)) = facts else {
            return;
        };
        if stops > 0 {
            self.broke(Promise::L1Budget, || {
                format!("the process ends with {stops} stops not acknowledged")
            });
        }
        if !handed_over {
            self.stored.set(None);
        }
        self.say(|| format!("{process} ends"));
        self.end(process);
        if handed_over {
            self.after(self.chance.between(1_000, 200_000), Event::StartDaemon);
        } else if released && let Some((mark, things)) = self.host.borrow().forgotten(None) {
            self.broke(Promise::L15CleanAfterStop, || {
                format!("the process ended and {mark} left {things}")
            });
        }
    }
}
