//! The promises that are checked after every step.

use std::rc::Rc;

use ledger::Folder;
use lifecycle::{ACK_BUDGET, State};

use crate::broken::Promise;
use crate::disk::number;
use crate::host::Things;
use crate::process::Who;
use crate::world::{Event, Workers, World};

/// How often the timer unit looks after jobs that nobody watches.
const TIMER_US: u64 = 900 * 1_000_000;

impl World {
    /// After every step.
    pub(crate) fn check(self: &Rc<Self>) {
        self.check_budget();
        self.check_sleep_ack();
        self.check_start();
        self.check_forwarding();
        self.check_held();
        self.watch_due();
    }

    fn check_budget(&self) {
        let oldest = self.with(|daemon| daemon.stops.front().copied()).flatten();
        if let Some(stop) = oldest {
            let held = self.held.get() - stop.held;
            let took = self.at.get() - stop.asked - held;
            if u128::from(took) > ACK_BUDGET.as_micros() {
                self.broke(Promise::L1Budget, || {
                    format!("a stop waits for {took} us, {:?}", self.state())
                });
            }
        }
    }

    fn check_start(&self) {
        let Some(by) = self.start_by.get() else { return };
        match self.state() {
            Some(State::Idle | State::StayDown | State::Failed(_)) if self.at.get() > by => {
                self.broke(Promise::L9WantedState, || {
                    format!("a start is not taken up, {:?}", self.state())
                });
            }
            Some(State::Idle | State::StayDown | State::Failed(_)) => {}
            Some(
                State::Starting { .. }
                | State::Armed { .. }
                | State::Up { .. }
                | State::Reasserting { .. }
                | State::Stopping { .. },
            )
            | None => self.start_by.set(None),
        }
    }

    fn check_forwarding(&self) {
        let facts = self.with(|daemon| {
            let forwarding = daemon.instances.iter().filter(|instance| instance.forwarding);
            let first = forwarding.clone().next().map(|instance| (instance.g, instance.mark));
            (first, forwarding.count(), daemon.machine.state())
        });
        let Some((first, count, state)) = facts else { return };
        let right = match (state, first) {
            (State::Up { g, .. }, Some((forwarding, mark))) => {
                let all = Things::ALL.into_iter().fold(Things::none(), Things::and);
                forwarding == g && self.host.borrow().in_force(mark) == all
            }
            (State::Reasserting { g, .. }, Some((forwarding, _))) => forwarding == g,
            (State::Up { .. }, None) => false,
            (_, first) => first.is_none(),
        };
        if !right || count > 1 {
            self.broke(Promise::L10OneForwards, || {
                format!("{count} forward, {first:?} first, {state:?}")
            });
        }
    }

    /// The path unit starts a worker whenever jobs are due, the timer one now and then when jobs wait or were left behind.
    fn watch_due(&self) {
        if self.workers == Workers::Daemon || self.unit_comes.get() || self.running(Who::Unit).is_some() {
            return;
        }
        let disk = self.disk.borrow();
        let holds = |folder: Folder| disk.names(number(folder)).next().is_some();
        let soon = if holds(Folder::Due) {
            self.chance.between(5_000, 50_000)
        } else if holds(Folder::Waiting) || holds(Folder::Running) {
            TIMER_US
        } else {
            return;
        };
        self.unit_comes.set(true);
        self.after(soon, Event::StartUnit(Who::Unit));
    }
}
